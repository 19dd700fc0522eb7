"""What lies in a tar, and where, so that it is heard without being unpacked.

    shards/{000..002}.tar    three tars, expanded
    x.tar    ├── a.wav       Member: its name, its first byte in x.tar, and how many there are
             ├── a.txt
             └── ../b.wav    refused: a member that leads out, a link, a device

Only headers are read; a tar that is compressed or cut short is refused with the mend.

Tars in which a sample is what has one key: its recording, and what is said in it.

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
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath

from dlm.data.file_globs import PYAV_SUFFIXES, expand_braces, is_audio_file, list_files
from dlm.data.readers.base import (
    ReaderItem,
    SkippedItem,
    SourceContext,
    SourceShard,
    detect_file_split,
    detect_split,
    select_split_shards,
)
from dlm.data.readers.records import ColumnMapping, SourceRecord
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

NUMBER_RANGE_RE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
MAX_TARS = 100_000  # of one pattern
MAX_MEMBER_TEXT_BYTES = 1 << 20  # bytes
TAR_BLOCK_BYTES = 512
COMPRESSION_MAGIC = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
REMAKE_TAR_HINT = "make the tar again of plain files, with `tar --sort=name -cf`"
RECOPY_TAR_HINT = "copy it again"


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar, and where in it its bytes lie."""

    name: str
    offset: int
    size: int


def iter_tar_members(path: Path) -> Iterator[TarMember]:
    """Every file in a tar, in order. Raises ClipError for a tar that is not to be trusted."""
    try:
        _require_plain_tar(path)
        with _StreamingTarFile(path, "r") as tar:
            size = path.stat().st_size
            while (entry := tar.next()) is not None:
                tar.members.clear()
                if not entry.isdir():
                    yield _make_tar_member(entry, size)
            _require_tar_end(path, tar.offset)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("the tar is not there", hint="put it there, or mend the path") from error
    except OSError as error:
        raise DataError("the tar cannot be read", hint="allow it to be read") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(
            f"it is no tar, or a damaged one ({error})", hint=RECOPY_TAR_HINT
        ) from error


def read_member_text(path: Path, member: TarMember) -> str:
    """The words of a member, without the blanks around them."""
    if member.size > MAX_MEMBER_TEXT_BYTES:
        what = f"{member.name} is too long for a transcript ({member.size:,} bytes)"
        raise DataError(what, hint="cut it, or take it out")
    with path.open("rb") as file:
        file.seek(member.offset)
        words = file.read(member.size)
    try:
        return words.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        what = f"{member.name} is not UTF-8 (byte {error.start + 1})"
        raise DataError(what, hint="save it as UTF-8") from error


def expand_tar_pattern(pattern: Path) -> list[Path]:
    """The paths that braces stand for, such as {000..010} or {a,b}; a path that is there, itself.

    Numbers are as wide as the first of them is written.
    """
    if pattern.exists():
        return [pattern]
    written = NUMBER_RANGE_RE.sub(_expand_number_range, str(pattern))
    return [Path(each) for each in expand_braces(written)]


class _StreamingTarFile(tarfile.TarFile):
    """A tar that does not keep the members that were passed."""

    members: list[tarfile.TarInfo]


def _require_plain_tar(path: Path) -> None:
    """Refuse what is no plain tar, before a pipe is waited for."""
    if path.exists() and not path.is_file():
        raise DataError("it is not a regular file", hint="name a .tar")
    with path.open("rb") as file:
        head = file.read(max(map(len, COMPRESSION_MAGIC)))
    for magic, (kind, program) in COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            what = f"the tar is compressed ({kind}), and a recording in it cannot be found"
            raise DataError(what, hint=f"unpack it: `{program} {path.name}`")


def _make_tar_member(entry: tarfile.TarInfo, tar_size: int) -> TarMember:
    """A file of the tar, if it is one and lies within."""
    shown = entry.name.encode("utf-8", "backslashreplace").decode()
    name = PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.name:
        raise DataError(f"its member {shown} leads out of it", hint=REMAKE_TAR_HINT)
    if not entry.isreg() or entry.issparse():
        kind = "a link" if entry.issym() or entry.islnk() else "a device, a pipe or sparse"
        raise DataError(f"its member {shown} is no plain file but {kind}", hint=REMAKE_TAR_HINT)
    if shown != entry.name:
        raise DataError(f"the name of its member {shown} is not UTF-8", hint=REMAKE_TAR_HINT)
    if not 0 <= entry.size <= tar_size - entry.offset_data:
        left = max(tar_size - entry.offset_data, 0)
        what = f"it is cut short: its member {shown} has {entry.size} bytes, and {left} are there"
        raise DataError(what, hint=RECOPY_TAR_HINT)
    return TarMember(str(name), entry.offset_data, entry.size)


def _require_tar_end(path: Path, end: int) -> None:
    """Refuse a tar that goes on where its members end: a header there was damaged."""
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(TAR_BLOCK_BYTES)):
            raise DataError(f"it is damaged at byte {end}", hint=RECOPY_TAR_HINT)


def _expand_number_range(match: re.Match[str]) -> str:
    """A range of numbers, as choices between braces."""
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_TARS:
        what = f"{match[0]} stands for no tar, or for too many"
        raise DataError(what, hint="write it as {000..010}")
    return "{" + ",".join(f"{number:0{len(match[1])}}" for number in range(first, last + 1)) + "}"


TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

TarSample = dict[str, TarMember]  # by what follows the key: wav, txt, json


def list_webdataset_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each tar of the part that is taken, in the order of their names."""
    shards: dict[str, list[SourceShard]] = {}
    for path in (file for each in expand_tar_pattern(context.root) for file in _list_tars(each)):
        name = _format_tar_path(context, path)
        shard = SourceShard.from_iterable(name, partial(_read_sample_tar, context, path, name))
        shards.setdefault(detect_file_split(context.root, path), []).append(shard)
    return select_split_shards(context, shards)


def is_webdataset(root: Path) -> bool:
    """A tar, a pattern of tars, or a folder that has one and no recordings."""
    if not root.is_dir():
        return _is_tar(root)
    try:
        above = [
            root,
            *(each for each in root.iterdir() if detect_split(each.name) and each.is_dir()),
        ]
        found = [path for folder in above for path in folder.iterdir()]
    except OSError:
        return False
    return any(map(_is_tar, found)) and not any(map(is_audio_file, found))


def _is_tar(path: Path) -> bool:
    """Whether a name is that of a tar; one that is compressed is told when it is read."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def _list_tars(path: Path) -> list[Path]:
    """The tars of a folder; a tar that is not there is told when it is read."""
    if not path.is_dir():
        return [path]
    return [file for file in list_files(path).files if _is_tar(file)]


def _format_tar_path(context: SourceContext, path: Path) -> str:
    """A tar, as the source's author would write it."""
    if path.is_relative_to(context.root):
        return context.to_display_path(path)
    return Path(*path.parts[-len(Path(context.source.path).parts) :]).as_posix()


def _read_sample_tar(context: SourceContext, path: Path, name: str) -> Iterator[ReaderItem]:
    passed: set[int] = set()  # a number for each key
    try:
        for key, found in groupby(
            iter_tar_members(path), key=lambda member: _split_member_name(member)[0]
        ):
            sample = {_split_member_name(member)[1]: member for member in found}
            try:
                _require_new_key(key, passed)
                yield _parse_sample(context, path, f"{name}/{key}", sample)
            except DataError as error:
                yield Issue.from_error(error, f"{name}/{key}")
    except DataError as error:
        yield Issue.from_error(error, name)


def _require_new_key(key: str, seen_keys: set[int]) -> None:
    """Refuse a sample that was told already: its members do not lie together."""
    if hash(key) in seen_keys:
        what = "the sample comes again, after others"
        raise DataError(what, hint="put its members together: make the tar with `--sort=name`")
    seen_keys.add(hash(key))


def _split_member_name(member: TarMember) -> tuple[str, str]:
    """The key of a member, and what follows it."""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return path.with_name(stem or path.name).as_posix(), kind.lower()


def _parse_sample(context: SourceContext, path: Path, name: str, sample: TarSample) -> ReaderItem:
    """A recording with its words, or why there is none."""
    words = {kind: member for kind, member in sample.items() if kind in ("txt", "json")}
    kind = _select_audio_extension(context, sample)
    if kind is None:
        foreign = any(f".{each.split('.')[-1]}" in PYAV_SUFFIXES for each in sample)
        return SkippedItem(
            name, "no recording" if words else "not read" if foreign else "not audio"
        )
    if not words:
        return SkippedItem(f"{name}.{kind}", "no transcript")
    member = sample[kind]
    sound = AudioSegment(
        path, byte_range=(member.offset, member.size), display_path=f"{name}.{kind}"
    )
    return _make_sample_example(context, sound, path, words)


def _select_audio_extension(context: SourceContext, sample: TarSample) -> str | None:
    """Which member of a sample is heard."""
    said = context.source.columns.get("audio")
    kinds = [each for each in sample if is_audio_file(Path(f"x.{each}"))]
    if said is not None:
        kinds = [each for each in kinds if each == said.lower().lstrip(".")]
    if len(kinds) > 1:
        what = f"{len(kinds)} recordings in one sample: {', '.join(kinds)}"
        raise DataError(what, hint=f"say which is heard with columns: {{audio: {kinds[0]}}}")
    return next(iter(kinds), None)


def _make_sample_example(
    context: SourceContext, segment: AudioSegment, path: Path, text_members: TarSample
) -> Example:
    """What the sample's .txt says, or its .json, which may tell more."""
    row: SourceRecord = {}
    if "json" in text_members:
        row = _parse_json_object(
            read_member_text(path, text_members["json"]), text_members["json"].name
        )
    if "txt" in text_members:
        row[context.column_name("text")] = read_member_text(path, text_members["txt"])
    return ColumnMapping.from_names(context, row).make_example(segment, row, segment.name)


def _parse_json_object(text: str, name: str) -> SourceRecord:
    """The object that a .json is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON ({error})", hint="mend it") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} is not an object", hint='write {"text": ...}')
    return value
