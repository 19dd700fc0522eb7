"""Tars in which a sample is what has one key: its recording, and what is said in it.

    shards/000.tar
    ├── a1.wav     the key is all before the first dot of the name
    ├── a1.txt     what is said
    ├── a2.flac
    └── a2.json    or as {"text": ..., "language": ..., "speaker": ...}

The members of a sample lie together. A folder may have parts, such as train-000.tar and
test-000.tar, or folders of those names. Recordings stay in the tar. Where a sample has several,
`columns: {audio: clean.wav}` says which member is heard.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath

from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.columns import Columns
from dlm.clips.formats.parts import part_of, part_of_file, parted
from dlm.clips.formats.rows import Fields
from dlm.clips.formats.tars import Member, expanded, members, text_at
from dlm.clips.origin import Given, Origin, Shard, Skipped
from dlm.clips.walk import FOREIGN_SUFFIXES, is_audio, walk
from dlm.errors import ClipError

ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Sample = dict[str, Member]  # by what follows the key: wav, txt, json


def webdataset(origin: Origin) -> list[Shard]:
    """A shard for each tar of the part that is taken, in the order of their names."""
    shards: dict[str, list[Shard]] = {}
    for path in (file for each in expanded(origin.root) for file in _tars(each)):
        name = _named(origin, path)
        shard = Shard.of(name, partial(_rows, origin, path, name))
        shards.setdefault(part_of_file(origin.root, path), []).append(shard)
    return parted(origin, shards)


def is_webdataset(root: Path) -> bool:
    """A tar, a pattern of tars, or a folder that has one and no recordings."""
    if not root.is_dir():
        return _is_tar(root)
    try:
        above = [root, *(each for each in root.iterdir() if part_of(each.name) and each.is_dir())]
        found = [path for folder in above for path in folder.iterdir()]
    except OSError:
        return False
    return any(map(_is_tar, found)) and not any(map(is_audio, found))


def _is_tar(path: Path) -> bool:
    """Whether a name is that of a tar; one that is compressed is told when it is read."""
    return path.name.lower().endswith(ENDS)


def _tars(path: Path) -> list[Path]:
    """The tars of a folder; a tar that is not there is told when it is read."""
    if not path.is_dir():
        return [path]
    return [file for file in walk(path).files if _is_tar(file)]


def _named(origin: Origin, path: Path) -> str:
    """A tar, as the source's author would write it."""
    if path.is_relative_to(origin.root):
        return origin.named(path)
    return Path(*path.parts[-len(Path(origin.source.path).parts) :]).as_posix()


def _rows(origin: Origin, path: Path, name: str) -> Iterator[Given]:
    passed: set[int] = set()  # a number for each key
    try:
        for key, found in groupby(members(path), key=lambda member: _parts(member)[0]):
            sample = {_parts(member)[1]: member for member in found}
            try:
                _refuse_again(key, passed)
                yield _sample(origin, path, f"{name}/{key}", sample)
            except ClipError as error:
                yield Problem.of(error, f"{name}/{key}")
    except ClipError as error:
        yield Problem.of(error, name)


def _refuse_again(key: str, passed: set[int]) -> None:
    """Refuse a sample that was told already: its members do not lie together."""
    if hash(key) in passed:
        what = "the sample comes again, after others"
        raise ClipError(what, mend="put its members together: make the tar with `--sort=name`")
    passed.add(hash(key))


def _parts(member: Member) -> tuple[str, str]:
    """The key of a member, and what follows it."""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return path.with_name(stem or path.name).as_posix(), kind.lower()


def _sample(origin: Origin, path: Path, name: str, sample: Sample) -> Given:
    """A recording with its words, or why there is none."""
    words = {kind: member for kind, member in sample.items() if kind in ("txt", "json")}
    kind = _recording(origin, sample)
    if kind is None:
        foreign = any(f".{each.split('.')[-1]}" in FOREIGN_SUFFIXES for each in sample)
        return Skipped(name, "no recording" if words else "not read" if foreign else "not audio")
    if not words:
        return Skipped(f"{name}.{kind}", "no transcript")
    member = sample[kind]
    sound = Sound(path, inside=(member.first, member.size), written=f"{name}.{kind}")
    return _clip(origin, sound, path, words)


def _recording(origin: Origin, sample: Sample) -> str | None:
    """Which member of a sample is heard."""
    said = origin.source.columns.get("audio")
    kinds = [each for each in sample if is_audio(Path(f"x.{each}"))]
    if said is not None:
        kinds = [each for each in kinds if each == said.lower().lstrip(".")]
    if len(kinds) > 1:
        what = f"{len(kinds)} recordings in one sample: {', '.join(kinds)}"
        raise ClipError(what, mend=f"say which is heard with columns: {{audio: {kinds[0]}}}")
    return next(iter(kinds), None)


def _clip(origin: Origin, sound: Sound, path: Path, words: Sample) -> Clip:
    """What the sample's .txt says, or its .json, which may tell more."""
    row: Fields = {}
    if "json" in words:
        row = _fields(text_at(path, words["json"]), words["json"].name)
    if "txt" in words:
        row[origin.column("text")] = text_at(path, words["txt"])
    return Columns.of(origin, row).clip(sound, row, sound.name)


def _fields(text: str, name: str) -> Fields:
    """The object that a .json is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClipError(f"{name} is not JSON ({error})", mend="mend it") from error
    if not isinstance(value, dict):
        raise ClipError(f"{name} is not an object", mend='write {"text": ...}')
    return value
