"""Clips listed in a JSON Lines file: one object a line, `audio` (or `audio_path`) and `text`.

    {"audio": "clips/a.wav", "text": "what is said", "prompt": "optional", "language": "en"}

Paths are relative to the manifest. Blank lines are passed over; every other line is a clip or a
problem with its line number.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dlm.clips.clip import Clip, Part, Problem, Sound, Turn
from dlm.clips.sections import EMPTY_TRANSCRIPT
from dlm.clips.sources import Gathered
from dlm.errors import ClipError

PATHS = ("audio", "audio_path")


def read_manifest(path: Path) -> Gathered:
    """Every clip of a manifest. Raises ClipError when the file itself cannot be read."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        mend = "name a folder of clips, or a .jsonl file in UTF-8"
        raise ClipError(f"not a manifest ({error})", where=str(path), mend=mend) from error
    found = list(_rows(path, lines))
    clips = tuple(each for each in found if isinstance(each, Clip))
    problems = tuple(each for each in found if isinstance(each, Problem))
    return Gathered(clips, (), problems)


def _rows(path: Path, lines: list[str]) -> Iterator[Clip | Problem]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path.name}:{number}"
            try:
                yield _clip(path.parent, json.loads(line), place)
            except json.JSONDecodeError as error:
                what = f"not JSON ({error.msg})"
                yield Problem(place, what, 'write {"audio": ..., "text": ...}', fatal=True)
            except ClipError as error:
                yield Problem.of(error, place)


def _clip(folder: Path, row: object, place: str) -> Clip:
    if not isinstance(row, dict):
        raise ClipError("not an object", mend='write {"audio": ..., "text": ...}')
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    audio = next((texts[key] for key in PATHS if texts.get(key)), None)
    if audio is None:
        raise ClipError("no audio", mend="give the path of a recording as audio")
    if not texts.get("text", "").strip():
        raise ClipError(EMPTY_TRANSCRIPT, mend="write what is said as text")
    prompt = texts.get("prompt")
    asked: tuple[Part, ...] = (Sound(folder / audio, written=audio),)
    turns = (
        Turn("user", (*asked, prompt) if prompt else asked),
        Turn("assistant", (texts["text"].strip(),)),
    )
    return Clip(turns, place, "transcribe", texts.get("language"))
