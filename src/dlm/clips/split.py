"""Which clips are learned from and which are kept to be tested on.

    split_by   recording   all clips of one recording stay together
               speaker     and all of one speaker; where none is known, of one recording
               content     and all of recordings with the same samples, in whatever format

A group draws its lot from the seed and from what it is of: what its clips say and its file's name,
its speaker, or its samples. So adding, moving or re-encoding other clips leaves it on its side.
Groups that meet in one clip are one: nothing tested on has been heard in training.
"""

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dlm.clips.clip import Clip, Sound
from dlm.clips.heard import Recording
from dlm.clips.measure import measure
from dlm.clips.sources import Gathered
from dlm.document.settings import SplitBy, Training
from dlm.document.sources import Source
from dlm.errors import ClipError

ENOUGH_CLIPS = 10  # from here on a share above zero keeps at least one recording
LOTS = 1 << 64

Clips = tuple[Clip, ...]
Group = list[Clip]
Lot = tuple[int, str]
Contents = Mapping[Recording, str]  # the sha256 of a recording's samples


@dataclass(frozen=True)
class Of:
    """What clips are of, and how that draws its lot."""

    by: SplitBy
    seed: int
    known: Contents = field(default_factory=dict)

    def keys(self, clip: Clip) -> list[Hashable]:
        """All that a clip is of; what is asked about a speaker's span stays with the speaker."""
        recordings = [sound.recording for sound in clip.sounds]
        if self.by == "content":
            return [self.known[each] for each in recordings]
        if self.by == "speaker":
            return [*([clip.speaker] if clip.speaker else recordings), *clip.sounds]
        return [*recordings]

    def number(self, clip: Clip) -> int:
        """The lot of one clip."""
        if self.by == "content":
            return min(self._drawn(self.known[each.recording]) for each in clip.sounds)
        if self.by == "speaker" and clip.speaker:
            return self._drawn(clip.speaker)
        sounds = [(_file(sound), sound.start, sound.end) for sound in clip.sounds]
        return self._drawn(sounds, [turn.text for turn in clip.turns if turn.role != "system"])

    def _drawn(self, *of: object) -> int:
        content = json.dumps([self.seed, *of]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def sides(
    gathered: Gathered, asked: Training, known: Contents | None = None
) -> tuple[Clips, Clips]:
    """What is learned from and what is kept, each in the order given, as a document asks.

    Of a source that is kept every clip is, and what belongs to them in other sources is in neither.
    `known` are contents that need not be read again.
    """
    clips, by = gathered.clips, asked.split_by
    of = Of(by, asked.seed, contents(clips, known or {}) if by == "content" else {})
    if isinstance(asked.held_out, Source):
        return _apart(clips, gathered.held_out, of), gathered.held_out
    return split(clips, asked.held_out, of)


def split(clips: Sequence[Clip], held_out: float | int, of: Of) -> tuple[Clips, Clips]:
    """Part `clips` into (learn, held), each in the order given. Text clips always learn.

    A whole number keeps as many clips, as near as whole groups come to it; a share keeps about as
    much. At least one group is left to learn from.
    """
    lots = [(_lot(group, of), group) for group in _groups(clips, of)]
    lots.sort(key=lambda each: each[0])
    kept = _count(lots, int(held_out)) if held_out >= 1 else _share(lots, held_out)
    held = {id(clip) for group in kept for clip in group}
    learn = tuple(clip for clip in clips if id(clip) not in held)
    return learn, tuple(clip for clip in clips if id(clip) in held)


def _apart(clips: Sequence[Clip], kept: Sequence[Clip], of: Of) -> Clips:
    """The clips that have nothing in common with those that are kept."""
    held = {id(clip) for clip in kept}
    for group in _groups(clips, of):
        if any(id(clip) in held for clip in group):
            held.update(map(id, group))
    return tuple(clip for clip in clips if id(clip) not in held)


def _count(lots: list[tuple[Lot, Group]], wanted: int) -> list[Group]:
    """The first groups that make up `wanted` clips; one too large for the rest is passed over."""
    groups = [group for _, group in lots]
    kept: list[Group] = []
    for group in groups:
        if len(group) <= wanted and len(kept) < len(groups) - 1:
            kept.append(group)
            wanted -= len(group)
    return kept or sorted(groups[: len(groups) - 1], key=len)[:1]


def _share(lots: list[tuple[Lot, Group]], share: float) -> list[Group]:
    """The groups whose lot falls below `share`: each on its own, whatever the others are."""
    kept = [group for (lot, _), group in lots if lot < share * LOTS]
    if not kept and share > 0 and sum(len(group) for _, group in lots) >= ENOUGH_CLIPS:
        kept = [lots[0][1]]
    return kept[: len(lots) - 1]


def _groups(clips: Iterable[Clip], of: Of) -> list[Group]:
    """Clips with sound, those that are of one thing together."""
    numbers: dict[int, int] = {}  # by the hash of what clips are of, which takes less than that
    leader: list[int] = []
    heard: list[tuple[int, Clip]] = []

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for clip in clips:
        if clip.sounds:
            found = [numbers.setdefault(hash(key), len(numbers)) for key in of.keys(clip)]
            leader += range(len(leader), len(numbers))
            heard.append((found[0], clip))
            for other in found[1:]:
                leader[lead(other)] = lead(found[0])
    groups: dict[int, Group] = {}
    for number, clip in heard:
        groups.setdefault(lead(number), []).append(clip)
    return list(groups.values())


def _lot(group: Group, of: Of) -> Lot:
    """Where a group stands in the draw: by its transcripts, so that a new question moves nothing.

    The second part orders equal lots, those of files with one name and one transcript.
    """
    spoken = [clip for clip in group if clip.task == "transcribe"] or group
    return min((of.number(clip), clip.sounds[0].name) for clip in spoken)


def _file(sound: Sound) -> str:
    """A recording's name without its folders, in an archive too."""
    return Path(sound.name).name if sound.inside else sound.path.name


def contents(clips: Iterable[Clip], known: Contents) -> Contents:
    """The content of every recording; one that cannot be heard is told by its name alone."""
    recordings = {sound.recording: sound for clip in clips for sound in clip.sounds}
    left = [sound for recording, sound in recordings.items() if recording not in known]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = zip(left, pool.map(_content, left), strict=True)
        return {**known, **{sound.recording: content for sound, content in found}}


def _content(sound: Sound) -> str:
    try:
        return measure(Sound(sound.path, inside=sound.inside)).content
    except ClipError:
        return sound.name
