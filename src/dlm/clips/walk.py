"""Which files lie below a folder, and which of them a pattern means.

    **/    any number of folders        *   anything but a slash
    **     everything below             ?   one character but a slash
    {a,b}  one of them                  the suffix is matched in any case: *.wav means A.WAV

The walk is sorted, skips what is hidden, and enters a folder once, however many links lead there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus"})


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


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns means `path`, which is relative and written with slashes."""
    return any(form.fullmatch(path) for pattern in patterns for form in _forms(pattern))


@lru_cache(maxsize=256)
def _forms(pattern: str) -> tuple[re.Pattern[str], ...]:
    """A pattern as regular expressions, one for each choice of its braces."""
    return tuple(re.compile(_translate(plain), re.DOTALL) for plain in expand(pattern))


def expand(pattern: str) -> list[str]:
    """Every pattern that braces stand for; a brace without its partner is itself."""
    opening = pattern.find("{")
    closing, commas = _partner(pattern, opening) if opening >= 0 else (-1, [])
    if closing < 0:
        return [pattern]
    edges = [opening, *commas, closing]
    choices = [pattern[left + 1 : right] for left, right in zip(edges, edges[1:], strict=False)]
    head, tail = pattern[:opening], expand(pattern[closing + 1 :])
    return [head + middle + end for choice in choices for middle in expand(choice) for end in tail]


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
    """One pattern without braces as a regular expression."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.endswith("/"):
        parts.append("**")
    steps: list[str] = []
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            step = ".+" if last else "(?:[^/]+/)*"
            if steps[-1:] != [step]:
                steps.append(step)
        else:
            steps.append(_suffix_in_any_case(part) if last else f"{_letters(part)}/")
    return "".join(steps)


def _suffix_in_any_case(part: str) -> str:
    stem, dot, suffix = part.rpartition(".")
    return f"{_letters(stem)}\\.(?i:{_letters(suffix)})" if dot else _letters(part)


def _letters(part: str) -> str:
    """`*`, `?` and plain letters within one name."""
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter)) for letter in part)
