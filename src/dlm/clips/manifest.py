"""Clips listed in a file: a clip for each row, in a form that is found by looking at the row.

    {"audio": "clips/a.wav", "text": "what is said"}
    {"audio": "b.flac", "start": 1.5, "end": 9, "text": "...", "prompt": "...", "language": "fr"}
    {"conversations": [...]}              turns (conversations.py)
    ytid,start_s,end_s,...,caption        MusicCaps' table (captions.py)

`audio_path` does as well as `audio`. Paths are relative to the file. Other keys are passed over;
what is wrong with a row is a problem with its line.
"""

from collections.abc import Iterator
from pathlib import Path

from dlm.clips.captions import Absent, Shelf
from dlm.clips.clip import Clip, Problem, Sound, Turn
from dlm.clips.conversations import is_conversation, refuse_tag, turns_of
from dlm.clips.rows import FORM, Fields, read_rows, seconds_of, text_of
from dlm.clips.sections import EMPTY_TRANSCRIPT
from dlm.errors import ClipError

PATHS = ("audio", "audio_path")

Given = Clip | Absent | Problem


def listed(path: Path, name: str, *, prompt: str | None) -> Iterator[Given]:
    """Every row of the file that messages call `name`; `prompt` where a row has none.

    Raises ClipError when the file cannot be read.
    """
    shelf = Shelf(path.parent) if path.suffix.lower() == ".csv" else None
    for line, row in read_rows(path):
        place = f"{name}:{line}"
        try:
            if isinstance(row, ClipError):
                raise row
            if shelf:
                yield shelf.clip(row, place, prompt)
            elif is_conversation(row):
                language = text_of(row, "language")
                yield Clip(turns_of(row, path.parent), place, "answer", language)
            else:
                yield _transcribed(row, path.parent, place, prompt)
        except ClipError as error:
            yield Problem.of(error, place)


def _transcribed(row: Fields, folder: Path, place: str, prompt: str | None) -> Clip:
    audio = next((found for key in PATHS if (found := text_of(row, key))), None)
    if audio is None:
        raise ClipError("no audio", mend=f"give the path of a recording as audio: {FORM}")
    text, asked = text_of(row, "text"), text_of(row, "prompt") or prompt
    if text is None:
        raise ClipError(EMPTY_TRANSCRIPT, mend="write what is said as text")
    for key in ("text", "prompt"):
        refuse_tag(text_of(row, key), key)
    sound = Sound(folder / audio, seconds_of(row, "start"), seconds_of(row, "end"), audio)
    parts = (sound, asked) if asked and asked.strip() else (sound,)
    turns = (Turn("user", parts), Turn("assistant", (text,)))
    return Clip(turns, place, "transcribe", text_of(row, "language"))
