"""Manifests of NeMo: a clip a line, its recording a file, or lying in one of several tars.

    {"audio_filepath": "a.wav", "duration": 2.5, "text": "...", "offset": 0.5, "lang": "fr"}
    {"audio_filepath": "a.wav", "answer": "...", "source_lang": "de", "target_lang": "en"}
    {"audio_filepath": "b.wav", "duration": 4.0, "text": "...", "shard_id": 3}   in audio_3.tar

`answer` is `text` where both are there, `text_filepath` a file below the manifest. What is said in
another language than is heard is an answer, not a transcript. The tars lie beside the manifest or
where the source says, as a folder or as `audio__OP_0..3_CL_.tar`; recordings stay in them.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dlm.clips.clip import Clip, Sound
from dlm.clips.formats.columns import language_code
from dlm.clips.formats.listed import given, one_shard, take_id
from dlm.clips.formats.manifest import recordings_of, said, who
from dlm.clips.formats.rows import LISTS, Fields, first_row, local, seconds_of, suffix_of, text_of
from dlm.clips.formats.tarred import tarred
from dlm.clips.origin import Given, Ids, Origin, Shard
from dlm.clips.walk import lies_in
from dlm.errors import ClipError

LONGEST_TEXT_BYTES = 1 << 20
TRANSLATES = {"ast", "s2t_translation", "translate"}


def nemo(origin: Origin) -> list[Shard]:
    """A shard for each tar, or all of the manifest."""
    if "shard_id" in first_row(origin.root):
        return tarred(origin, clip_of)
    return one_shard(origin, _rows)


def is_nemo(root: Path) -> bool:
    """A list in JSON whose rows have an audio_filepath."""
    return suffix_of(root) in LISTS and root.is_file() and "audio_filepath" in first_row(root)


def clip_of(origin: Origin, row: Fields, sound: Sound, place: str) -> Clip:
    """What a row says of its recording, of which it may mean a part."""
    start, seconds = seconds_of(row, "offset"), seconds_of(row, "duration")
    if seconds is not None and seconds <= 0:
        raise ClipError(f"duration is {seconds:g}", mend="write how many seconds it lasts")
    if start is not None:
        sound = replace(sound, start=start, end=None if seconds is None else start + seconds)
    told = who(origin, row)
    told["language"] = _language(row, "source_lang") or told["language"]
    told["prompt"] = said(origin, row, "prompt")
    clip = origin.clip(sound, _text(origin, row), place, **told)
    if _translated(row, clip.language):
        return replace(clip, task=origin.source.task or "answer")
    return clip


def _translated(row: Fields, heard: str | None) -> bool:
    """Whether a row is to be said in another language than is heard."""
    said_in, task = _language(row, "target_lang"), text_of(row, "taskname") or text_of(row, "task")
    return task in TRANSLATES or (None not in (said_in, heard) and said_in != heard)


def _language(row: Fields, key: str) -> str | None:
    written = text_of(row, key)
    return written and (language_code(written) or written)


def _rows(origin: Origin) -> Iterator[Given]:
    return given(origin, partial(_given, origin, Ids()))


def _given(origin: Origin, ids: Ids, row: Fields, place: str) -> Iterator[Given]:
    take_id(ids, row)
    written = text_of(row, origin.source.columns.get("audio", "audio_filepath"))
    if written is None:
        raise ClipError("no audio_filepath", mend="write the path of the recording")
    yield clip_of(
        origin, row, Sound(recordings_of(origin) / local(written), written=written), place
    )


def _text(origin: Origin, row: Fields) -> str | None:
    """What is to be said: in the row, or in the file that it names."""
    if "text" not in origin.source.columns and (answer := text_of(row, "answer")):
        return answer
    text, written = said(origin, row, "text"), text_of(row, "text_filepath")
    return text if text or written is None else _text_at(origin.root.parent, written)


def _text_at(folder: Path, written: str) -> str:
    """The words of a file below the manifest; a manifest may not have any other file read."""
    path = folder / written
    if not lies_in(folder, path):
        what = f"text_filepath {written} leads out of the manifest's folder"
        raise ClipError(what, mend="put the file there, or write its words as text")
    try:
        if not path.is_file() or path.stat().st_size > LONGEST_TEXT_BYTES:
            what = f"text_filepath {written} is no file, or too long for a transcript"
            raise ClipError(what, mend="write its words as text")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"text_filepath {written} cannot be read ({error})"
        raise ClipError(what, mend="save it as UTF-8 text") from error
