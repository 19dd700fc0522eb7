"""What lies in a tar, and where, so that it is heard without being unpacked.

    shards/{000..002}.tar    three tars, expanded
    x.tar    ├── a.wav       Member: its name, its first byte in x.tar, and how many there are
             ├── a.txt
             └── ../b.wav    refused: a member that leads out, a link, a device

Only headers are read; a tar that is compressed or cut short is refused with the mend.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dlm.clips.walk import expand
from dlm.errors import ClipError

RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
MOST_TARS = 100_000  # of one pattern
LONGEST_TEXT = 1 << 20  # bytes
BLOCK_BYTES = 512
PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
REMAKE = "make the tar again of plain files, with `tar --sort=name -cf`"
AGAIN = "copy it again"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar, and where in it its bytes lie."""

    name: str
    first: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Every file in a tar, in order. Raises ClipError for a tar that is not to be trusted."""
    try:
        _refuse_other(path)
        with _Passing(path, "r") as tar:
            size = path.stat().st_size
            while (entry := tar.next()) is not None:
                tar.members.clear()
                if not entry.isdir():
                    yield _member(entry, size)
            _refuse_rest(path, tar.offset)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ClipError("the tar is not there", mend="put it there, or mend the path") from error
    except OSError as error:
        raise ClipError("the tar cannot be read", mend="allow it to be read") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ClipError(f"it is no tar, or a damaged one ({error})", mend=AGAIN) from error


def text_at(path: Path, member: Member) -> str:
    """The words of a member, without the blanks around them."""
    if member.size > LONGEST_TEXT:
        what = f"{member.name} is too long for a transcript ({member.size:,} bytes)"
        raise ClipError(what, mend="cut it, or take it out")
    with path.open("rb") as file:
        file.seek(member.first)
        words = file.read(member.size)
    try:
        return words.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        what = f"{member.name} is not UTF-8 (byte {error.start + 1})"
        raise ClipError(what, mend="save it as UTF-8") from error


def expanded(pattern: Path) -> list[Path]:
    """The paths that braces stand for, such as {000..010} or {a,b}; a path that is there, itself.

    Numbers are as wide as the first of them is written.
    """
    if pattern.exists():
        return [pattern]
    written = RANGE.sub(_numbers, str(pattern))
    return [Path(each) for each in expand(written)]


class _Passing(tarfile.TarFile):
    """A tar that does not keep the members that were passed."""

    members: list[tarfile.TarInfo]


def _refuse_other(path: Path) -> None:
    """Refuse what is no plain tar, before a pipe is waited for."""
    if path.exists() and not path.is_file():
        raise ClipError("it is not a regular file", mend="name a .tar")
    with path.open("rb") as file:
        head = file.read(max(map(len, PACKED)))
    for magic, (kind, program) in PACKED.items():
        if head.startswith(magic):
            what = f"the tar is compressed ({kind}), and a recording in it cannot be found"
            raise ClipError(what, mend=f"unpack it: `{program} {path.name}`")


def _member(entry: tarfile.TarInfo, size: int) -> Member:
    """A file of the tar, if it is one and lies within."""
    shown = entry.name.encode("utf-8", "backslashreplace").decode()
    name = PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.name:
        raise ClipError(f"its member {shown} leads out of it", mend=REMAKE)
    if not entry.isreg() or entry.issparse():
        kind = "a link" if entry.issym() or entry.islnk() else "a device, a pipe or sparse"
        raise ClipError(f"its member {shown} is no plain file but {kind}", mend=REMAKE)
    if shown != entry.name:
        raise ClipError(f"the name of its member {shown} is not UTF-8", mend=REMAKE)
    if not 0 <= entry.size <= size - entry.offset_data:
        left = max(size - entry.offset_data, 0)
        what = f"it is cut short: its member {shown} has {entry.size} bytes, and {left} are there"
        raise ClipError(what, mend=AGAIN)
    return Member(str(name), entry.offset_data, entry.size)


def _refuse_rest(path: Path, end: int) -> None:
    """Refuse a tar that goes on where its members end: a header there was damaged."""
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(BLOCK_BYTES)):
            raise ClipError(f"it is damaged at byte {end}", mend=AGAIN)


def _numbers(found: re.Match[str]) -> str:
    """A range of numbers, as choices between braces."""
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST_TARS:
        what = f"{found[0]} stands for no tar, or for too many"
        raise ClipError(what, mend="write it as {000..010}")
    return "{" + ",".join(f"{number:0{len(found[1])}}" for number in range(first, last + 1)) + "}"
