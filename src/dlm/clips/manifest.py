"""Clips listed in a JSON Lines file: one object a line, `audio` (or `audio_path`) and `text`.

    {"audio": "clips/a.wav", "text": "what is said"}
    {"audio": "b.flac", "start": 1.5, "end": 9, "text": "...", "prompt": "...", "language": "fr"}

Paths are relative to the file. Blank lines and other keys are passed over; every other line is a
row or a problem with its line number.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.clip import Problem, Sound
from dlm.clips.sections import EMPTY_TRANSCRIPT
from dlm.errors import ClipError

SUFFIX = ".jsonl"
PATHS = ("audio", "audio_path")
FORM = 'write {"audio": ..., "text": ...}'


@dataclass(frozen=True)
class Listed:
    """One line: a sound and what is said in it."""

    place: str
    sound: Sound
    text: str
    prompt: str | None
    language: str | None


def read_rows(path: Path, name: str) -> Iterator[Listed | Problem]:
    """Every row of the file that messages call `name`. Raises ClipError when it cannot be read."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"not a list of clips ({error})", mend="save it as UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{name}:{number}"
            try:
                yield _listed(path.parent, json.loads(line), place)
            except (ValueError, RecursionError) as error:
                yield Problem(place, f"not JSON ({error})", FORM, fatal=True)
            except ClipError as error:
                yield Problem.of(error, place)


def _listed(folder: Path, row: object, place: str) -> Listed:
    if not isinstance(row, dict):
        raise ClipError("not an object", mend=FORM)
    audio = next((found for key in PATHS if (found := _text(row, key))), None)
    if audio is None:
        raise ClipError("no audio", mend="give the path of a recording as audio")
    text = _text(row, "text")
    if text is None:
        raise ClipError(EMPTY_TRANSCRIPT, mend="write what is said as text")
    sound = Sound(folder / audio, _seconds(row, "start"), _seconds(row, "end"), audio)
    return Listed(place, sound, text, _text(row, "prompt"), _text(row, "language"))


def _text(row: dict[str, object], key: str) -> str | None:
    """The words under a key, without the blanks around them; None where there are none."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ClipError(f"{key} is not text", mend=f'write "{key}" and a text in quotes')
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise ClipError(f"{key} holds what is no character", mend="write it as UTF-8 text")
    return value.strip() or None


def _seconds(row: dict[str, object], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ClipError(f"{key} is not a number of seconds", mend=f'write "{key}": 1.5')
    return float(value)
