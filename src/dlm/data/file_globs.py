"""Files below a folder, in order, and the glob patterns of `include` and `exclude` in a source.

    **/    any number of folders        *   anything but a slash
    **     everything below             ?   one character but a slash
    {a,b}  one of them                  the suffix matches in any case: *.wav means A.WAV

Hidden files are left out, and a folder is entered once, however many links lead to it. The suffixes
of audio files that are read are here too.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

from dlm.data.audio_decoders import is_pyav_installed
from dlm.errors import DataError

MAX_PATTERN_BRACES = 100
MAX_LISTED_EXPANSIONS = 100_000  # of the braces of a pattern that names files
MAX_MATCHED_EXPANSIONS = 1_000  # of the braces of a pattern that is matched against files

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .mp3 .mp2 .opus .aiff .aif .aifc .au .caf .w64 .sph".split()
)
PYAV_SUFFIXES = frozenset(  # read where PyAV is installed
    ".m4a .m4b .aac .mp4 .m4v .mov .3gp .webm .mkv .mka .wma .amr .avi .flv .mpg .ape .wv "
    ".spx .ts .ogv".split()
)


@dataclass(frozen=True)
class FileListing:
    """What lies below a folder.

    Attributes:
        files: everything that is not a folder, sorted.
        unreadable_folders: folders that could not be listed, sorted.
    """

    files: tuple[Path, ...]
    unreadable_folders: tuple[Path, ...]


def list_files(root: Path) -> FileListing:
    """List what lies below `root`, or `root` itself if it is a file.

    A folder that several paths lead to is listed under a path without links, if there is one.
    """
    if root.is_file():
        return FileListing((root,), ())
    files: list[Path] = []
    unreadable: list[Path] = []
    entered: set[Path] = set()
    folders, linked_folders = [root], list[Path]()
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.pop(0)
        real_path = folder.resolve()
        if real_path in entered:
            continue
        entered.add(real_path)
        try:
            entries = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
            subfolders = {entry for entry in entries if entry.is_dir()}
        except OSError:
            unreadable.append(folder)
            continue
        files += [entry for entry in entries if entry not in subfolders]
        folders += [entry for entry in subfolders if not entry.is_symlink()]
        linked_folders += sorted(entry for entry in subfolders if entry.is_symlink())
    return FileListing(tuple(sorted(files)), tuple(sorted(unreadable)))


def is_audio_file(path: Path) -> bool:
    """Return whether the suffix is that of a recording which can be read on this machine."""
    suffix = path.suffix.lower()
    return suffix in AUDIO_SUFFIXES or (suffix in PYAV_SUFFIXES and is_pyav_installed())


def find_spelling(path: Path) -> Path:
    """Return a path as the files are named: in NFC or NFD, with slashes where it has backslashes.

    macOS writes letters with accents in NFD, others in NFC; lists from Windows have backslashes.
    A path that is there, or in no spelling, is returned as it is.
    """
    text = str(path)
    if (text.isascii() and "\\" not in text) or "\0" in text or os.path.lexists(text):
        return path
    found = Path(path.anchor)
    for name in path.parts[1 if path.anchor else 0 :]:
        spellings = (name, normalize("NFC", name), normalize("NFD", name), name.replace("\\", "/"))
        found = next(filter(os.path.lexists, map(found.joinpath, spellings)), found / name)
    return found if os.path.lexists(found) else path


def is_inside_folder(folder: Path, path: Path) -> bool:
    """Return whether a path lies below a folder, links resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def make_outside_folder_error(name: str) -> DataError:
    """Make the error of a path outside the document's folder under `sources_policy: strict`."""
    return DataError(
        f"{name} lies outside the document's folder, and sources_policy is strict",
        hint="move it inside, or set `sources_policy: permissive`",
        code="data.outside_folder",
    )


def matches_glob(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a relative path, written with slashes, matches one of the patterns.

    Raises:
        DataError: the braces of a pattern stand for too many (`data.pattern_too_large`).
    """
    return any(regex.fullmatch(path) for pattern in patterns for regex in _compile_pattern(pattern))


@lru_cache(maxsize=256)
def _compile_pattern(pattern: str) -> tuple[re.Pattern[str], ...]:
    """The regular expressions of a pattern, one for each choice of its braces."""
    expanded = expand_braces(pattern, max_expansions=MAX_MATCHED_EXPANSIONS)
    return tuple(re.compile(_translate_pattern(each), re.DOTALL) for each in expanded)


def expand_braces(pattern: str, *, max_expansions: int = MAX_LISTED_EXPANSIONS) -> list[str]:
    """Return every pattern that braces stand for; a brace without its partner is literal.

    Raises:
        DataError: they are too many (`data.pattern_too_large`).
    """
    if pattern.count("{") > MAX_PATTERN_BRACES:
        raise _make_too_large_error(f"{MAX_PATTERN_BRACES} braces")
    open_index = pattern.find("{")
    close_index, commas = _find_closing_brace(pattern, open_index) if open_index >= 0 else (-1, [])
    if close_index < 0:
        return [pattern]
    edges = [open_index, *commas, close_index]
    choices = [pattern[left + 1 : right] for left, right in pairwise(edges)]
    tails = expand_braces(pattern[close_index + 1 :], max_expansions=max_expansions)
    middles = [
        middle
        for choice in choices
        for middle in expand_braces(choice, max_expansions=max_expansions)
    ]
    if len(middles) * len(tails) > max_expansions:
        raise _make_too_large_error(f"{max_expansions:,} choices")
    return [pattern[:open_index] + middle + tail for middle in middles for tail in tails]


def _make_too_large_error(what: str) -> DataError:
    what = f"a pattern of more than {what}"
    return DataError(what, hint="write several patterns", code="data.pattern_too_large")


def _find_closing_brace(pattern: str, open_index: int) -> tuple[int, list[int]]:
    """The index of the brace that closes (-1: none), and those of the commas at its level."""
    depth, commas = 0, list[int]()
    for index in range(open_index, len(pattern)):
        depth += (pattern[index] == "{") - (pattern[index] == "}")
        if depth == 0:
            return index, commas
        if pattern[index] == "," and depth == 1:
            commas.append(index)
    return -1, []


def _translate_pattern(pattern: str) -> str:
    """A pattern without braces as a regular expression.

    Each run between wildcards is matched once, at its first occurrence (an atomic group): no later
    one matches more, and patterns of many stars take no exponential time.
    """
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.endswith("/"):
        names.append("**")
    runs = [""]  # regular expressions of names, between one ** and the next
    for index, name in enumerate(names):
        is_last = index == len(names) - 1
        if name != "**":
            runs[-1] += _translate_name(name, ignore_suffix_case=is_last) + "/" * (not is_last)
        elif is_last:
            runs[-1] += ".+"
        elif runs[-1] or len(runs) == 1:
            runs.append("")
    return _join_wildcards(runs, "(?:[^/]+/)*")


def _translate_name(name: str, *, ignore_suffix_case: bool) -> str:
    """A pattern of one file or folder name; its suffix in any case, if so asked."""
    stem, dot, suffix = name.rpartition(".") if ignore_suffix_case else ("", "", name)
    if not dot:
        return _join_wildcards([_translate_chars(run) for run in name.split("*")], "[^/]*")
    *stem_runs, last_run = [_translate_chars(run) for run in stem.split("*")]
    first_run, *suffix_runs = [f"(?i:{_translate_chars(run)})" for run in suffix.split("*")]
    return _join_wildcards([*stem_runs, f"{last_run}\\.{first_run}", *suffix_runs], "[^/]*")


def _join_wildcards(runs: list[str], wildcard: str) -> str:
    """Regular expressions with a wildcard between them."""
    first, *rest = runs
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>{wildcard}?{run})" for run in middle) + wildcard + last


def _translate_chars(text: str) -> str:
    """Literal characters, and `?`, within one name."""
    return "".join("[^/]" if char == "?" else re.escape(char) for char in text)
