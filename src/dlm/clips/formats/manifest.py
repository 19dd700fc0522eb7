"""A list of clips in JSON, each row in a form that is found by looking at it: .jsonl or .json.

    {"audio": "clips/a.wav", "text": "what is said"}
    {"audio": "b.flac", "start": 1.5, "end": 9, "text": "...", "prompt": "...", "language": "fr"}
    {"conversations": [...]}              turns (conversations.py)

A column may have another of its known names, such as `audio_path` or `sentence`, or the one that
the source says. Paths are relative to the list, or to the source's folder of recordings. Other keys
are passed over.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dlm.clips.clip import Clip, Sound
from dlm.clips.formats.columns import LANGUAGES, SPEAKERS, TEXTS, language_code
from dlm.clips.formats.conversations import FORMS, is_conversation, refuse_tag, turns_of
from dlm.clips.formats.listed import given, one_shard, take_id
from dlm.clips.formats.rows import FORM, LISTS, Fields, local, seconds_of, suffix_of, text_of
from dlm.clips.origin import Given, Ids, Origin, Shard
from dlm.errors import ClipError

KNOWN = {
    "audio": ("audio", "audio_path", "audio_filepath", "path", "file", "file_name", "filename")
    + ("wav",),
    "text": (*TEXTS, "caption"),
    "language": LANGUAGES,
    "speaker": SPEAKERS,
}


def manifest(origin: Origin) -> list[Shard]:
    """One shard, in the order of its rows."""
    return one_shard(origin, _rows)


def is_manifest(root: Path) -> bool:
    """A file of JSON, whatever its rows are."""
    return suffix_of(root) in LISTS and root.is_file()


def clip_of(origin: Origin, row: Fields, place: str) -> Clip:
    """A row that names one recording. Raises ClipError for one that cannot be used."""
    written, text = said(origin, row, "audio"), said(origin, row, "text")
    if written is None:
        raise ClipError("no audio", mend=f"give the path of a recording as audio: {FORM}")
    asked = said(origin, row, "prompt")
    refuse_tag(text, column(origin, row, "text"))
    refuse_tag(asked, column(origin, row, "prompt"))
    start, end = (seconds_of(row, column(origin, row, side)) for side in ("start", "end"))
    sound = Sound(recordings_of(origin) / local(written), start, end, written=written)
    return origin.clip(sound, text, place, prompt=asked, **who(origin, row))


def who(origin: Origin, row: Fields) -> dict[str, str | None]:
    """Who speaks in a row's recording, and in which language."""
    language, speaker = said(origin, row, "language"), row.get(column(origin, row, "speaker"))
    return {
        "language": language and (language_code(language) or language),
        "speaker": str(speaker) if isinstance(speaker, int) else said(origin, row, "speaker"),
    }


def said(origin: Origin, row: Fields, ours: str) -> str | None:
    """The words of a row in a column of ours."""
    return text_of(row, column(origin, row, ours))


def column(origin: Origin, row: Fields, ours: str) -> str:
    """What a row calls a column of ours: as the source says, or the first known name it has."""
    theirs = origin.source.columns.get(ours)
    if theirs is not None:
        return theirs
    for name in KNOWN.get(ours, ()):
        if row.get(name) is not None:
            return name
    return ours


def recordings_of(origin: Origin) -> Path:
    """The folder that a list's paths are relative to."""
    return origin.audio or origin.root.parent


def _rows(origin: Origin) -> Iterator[Given]:
    return given(origin, partial(_given, origin, Ids()))


def _given(origin: Origin, ids: Ids, row: Fields, place: str) -> Iterator[Given]:
    take_id(ids, row, origin.column("id"))
    renamed = {ours: origin.column(ours) for ours in (*FORMS, "audios")}
    row = row | {ours: row[theirs] for ours, theirs in renamed.items() if theirs in row}
    yield _conversation(origin, row, place) if is_conversation(row) else clip_of(origin, row, place)


def _conversation(origin: Origin, row: Fields, place: str) -> Clip:
    turns, told = turns_of(row, recordings_of(origin)), who(origin, row)
    language = told["language"] or origin.source.language
    return Clip(turns, place, origin.source.task or "answer", language, told["speaker"])
