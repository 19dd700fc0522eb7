"""Webdataset: tars of samples, each a recording and its text under one key.

    shards/{000..010}.tar, or a folder of tars; splits by name: train-000.tar, test/000.tar
    └── 000.tar
        ├── a1.wav     the key is everything before the first dot that no number follows
        ├── a1.txt     what is said
        ├── a2.flac
        ├── ._a2.json  what macOS adds to a tar: skipped and counted
        ├── a2.json    or as {"text": ..., "language": ..., "speaker": ...}
        └── ../b.wav   a member that leads out, a link or a device: the tar is refused

Only headers are read; recordings stay in the tar and are decoded from there. The members of a
sample must be together. Where a sample has several recordings, `columns: {audio: clean.wav}` says
which is used. A tar that is compressed, cut short or damaged is an error.
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
    decode_text,
    detect_file_split,
    detect_split,
    select_split_shards,
)
from dlm.data.readers.columns import ColumnMapping, SourceRecord
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
COMPRESSION_MAGIC = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
NUMBER_RANGE_RE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
KEY_RE = re.compile(r"[^.]*(?:\.\d[\d_ -]*(?=\.))*")  # talk_11.708_13.970 of talk_11.708_13.970.wav
APPLE_DOUBLE_PREFIX = "._"  # of the attributes of a file, which macOS packs before it
MAX_TARS = 100_000  # of one pattern
MAX_MEMBER_TEXT_BYTES = 1 << 20
TAR_BLOCK_BYTES = 512
REMAKE_TAR_HINT = "make the tar again of plain files, with `tar --sort=name -cf`"
RECOPY_TAR_HINT = "copy it again"


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar.

    Attributes:
        name: its path in the tar.
        offset: its first byte in the tar.
        size: its bytes.
    """

    name: str
    offset: int
    size: int


TarSample = dict[str, TarMember]  # by what follows the key: wav, txt, json


def is_webdataset(root: Path) -> bool:
    """Whether a path is a tar, a pattern of tars, or a folder with one and without recordings."""
    if not root.is_dir():
        return _is_tar(root)
    try:
        split_dirs = [path for path in root.iterdir() if detect_split(path.name) and path.is_dir()]
        paths = [path for folder in (root, *split_dirs) for path in folder.iterdir()]
    except OSError:
        return False
    return any(map(_is_tar, paths)) and not any(map(is_audio_file, paths))


def list_webdataset_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each tar, in the order of their names. Raises DataError (`source.*`)."""
    shards: dict[str, list[SourceShard]] = {}
    for path in expand_tar_pattern(context.root):
        # a tar that is not there is an issue when it is read
        for tar in filter(_is_tar, list_files(path).files) if path.is_dir() else [path]:
            name = _format_tar_path(context, tar)
            shard = SourceShard.from_iterable(name, partial(_read_sample_tar, context, tar, name))
            shards.setdefault(detect_file_split(context.root, tar), []).append(shard)
    return select_split_shards(context, shards)


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TAR_SUFFIXES)


def _format_tar_path(context: SourceContext, path: Path) -> str:
    """A tar, as the source's author would write it."""
    if path.is_relative_to(context.root):
        return context.to_display_path(path)
    return Path(*path.parts[-len(Path(context.source.path).parts) :]).as_posix()


def expand_tar_pattern(pattern: Path) -> list[Path]:
    """Expand braces such as {000..010} or {a,b}; numbers are as wide as the first is written.

    Returns:
        the paths, or the pattern itself where a file of that name is there.

    Raises:
        DataError: a range is empty, or has over 100,000 numbers (`source.bad_pattern`).
    """
    if pattern.exists():
        return [pattern]
    expanded = expand_braces(NUMBER_RANGE_RE.sub(_expand_number_range, str(pattern)))
    return [Path(path) for path in expanded]


def _expand_number_range(match: re.Match[str]) -> str:
    """{08..10} as choices between braces: {08,09,10}."""
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_TARS:
        what = f"{match[0]} stands for no tar, or for too many"
        raise DataError(what, hint="write it as {000..010}", code="source.bad_pattern")
    return "{" + ",".join(f"{number:0{len(match[1])}}" for number in range(first, last + 1)) + "}"


def iter_tar_members(path: Path) -> Iterator[TarMember]:
    """Yield every file in a tar, in order.

    Raises:
        DataError: the tar is not there, compressed, cut short or damaged, or a member is a link, a
            device, or leads out of it (`source.*`).
    """
    try:
        _require_plain_tar(path)
        with _StreamingTarFile(path, "r") as tar:
            tar_bytes = path.stat().st_size
            while (entry := tar.next()) is not None:
                tar.members.clear()
                if not entry.isdir():
                    yield _make_tar_member(entry, tar_bytes)
            _require_tar_end(path, tar.offset)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "put it there, or correct the path"
        raise DataError("the tar is not there", hint=hint, code="source.not_found") from error
    except OSError as error:
        hint = "allow it to be read"
        raise DataError("the tar cannot be read", hint=hint, code="source.unreadable") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        what = f"it is not a tar, or it is damaged ({error})"
        raise DataError(what, hint=RECOPY_TAR_HINT, code="source.damaged") from error


class _StreamingTarFile(tarfile.TarFile):
    """A tar whose list of members may be cleared, so that memory does not grow with it."""

    members: list[tarfile.TarInfo]


def _require_plain_tar(path: Path) -> None:
    """Refuse what is no plain tar; a pipe would be waited for."""
    if path.exists() and not path.is_file():
        hint = "name a .tar"
        raise DataError("it is not a regular file", hint=hint, code="source.not_a_file")
    with path.open("rb") as file:
        head = file.read(max(map(len, COMPRESSION_MAGIC)))
    for magic, (kind, program) in COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            what = f"the tar is compressed ({kind}), and a recording in it cannot be found"
            hint = f"unpack it: `{program} {path.name}`"
            raise DataError(what, hint=hint, code="source.compressed")


def _make_tar_member(entry: tarfile.TarInfo, tar_bytes: int) -> TarMember:
    """A file of the tar, if it is one and its bytes are there."""
    shown = entry.name.encode("utf-8", "backslashreplace").decode()
    name = PurePosixPath(entry.name)
    what = ""
    if name.is_absolute() or ".." in name.parts or "\\" in entry.name:
        what = f"its member {shown} leads out of it"
    elif not entry.isreg() or entry.issparse():
        kind = "a link" if entry.issym() or entry.islnk() else "a device, a pipe or sparse"
        what = f"its member {shown} is not a regular file but {kind}"
    elif shown != entry.name:
        what = f"the name of its member {shown} is not UTF-8"
    if what:
        raise DataError(what, hint=REMAKE_TAR_HINT, code="source.bad_tar_member")
    num_left = tar_bytes - entry.offset_data
    if not 0 <= entry.size <= num_left:
        what = f"its member {shown} has {entry.size} bytes, and {max(num_left, 0)} are there"
        raise DataError(f"it is cut short: {what}", hint=RECOPY_TAR_HINT, code="source.damaged")
    return TarMember(str(name), entry.offset_data, entry.size)


def _require_tar_end(path: Path, end: int) -> None:
    """Refuse a tar that goes on where its members end: a header there was damaged."""
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(TAR_BLOCK_BYTES)):
            what = f"it is damaged at byte {end}"
            raise DataError(what, hint=RECOPY_TAR_HINT, code="source.damaged")


def _read_sample_tar(context: SourceContext, path: Path, name: str) -> Iterator[ReaderItem]:
    key_hashes: set[int] = set()
    skipped: list[SkippedItem] = []
    try:
        members_of_samples = _skip_apple_doubles(iter_tar_members(path), name, skipped)
        for key, members in groupby(members_of_samples, key=lambda it: _split_key(it)[0]):
            sample = {_split_key(member)[1]: member for member in members}
            location = f"{name}/{key}"
            try:
                if hash(key) in key_hashes:
                    what = "the sample continues after other samples"
                    hint = "put its members together: make the tar with `--sort=name`"
                    raise DataError(what, hint=hint, code="data.scattered_sample")
                key_hashes.add(hash(key))
                yield _parse_sample(context, path, location, sample)
            except DataError as error:
                yield Issue.from_error(error, location)
        yield from skipped
    except DataError as error:
        yield Issue.from_error(error, name)


def _skip_apple_doubles(
    members: Iterator[TarMember], name: str, skipped: list[SkippedItem]
) -> Iterator[TarMember]:
    """The members that a person packed; those of macOS are noted in `skipped`."""
    for member in members:
        if PurePosixPath(member.name).name.startswith(APPLE_DOUBLE_PREFIX):
            skipped.append(SkippedItem(f"{name}/{member.name}", "data.not_audio"))
        else:
            yield member


def _split_key(member: TarMember) -> tuple[str, str]:
    """The key of a member, and the suffix behind it."""
    path = PurePosixPath(member.name)
    match = KEY_RE.match(path.name)
    stem = match[0] if match else ""
    return path.with_name(stem or path.name).as_posix(), path.name[len(stem) + 1 :].lower()


def _parse_sample(context: SourceContext, path: Path, name: str, sample: TarSample) -> ReaderItem:
    text_members = {key: member for key, member in sample.items() if key in ("txt", "json")}
    suffix = _select_audio_suffix(context, sample)
    if suffix is None:
        if text_members:
            return SkippedItem(name, "data.no_recording")
        is_unread = any(f".{suffix.split('.')[-1]}" in PYAV_SUFFIXES for suffix in sample)
        return SkippedItem(name, "audio.unknown_format" if is_unread else "data.not_audio")
    if not text_members:
        return SkippedItem(f"{name}.{suffix}", "data.no_transcript")
    byte_range = (sample[suffix].offset, sample[suffix].size)
    segment = AudioSegment(path, byte_range=byte_range, display_path=f"{name}.{suffix}")
    return _make_sample_example(context, segment, text_members)


def _select_audio_suffix(context: SourceContext, sample: TarSample) -> str | None:
    """The suffix of a sample's recording; None where there is none."""
    requested = context.source.columns.get("audio")
    suffixes = [suffix for suffix in sample if is_audio_file(Path(f"x.{suffix}"))]
    if requested is not None:
        suffixes = [suffix for suffix in suffixes if suffix == requested.lower().lstrip(".")]
    if len(suffixes) > 1:
        what = f"{len(suffixes)} recordings in one sample: {', '.join(suffixes)}"
        hint = f"choose one with columns: {{audio: {suffixes[0]}}}"
        raise DataError(what, hint=hint, code="data.ambiguous_recording")
    return suffixes[0] if suffixes else None


def _make_sample_example(
    context: SourceContext, segment: AudioSegment, text_members: TarSample
) -> Example:
    """The example of a recording with its .json, its .txt, or both: then the .txt is the text."""
    record: SourceRecord = {}
    if member := text_members.get("json"):
        record = _parse_json_object(_read_member_text(segment.path, member), member.name)
    if member := text_members.get("txt"):
        record[context.column_name("text")] = _read_member_text(segment.path, member)
    return ColumnMapping.from_names(context, record).make_example(segment, record, segment.name)


def _read_member_text(path: Path, member: TarMember) -> str:
    if member.size > MAX_MEMBER_TEXT_BYTES:
        what = f"{member.name} is too long for a transcript ({member.size:,} bytes)"
        raise DataError(what, hint="cut it, or take it out", code="data.record_too_long")
    with path.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    return decode_text(data, member.name).strip()


def _parse_json_object(text: str, name: str) -> SourceRecord:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{name} is not JSON ({error})"
        raise DataError(what, hint="correct it", code="data.not_json") from error
    if not isinstance(value, dict):
        hint = 'write {"text": ...}'
        raise DataError(f"{name} is not an object", hint=hint, code="data.not_an_object")
    return value
