"""Clips handed on as data that others read, and dlm too: recordings, and a list of what is said.

    audiofolder   metadata.jsonl   a row a clip: file_name, text, prompt, language, speaker and
                  audio/           duration in seconds
    jsonl         clips.jsonl      the same with audio for file_name; what is no plain transcript
                  audio/           as messages with <audio> tags, and audios
    webdataset    data-000000.tar  000000-a.wav and 000000-a.json, a pair a clip

A recording that is heard whole is copied as found, out of its archive too; a span is cut out as a
wav of 16 bits, or of 24 where more is heard. The same clips make the same bytes.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile

from dlm.clips.audio import listen
from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.formats.conversations import TAG
from dlm.clips.inline import is_plain
from dlm.clips.reader import Wave
from dlm.clips.walk import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from dlm.errors import ClipError
from dlm.files import COPY_BYTES

Form = Literal["audiofolder", "jsonl", "webdataset"]
Progress = Callable[[int, int], None]
Fields = dict[str, object]

FORMS: tuple[Form, ...] = ("audiofolder", "jsonl", "webdataset")
LISTS = {"audiofolder": "metadata.jsonl", "jsonl": "clips.jsonl"}
RECORDINGS = "audio"
SHARD_CLIPS, SHARD_BYTES = 10_000, 1_000_000_000
NAME_LETTERS = 40
FULL = {"PCM_16": 1 << 15, "PCM_24": 1 << 23}  # a sample of full scale


@dataclass(frozen=True)
class Handed:
    """What was written. Some clips have no sound or a bad one; `answers` are no transcripts."""

    path: Path
    form: Form
    clips: int
    seconds: float
    recordings: int
    without_sound: int
    answers: int
    source: str  # what a document names to read it, below the folder
    unusable: int = 0


@dataclass
class _Hand:
    """What was written so far."""

    seconds: float = 0.0
    recordings: int = 0


def hand_on(
    folder: Path,
    clips: Sequence[Clip],
    form: Form,
    *,
    shard_clips: int = SHARD_CLIPS,
    progress: Progress | None = None,
) -> Handed:
    """Write clips into an empty folder. Raises ClipError for one that the form cannot hold."""
    heard = [clip for clip in clips if clip.sounds]
    for clip in heard:
        _refuse(clip, form)
    numbers = count(1)

    def told(clip: Clip) -> Clip:
        if progress:
            progress(next(numbers), len(heard))
        return clip

    hand = _Hand()
    if form == "webdataset":
        _shards(folder, map(told, heard), hand, shard_clips)
    else:
        _listed(folder, map(told, heard), hand, form)
    return Handed(
        path=folder,
        form=form,
        clips=len(heard),
        seconds=hand.seconds,
        recordings=hand.recordings,
        without_sound=len(clips) - len(heard),
        answers=sum(clip.task == "answer" for clip in heard),
        source=LISTS["jsonl"] if form == "jsonl" else "",
    )


def _refuse(clip: Clip, form: Form) -> None:
    """Refuse what would come back as something else."""
    plain, jsonl = is_plain(clip.turns), form == "jsonl"
    if not plain and not jsonl:
        what = f"it is a conversation, and {form} holds a recording and a text"
        raise ClipError(what, where=clip.place, mend="take --form jsonl")
    if jsonl and any(TAG.search(turn.text) for turn in clip.turns):
        mend = "take it out" + (", or take --form webdataset" if plain else "")
        raise ClipError("its text holds an <audio> tag", where=clip.place, mend=mend)


def _listed(folder: Path, clips: Iterator[Clip], hand: _Hand, form: Form) -> None:
    """A list, and a folder of recordings beside it, each of them once where rows may share."""
    kept: dict[Sound, tuple[str, float]] = {}
    (folder / RECORDINGS).mkdir()
    with (folder / LISTS[form]).open("x", encoding="utf-8", newline="\n") as rows:
        for clip in clips:
            for sound in clip.sounds:
                if sound not in kept or form == "audiofolder":
                    name = _name(hand.recordings, sound)
                    saved, seconds = _save(sound, folder / RECORDINGS / name)
                    kept[sound] = f"{RECORDINGS}/{saved.name}", seconds
                    hand.recordings += 1
            names, lasting = zip(*(kept[sound] for sound in clip.sounds), strict=True)
            rows.write(_json(_row(clip, form, names, sum(lasting))) + "\n")
            hand.seconds += sum(lasting)


def _shards(folder: Path, clips: Iterator[Clip], hand: _Hand, shard_clips: int) -> None:
    """One tar after the other, a recording and what is said in it side by side."""
    shards, clip = count(), next(clips, None)
    while clip is not None:
        first, size = hand.recordings, 0
        with tarfile.open(folder / f"data-{next(shards):06}.tar", "x") as shard:
            while clip is not None and hand.recordings - first < shard_clips and size < SHARD_BYTES:
                key = _name(hand.recordings, clip.sounds[0])
                saved, seconds = _save(clip.sounds[0], folder / key)
                row = _json(_row(clip, "webdataset", (), seconds)).encode()
                with saved.open("rb") as recording:
                    _add(shard, saved.name, recording, saved.stat().st_size)
                _add(shard, f"{key}.json", io.BytesIO(row), len(row))
                size += saved.stat().st_size
                saved.unlink()
                hand.recordings, hand.seconds = hand.recordings + 1, hand.seconds + seconds
                clip = next(clips, None)


def _add(shard: tarfile.TarFile, name: str, data: BinaryIO, size: int) -> None:
    """Add a file of no time and no owner: a TarInfo says so by itself."""
    about = tarfile.TarInfo(name)
    about.size = size
    shard.addfile(about, data)


def _row(clip: Clip, form: Form, names: tuple[str, ...], seconds: float) -> Fields:
    """What is known of a clip, beside its recordings."""
    known: Fields = {
        "language": clip.language,
        "speaker": clip.speaker,
        "duration": round(seconds, 6),
    }
    if form == "jsonl" and not (is_plain(clip.turns) and clip.task == "transcribe"):
        messages = [{"role": turn.role, "content": _tagged(turn)} for turn in clip.turns]
        known = {"messages": messages, "audios": list(names), **known}
    else:
        said: Fields = {"text": clip.target, "prompt": clip.turns[0].text or None}
        key = {"audiofolder": "file_name", "jsonl": "audio"}.get(form)
        known = {**({key: names[0]} if key else {}), **said, **known}
    if form == "audiofolder":
        return known  # where every row has the same columns
    return {key: value for key, value in known.items() if value is not None}


def _tagged(turn: Turn) -> str:
    return "".join(part if isinstance(part, str) else "<audio>" for part in turn.parts)


def _name(number: int, sound: Sound) -> str:
    """A name of its own for a recording, and what can be kept of the one it had."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(sound.name).stem)[:NAME_LETTERS].strip("-")
    return f"{number:06}-{plain}".strip("-")


def _save(sound: Sound, stem: Path) -> tuple[Path, float]:
    """Write a recording, or the span of one, beside `stem`: the file, and its seconds."""
    suffix = Path(sound.name).suffix.lower()
    with listen(sound) as span:
        seconds = span.samples / span.header.rate
    whole = sound.start is None and sound.end is None
    if whole and suffix in AUDIO_SUFFIXES | FOREIGN_SUFFIXES:
        copy = stem.with_name(f"{stem.name}{suffix}")
        first, left = sound.inside or (0, sound.path.stat().st_size)
        with sound.path.open("rb") as source, copy.open("xb") as target:
            source.seek(first)
            while chunk := source.read(min(left, COPY_BYTES)):
                left -= target.write(chunk)
        return copy, seconds
    cut = stem.with_name(f"{stem.name}.wav")
    _cut(sound, cut)
    return cut, seconds


def _cut(sound: Sound, copy: Path) -> None:
    """Write what a sound hears as samples of 16 bits, where those hold it, or of 24."""
    with listen(sound) as span:
        kind = "PCM_16" if all(_held(block) for block in span.blocks) else "PCM_24"
    full = FULL[kind]
    with listen(sound) as span:
        rate, channels = span.header.rate, span.header.channels
        with soundfile.SoundFile(copy, "x", rate, channels, kind) as target:
            for block in span.blocks:
                whole = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
                target.write((whole * ((1 << 31) / full)).astype(np.int32))


def _held(block: Wave) -> bool:
    """Whether 16 bits hold a block."""
    scaled = block.astype(np.float64) * FULL["PCM_16"]
    return bool((scaled == np.rint(scaled)).all() and (scaled < FULL["PCM_16"]).all())


def _json(row: Fields) -> str:
    return json.dumps(row, ensure_ascii=False)
