"""The page that `dlm check` writes: what is known of the clips, and a player for those it names.

    sums        hours, rates, languages, speakers; lengths and levels as bars
    problems    by what would mend them, with the clips that need it
    dictation   what a model heard, the worst clips first, where that was asked for

One file that asks nothing of a network and runs nothing. The beginnings of a few sounds are within
it; others are played from where they lie, if that is below the page's own folder.
"""

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import soundfile

from dlm.clips.audio import decode
from dlm.clips.audit import Audit
from dlm.clips.clip import Problem, Sound
from dlm.clips.sums import Histogram
from dlm.errors import ClipError, MissingExtra
from dlm.files import write_atomic

if TYPE_CHECKING:
    from dlm.use.dictation import Dictation

TEMPLATE = "audit.html"
EMBEDDED = 50  # clips whose sounds are within the page
PLAYED_SECONDS = 10.0  # of each: some 60 kB
PLAYED_RATE = 16_000
NAMED = 100  # clips told of one mend, and of a dictation; the rest are counted
SPEAKERS = 12  # that are told by name


@dataclass(frozen=True)
class About:
    """What a page is about."""

    document: str
    base: str
    made_at: str


@dataclass(frozen=True)
class Player:
    """A sound on the page: its address, what of it is played, and whether the page holds it."""

    address: str
    told: str = ""
    within: bool = False


@dataclass(frozen=True)
class Group:
    """Clips that the same mend helps."""

    mend: str
    fatal: bool
    problems: tuple[Problem, ...]
    more: int  # that are not told


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: its height is a share of the tallest."""

    label: str
    count: int
    height: float


def require_extra() -> None:
    """Raise MissingExtra before any work is done where the page could not be written."""
    if find_spec("jinja2") is None:
        raise MissingExtra("jinja2", "insight")


def write_page(
    page: Path,
    about: About,
    found: Audit,
    *,
    problems: Sequence[Problem],
    dictation: "Dictation | None",
) -> None:
    """Write the page. Raises StoreError where that cannot be done."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    groups = tuple(_groups(problems))
    worst = [clip for clip in dictation.clips if clip.wer][:NAMED] if dictation else []
    named = [*(each.place for each in worst), *_places(groups)]
    template = environment.from_string(files("dlm.use").joinpath(TEMPLATE).read_text("utf-8"))
    text = template.render(
        about=about,
        found=found,
        groups=groups,
        dictation=dictation,
        worst=worst,
        players=_players(named, found, page.absolute().parent),
        lengths=tuple(bars(found.lengths, "s")),
        levels=tuple(bars(found.levels, "dB")),
        speakers=dict(islice(found.speakers.items(), SPEAKERS)),
        played=PLAYED_SECONDS,
    )
    write_atomic(page, text)


def bars(histogram: Histogram, unit: str) -> Iterator[Bar]:
    """The bars of a histogram, from the first that is not empty to the last."""
    counts, most = histogram.counts, max(histogram.counts, default=0)
    full = [at for at, count in enumerate(counts) if count]
    for at in range(full[0], full[-1] + 1) if full else ():
        low, high = histogram.edges[at], histogram.edges[at + 1]
        label = f"{low:g} to {high:g} {unit}"
        if not math.isfinite(low):
            label = f"below {high:g} {unit}"
        elif not math.isfinite(high):
            label = f"above {low:g} {unit}"
        yield Bar(label, counts[at], counts[at] / most)


def _groups(problems: Iterable[Problem]) -> Iterator[Group]:
    """Problems by their mend, what stops training first."""
    found: dict[tuple[bool, str], list[Problem]] = {}
    for problem in problems:
        found.setdefault((problem.fatal, problem.mend), []).append(problem)
    for (fatal, mend), each in sorted(found.items(), key=lambda item: not item[0][0]):
        yield Group(mend, fatal, tuple(each[:NAMED]), max(len(each) - NAMED, 0))


def _places(groups: Sequence[Group]) -> Iterator[str]:
    """Where the problems are, a few of each group before the rest of any."""
    for at in range(NAMED):
        yield from (group.problems[at].where for group in groups if at < len(group.problems))


def _players(named: Iterable[str], found: Audit, folder: Path) -> dict[str, tuple[Player, ...]]:
    """Players by the place of a clip; those named first are within the page."""
    wanted = dict.fromkeys(named)
    by_place = {clip.place: clip for clip in found.facts.clips if clip.place in wanted}
    lasting = found.facts.lasting()
    players: dict[str, tuple[Player, ...]] = {}
    within = 0
    for place in wanted:
        sounds = by_place[place].sounds if place in by_place else ()
        both = zip(sounds, lasting.get(place, ()), strict=False)
        if within < EMBEDDED:
            made = [_inline(sound, seconds) for sound, seconds in both]
        else:
            made = [_linked(sound, seconds, folder) for sound, seconds in both]
        players[place] = tuple(player for player in made if player is not None)
        within += bool(players[place])
    return players


def _inline(sound: Sound, seconds: float) -> Player | None:
    """A player that holds the beginning of a sound; None if it cannot be decoded."""
    start, played = sound.start or 0.0, min(seconds, PLAYED_SECONDS)
    try:
        span = replace(sound, start=start, end=start + played)
        wave = decode(span, rate=PLAYED_RATE, resample=True)
    except ClipError:
        return None
    file = io.BytesIO()
    soundfile.write(file, wave, PLAYED_RATE, format="OGG", subtype="VORBIS")
    told = f"the first {played:.0f} s of {seconds:.1f} s" if played < seconds else ""
    address = f"data:audio/ogg;base64,{b64encode(file.getvalue()).decode()}"
    return Player(address, told, within=True)


def _linked(sound: Sound, seconds: float, folder: Path) -> Player | None:
    """A player of the file itself; None if that lies in an archive, or not below the page."""
    path = sound.path.absolute()
    if sound.inside is not None or not path.is_relative_to(folder):
        return None
    start = sound.start or 0.0
    part = "" if sound.start is None and sound.end is None else f"#t={start:g},{start + seconds:g}"
    return Player(quote(path.relative_to(folder).as_posix()) + part)
