"""From a file to a Document: the one way in.

bytes ──UTF-8──> text ──┬── frontmatter ──> Settings
                        └── body ── lines ── fences ──> Section, Section, ...
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from dlm.document.bodies import read_pairs, read_turns
from dlm.document.document import Document, Section
from dlm.document.fences import Fence, read_fence
from dlm.document.frontmatter import open_frontmatter, settings
from dlm.document.lines import Line, plain, read_lines, trimmed
from dlm.errors import DocumentError

BOM = "\ufeff"
LARGEST = 64 * 1024 * 1024


def read(path: Path) -> Document:
    """Read the document at `path`; every mistake is a DocumentError with its place."""
    where = str(path)
    try:
        if path.is_dir():
            raise DocumentError("this is a directory", where=where, mend="name a .dlm file in it")
        size = path.stat().st_size
        if not path.is_file() or size > LARGEST:
            raise DocumentError("this is not a document", where=where, mend="name a .dlm file")
        return parse(decode(path.read_bytes(), path), path)
    except FileNotFoundError as error:
        what = "there is no such document"
        raise DocumentError(what, where=where, mend=f"dlm init {path} writes one") from error
    except OSError as error:
        what = f"the document cannot be read ({error.strerror})"
        raise DocumentError(what, where=where, mend="check the path and its permissions") from error


def decode(data: bytes, path: Path) -> str:
    """The text of the bytes, which must be UTF-8; a byte order mark is kept."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = _normal(data[: error.start].decode("utf-8"))
        what = f"invalid UTF-8 at byte {error.start}"
        raise _at(path, before, what, "save the document as UTF-8 text") from error


def parse(text: str, path: Path) -> Document:
    """Read the text of a document that stands, or would stand, at `path`."""
    try:
        sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError as error:
        what, before = "half a character (a lone surrogate)", _normal(text[: error.start])
        raise _at(path, before, what, "save the document as UTF-8 text") from error
    source = _normal(text)
    before, zero, _ = source.partition("\0")
    if zero:
        raise _at(path, before, "a zero byte: this is not text", "name a .dlm file")
    front = open_frontmatter(source, path)
    checked = settings(front)
    _, _, body = source[front.end :].partition("\n")
    first = source.count("\n", 0, front.end) + 2
    sections = tuple(_sections(read_lines(body, path, first)))
    return Document(path, checked, sections, source, sha256)


def _normal(text: str) -> str:
    return text.removeprefix(BOM).replace("\r\n", "\n").replace("\r", "\n")


def _at(path: Path, before: str, what: str, mend: str) -> DocumentError:
    number, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return DocumentError(what, where=f"{path}:{number}:{column}", mend=mend)


def _sections(lines: Iterable[Line]) -> Iterator[Section]:
    """The sections in order. An `::audio::` fence is whole in itself; blank prose is none."""
    for fence, body in _groups(lines):
        if fence is None:
            written = trimmed(body)
            if written:
                yield Section("prose", written[0].number, text=plain(written))
        elif fence.kind == "audio":
            yield Section("audio", fence.line.number, attributes=fence.attributes)
        elif fence.kind == "instruction":
            yield Section("instruction", fence.line.number, pairs=read_pairs(fence, body))
        else:
            yield Section("conversation", fence.line.number, turns=read_turns(fence, body))


def _groups(lines: Iterable[Line]) -> Iterator[tuple[Fence | None, list[Line]]]:
    """Each fence with the lines up to the next; lines that no fence takes stand for themselves."""
    fence: Fence | None = None
    body: list[Line] = []
    for line in lines:
        opened = read_fence(line)
        if opened is None:
            body.append(line)
            continue
        yield fence, body
        fence, body = opened, []
        if opened.kind == "audio":
            yield opened, []
            fence = None
    yield fence, body
