"""Manifests of Lhotse: cuts, or recordings and supervisions in a folder.

    cuts.jsonl.gz           {"id", "start", "duration", "channel", "recording", "supervisions"}
    data/
    ├── recordings.jsonl.gz     {"id", "sources": [{"type": "file", "source": "a.wav"}], ...}
    └── supervisions.jsonl.gz   {"id", "recording_id", "start", "duration", "text", "speaker", ...}

A supervision that has a text is a clip. Its start counts from that of its cut, or of its recording.
Only recordings in files are read, whole and of one channel: no command is ever run.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dlm.clips.clip import Sound
from dlm.clips.formats.columns import language_code
from dlm.clips.formats.listed import given, given_by, one_shard, take_id
from dlm.clips.formats.rows import (
    LISTS,
    Fields,
    first_row,
    local,
    read_rows,
    seconds_of,
    suffix_of,
    text_of,
)
from dlm.clips.origin import Given, Ids, Origin, Shard, Skipped
from dlm.errors import ClipError

Known = dict[str, Sound | None]  # recordings by id; nothing where one cannot be heard

ALONE = "save it as a recording of its own, with one channel"
ROUNDING_SECONDS = 1e-3  # a supervision may begin this much before its recording


def lhotse(origin: Origin) -> list[Shard]:
    """All cuts of a file, or all supervisions of a folder."""
    return one_shard(origin, _supervisions if origin.root.is_dir() else _cuts)


def is_lhotse(root: Path) -> bool:
    """A list of cuts, or a folder with both manifests."""
    if root.is_dir():
        return bool(_pairs(root))
    row = first_row(root) if suffix_of(root) in LISTS and root.is_file() else {}
    kind = row.get("type")
    cut = isinstance(kind, str) and kind.endswith("Cut")
    return cut or ("supervisions" in row and "recording" in row)


def _cuts(origin: Origin) -> Iterator[Given]:
    return given(origin, partial(_of_cut, origin, Ids()))


def _of_cut(origin: Origin, ids: Ids, row: Fields, place: str) -> Iterator[Given]:
    name, kind = text_of(row, "id") or place, text_of(row, "type") or "MonoCut"
    take_id(ids, row)
    if kind not in ("MonoCut", "MultiCut"):
        raise ClipError(f"a {kind} is not read", mend="write a MonoCut for each recording")
    said = _objects(row, "supervisions")
    recording = row.get("recording")
    if not said or not isinstance(recording, dict):
        yield Skipped(name, "no recording" if said else "no transcript")
        return
    _refuse_channels(row.get("channel"), "the cut")
    sound, start = _sound(origin, recording), seconds_of(row, "start") or 0.0
    for each in said:
        yield from _of_supervision(origin, each, sound, start, place)


def _of_supervision(
    origin: Origin, row: Fields, sound: Sound, start: float, place: str
) -> Iterator[Given]:
    """A clip, where there is a text."""
    text, seconds = text_of(row, "text"), seconds_of(row, "duration")
    if text is None:
        yield Skipped(text_of(row, "id") or place, "no transcript")
        return
    first = start + (seconds_of(row, "start") or 0.0)
    if seconds is None or seconds <= 0 or first < -ROUNDING_SECONDS:
        raise ClipError("a supervision has no span", mend="mend its start and duration")
    _refuse_channels(row.get("channel"), "a supervision")
    first = max(first, 0.0)
    span = Sound(sound.path, first, first + seconds, written=sound.written)
    language = language_code(row.get("language"))
    yield origin.clip(span, text, place, language=language, speaker=text_of(row, "speaker"))


def _sound(origin: Origin, recording: Fields) -> Sound:
    """The whole of a recording. Raises ClipError for one that is no plain file."""
    sources = _objects(recording, "sources")
    if len(sources) != 1:
        raise ClipError(f"its recording has {len(sources)} sources", mend=ALONE)
    kind, written = text_of(sources[0], "type"), text_of(sources[0], "source")
    if kind != "file" or written is None:
        what = f"its recording is of type {kind}, and only files are read: no command is run"
        raise ClipError(what, mend="save the recording in a file, and list that")
    _refuse_channels(sources[0].get("channels"), "its recording")
    if recording.get("transforms"):
        mend = "save what comes of it in a file, and list that"
        raise ClipError("its recording is to be changed first (transforms)", mend=mend)
    folder = origin.root if origin.root.is_dir() else origin.root.parent
    return Sound((origin.audio or folder) / local(written), written=written)


def _refuse_channels(channels: object, whose: str) -> None:
    """Refuse several channels: which of them is meant would be lost."""
    if isinstance(channels, list) and len(channels) != 1:
        raise ClipError(f"{whose} has {len(channels)} channels", mend=ALONE)


def _objects(row: Fields, key: str) -> list[Fields]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ClipError(f"{key} is not a list of objects", mend=f'write "{key}": [{{...}}]')
    return value


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The manifests of recordings in a folder, each with that of its supervisions."""
    files = [path for path in folder.glob("*recordings*.jsonl*") if suffix_of(path) == ".jsonl"]
    others = [path.with_name(path.name.replace("recordings", "supervisions")) for path in files]
    return sorted(pair for pair in zip(files, others, strict=True) if pair[1].is_file())


def _pair(origin: Origin) -> tuple[Path, Path]:
    """The two manifests that the source means."""
    pairs, split = _pairs(origin.root), origin.source.split
    if split is not None:
        pairs = [pair for pair in pairs if split in pair[0].name]
    if len(pairs) != 1:
        names = ", ".join(pair[0].name for pair in pairs) or "none"
        what = f"there is not one manifest of recordings and supervisions, but {names}"
        raise ClipError(what, mend="say which with split: train, or name the folder of one")
    return pairs[0]


def _supervisions(origin: Origin) -> Iterator[Given]:
    """The rows of a folder: what is wrong with a recording is told of it, not of each row."""
    first, second = _pair(origin)
    known: Known = {}
    for row in read_rows(first):
        yield from given_by(row, partial(_learn, origin, known), origin.named(first))
    yield from given(origin, partial(_of_recording, origin, known, Ids()), path=second)


def _learn(origin: Origin, known: Known, row: Fields, place: str) -> Iterator[Given]:
    """Remember a recording. Raises ClipError for one that cannot be heard."""
    name = text_of(row, "id")
    if name is None or name in known:
        what = "no id" if name is None else f"the id {name} comes twice"
        raise ClipError(what, mend="give each recording an id of its own")
    known[name] = None
    known[name] = _sound(origin, row)
    return iter(())


def _of_recording(
    origin: Origin, known: Known, ids: Ids, row: Fields, place: str
) -> Iterator[Given]:
    name = text_of(row, "recording_id")
    take_id(ids, row)
    if name is None or name not in known:
        what = f"the recording {name} is not in the manifest of recordings"
        what = "no recording_id" if name is None else what
        raise ClipError(what, mend="add it there, or take the supervision out")
    sound = known[name]
    if sound is None:
        yield Skipped(name, "no recording")
    else:
        yield from _of_supervision(origin, row, sound, 0.0, place)
