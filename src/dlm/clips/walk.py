"""Which files lie below a folder, and which of them a pattern means.

    **/    any number of folders        *   anything but a slash
    **     everything below             ?   one character but a slash
    {a,b}  one of them                  the suffix is matched in any case: *.wav means A.WAV

The walk is sorted, skips what is hidden, and enters a folder once, however many links lead there.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dlm.clips.ffmpeg import installed
from dlm.errors import ClipError

MOST_BRACES = 100  # of a pattern
MOST_CHOICES, MOST_FORMS = 100_000, 1_000  # that its braces stand for: to list, and to match

AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .mp3 .opus .aiff .aif .au .caf .w64".split())
FOREIGN_SUFFIXES = frozenset(  # read where ffmpeg is installed
    ".m4a .m4b .aac .mp4 .m4v .mov .3gp .webm .mkv .mka .wma .amr .avi .flv .mpg .ape .wv".split()
)


@dataclass(frozen=True)
class Walk:
    """Everything below a folder that is not a folder, and the folders that could not be listed."""

    files: tuple[Path, ...]
    closed: tuple[Path, ...]


def walk(root: Path) -> Walk:
    """List what lies below `root`, or `root` if it is a file. Names without links win."""
    if root.is_file():
        return Walk((root,), ())
    files: list[Path] = []
    closed: list[Path] = []
    entered: set[Path] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in entered:
            continue
        entered.add(real)
        try:
            shown = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
            inside = {entry for entry in shown if entry.is_dir()}
        except OSError:
            closed.append(folder)
            continue
        files += [entry for entry in shown if entry not in inside]
        folders += [entry for entry in inside if not entry.is_symlink()]
        links += sorted(entry for entry in inside if entry.is_symlink())
    return Walk(tuple(sorted(files)), tuple(sorted(closed)))


def is_audio(path: Path) -> bool:
    """Whether a name is that of a recording which can be read on this machine."""
    suffix = path.suffix.lower()
    return suffix in AUDIO_SUFFIXES or (suffix in FOREIGN_SUFFIXES and installed())


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a path lies below a folder, wherever links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def escape(name: str) -> ClipError:
    """Why what lies outside the document's folder is not opened."""
    what = f"{name} lies outside the document's folder, and sources_policy is strict"
    return ClipError(what, mend="move it inside, or set `sources_policy: permissive`")


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns means `path`, which is relative and written with slashes."""
    return any(form.fullmatch(path) for pattern in patterns for form in _forms(pattern))


@lru_cache(maxsize=256)
def _forms(pattern: str) -> tuple[re.Pattern[str], ...]:
    """A pattern as regular expressions, one for each choice of its braces."""
    plain = expand(pattern, most=MOST_FORMS)
    return tuple(re.compile(_translate(each), re.DOTALL) for each in plain)


def expand(pattern: str, *, most: int = MOST_CHOICES) -> list[str]:
    """Every pattern that braces stand for; a brace without its partner is itself."""
    if pattern.count("{") > MOST_BRACES:
        raise _too_many(f"{MOST_BRACES} braces")
    opening = pattern.find("{")
    closing, commas = _partner(pattern, opening) if opening >= 0 else (-1, [])
    if closing < 0:
        return [pattern]
    edges = [opening, *commas, closing]
    choices = [pattern[left + 1 : right] for left, right in zip(edges, edges[1:], strict=False)]
    tails = expand(pattern[closing + 1 :], most=most)
    middles = [middle for choice in choices for middle in expand(choice, most=most)]
    if len(middles) * len(tails) > most:
        raise _too_many(f"{most:,} choices")
    return [pattern[:opening] + middle + tail for middle in middles for tail in tails]


def _too_many(what: str) -> ClipError:
    return ClipError(f"a pattern of more than {what}", mend="write several patterns")


def _partner(pattern: str, opening: int) -> tuple[int, list[int]]:
    """Where the brace at `opening` closes (-1: nowhere), and the commas that are its own."""
    depth, commas = 0, list[int]()
    for place in range(opening, len(pattern)):
        letter = pattern[place]
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return place, commas
        if letter == "," and depth == 1:
            commas.append(place)
    return -1, []


def _translate(pattern: str) -> str:
    """One pattern without braces as a regular expression.

    What follows a star is looked for once, at the first place where it is: no later one is better.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.endswith("/"):
        parts.append("**")
    runs = [""]  # of names, between one ** and the next
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part != "**":
            runs[-1] += _name(part, suffix=last) + ("" if last else "/")
        elif last:
            runs[-1] += ".+"
        elif runs[-1] or len(runs) == 1:
            runs.append("")
    return _starred(runs, "(?:[^/]+/)*")


def _name(part: str, *, suffix: bool) -> str:
    """One name; its suffix in any case."""
    stem, dot, end = part.rpartition(".") if suffix else ("", "", part)
    if not dot:
        return _starred([_letters(piece) for piece in part.split("*")], "[^/]*")
    *pieces, piece = [_letters(piece) for piece in stem.split("*")]
    first, *rest = [f"(?i:{_letters(piece)})" for piece in end.split("*")]
    return _starred([*pieces, f"{piece}\\.{first}", *rest], "[^/]*")


def _starred(pieces: list[str], star: str) -> str:
    """Pieces with anything between them."""
    first, *rest = pieces
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>{star}?{piece})" for piece in middle) + star + last


def _letters(part: str) -> str:
    """`?` and plain letters within one name."""
    return "".join("[^/]" if letter == "?" else re.escape(letter) for letter in part)
