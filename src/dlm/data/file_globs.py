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

from dlm.data.audio_decoders import is_pyav_installed
from dlm.errors import DataError

MAX_PATTERN_BRACES = 100  # of a pattern
MAX_BRACE_EXPANSIONS, MAX_MATCH_EXPANSIONS = (
    100_000,
    1_000,
)  # that its braces stand for: to list, and to match

AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .mp3 .opus .aiff .aif .au .caf .w64".split())
PYAV_SUFFIXES = frozenset(  # read where PyAV is installed
    ".m4a .m4b .aac .mp4 .m4v .mov .3gp .webm .mkv .mka .wma .amr .avi .flv .mpg .ape .wv".split()
)


@dataclass(frozen=True)
class FileListing:
    """Everything below a folder that is not a folder, and the folders that could not be listed."""

    files: tuple[Path, ...]
    unreadable_folders: tuple[Path, ...]


def list_files(root: Path) -> FileListing:
    """List what lies below `root`, or `root` if it is a file. Names without links win."""
    if root.is_file():
        return FileListing((root,), ())
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
    return FileListing(tuple(sorted(files)), tuple(sorted(closed)))


def is_audio_file(path: Path) -> bool:
    """Whether a name is that of a recording which can be read on this machine."""
    suffix = path.suffix.lower()
    return suffix in AUDIO_SUFFIXES or (suffix in PYAV_SUFFIXES and is_pyav_installed())


def is_inside_folder(folder: Path, path: Path) -> bool:
    """Whether a path lies below a folder, wherever links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def make_outside_folder_error(name: str) -> DataError:
    """Why what lies outside the document's folder is not opened."""
    what = f"{name} lies outside the document's folder, and sources_policy is strict"
    return DataError(what, hint="move it inside, or set `sources_policy: permissive`")


def matches_glob(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns means `path`, which is relative and written with slashes."""
    return any(form.fullmatch(path) for pattern in patterns for form in _compile_pattern(pattern))


@lru_cache(maxsize=256)
def _compile_pattern(pattern: str) -> tuple[re.Pattern[str], ...]:
    """A pattern as regular expressions, one for each choice of its braces."""
    plain = expand_braces(pattern, max_expansions=MAX_MATCH_EXPANSIONS)
    return tuple(re.compile(_translate_pattern(each), re.DOTALL) for each in plain)


def expand_braces(pattern: str, *, max_expansions: int = MAX_BRACE_EXPANSIONS) -> list[str]:
    """Every pattern that braces stand for; a brace without its partner is itself."""
    if pattern.count("{") > MAX_PATTERN_BRACES:
        raise _make_too_many_error(f"{MAX_PATTERN_BRACES} braces")
    opening = pattern.find("{")
    closing, commas = _find_closing_brace(pattern, opening) if opening >= 0 else (-1, [])
    if closing < 0:
        return [pattern]
    edges = [opening, *commas, closing]
    choices = [pattern[left + 1 : right] for left, right in zip(edges, edges[1:], strict=False)]
    tails = expand_braces(pattern[closing + 1 :], max_expansions=max_expansions)
    middles = [
        middle
        for choice in choices
        for middle in expand_braces(choice, max_expansions=max_expansions)
    ]
    if len(middles) * len(tails) > max_expansions:
        raise _make_too_many_error(f"{max_expansions:,} choices")
    return [pattern[:opening] + middle + tail for middle in middles for tail in tails]


def _make_too_many_error(what: str) -> DataError:
    return DataError(f"a pattern of more than {what}", hint="write several patterns")


def _find_closing_brace(pattern: str, open_index: int) -> tuple[int, list[int]]:
    """Where the brace at `opening` closes (-1: nowhere), and the commas that are its own."""
    depth, commas = 0, list[int]()
    for place in range(open_index, len(pattern)):
        letter = pattern[place]
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return place, commas
        if letter == "," and depth == 1:
            commas.append(place)
    return -1, []


def _translate_pattern(pattern: str) -> str:
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
            runs[-1] += _translate_path_part(part, ignore_suffix_case=last) + ("" if last else "/")
        elif last:
            runs[-1] += ".+"
        elif runs[-1] or len(runs) == 1:
            runs.append("")
    return _join_wildcards(runs, "(?:[^/]+/)*")


def _translate_path_part(path_part: str, *, ignore_suffix_case: bool) -> str:
    """One name; its suffix in any case."""
    stem, dot, end = path_part.rpartition(".") if ignore_suffix_case else ("", "", path_part)
    if not dot:
        return _join_wildcards([_translate_chars(piece) for piece in path_part.split("*")], "[^/]*")
    *pieces, piece = [_translate_chars(piece) for piece in stem.split("*")]
    first, *rest = [f"(?i:{_translate_chars(piece)})" for piece in end.split("*")]
    return _join_wildcards([*pieces, f"{piece}\\.{first}", *rest], "[^/]*")


def _join_wildcards(pieces: list[str], wildcard_regex: str) -> str:
    """Pieces with anything between them."""
    first, *rest = pieces
    if not rest:
        return first
    *middle, last = rest
    return (
        first + "".join(f"(?>{wildcard_regex}?{piece})" for piece in middle) + wildcard_regex + last
    )


def _translate_chars(text: str) -> str:
    """`?` and plain letters within one name."""
    return "".join("[^/]" if letter == "?" else re.escape(letter) for letter in text)
