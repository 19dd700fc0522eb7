"""Reading a file: bytes, line ends, and files that are no document."""

import hashlib
import os
from pathlib import Path

import pytest

from dlm.config.parser import parse_document, read_document
from dlm.errors import DocumentError
from tests.config.test_fences import HEAD, document


def refusal(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1
    assert caught.value.hint
    return message


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_the_byte_order_mark_do_not_matter(
    tmp_path: Path, line_end: str, mark: str
) -> None:
    path = tmp_path / "my.dlm"
    source = HEAD + "Prose é.\n\nMore\u2028text.\n"
    data = (mark + source.replace("\n", line_end)).encode()
    path.write_bytes(data)
    found = read_document(path)
    assert found.text == source
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.folder == tmp_path
    assert [(one.kind, one.line, one.text) for one in found.sections] == [
        ("prose", 5, "Prose é.\n\nMore\u2028text.")
    ]


def test_the_body_may_be_absent() -> None:
    assert parse_document(HEAD.rstrip("\n"), Path("my.dlm")).sections == ()
    assert document("").sections == ()


def test_sections_in_order() -> None:
    found = document(
        'Intro.\n::audio path="a" transcript="b"::\n::instruction::\n### Q\na\n### A\nb\n'
        "::conversation::\n### User\na\n### Assistant\nb\n"
        '::audio path="a" transcript="b"::\nOutro.'
    )
    assert [(one.kind, one.line) for one in found.sections] == [
        ("prose", 5),
        ("audio", 6),
        ("instruction", 7),
        ("conversation", 12),
        ("audio", 17),
        ("prose", 18),
    ]


def test_no_such_document(tmp_path: Path) -> None:
    path = tmp_path / "my.dlm"
    assert f"there is no such document; dlm init {path} writes one" in refusal(path)


def test_a_directory(tmp_path: Path) -> None:
    assert "this is a directory; name a .dlm file in it" in refusal(tmp_path)


def test_neither_file_nor_directory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "this is not a document; name a .dlm file" in refusal(tmp_path / "pipe")


def test_a_file_used_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert "cannot be read (Not a directory)" in refusal(tmp_path / "a" / "my.dlm")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.dlm"
    path.write_text(HEAD)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "the document cannot be read (Permission denied); check the path" in refusal(path)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "my.dlm"
    path.write_bytes(b"---\r\na: \xff\n---\n")
    assert f"{path}:2:4: invalid UTF-8 at byte 8; save the document as UTF-8" in refusal(path)


def test_a_recording_is_not_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    assert f"{path}:1:6: a zero byte: this is not text; name a .dlm file" in refusal(path)


def test_half_a_character() -> None:
    with pytest.raises(DocumentError, match="my.dlm:5:3: half a character"):
        document("ab\ud800")
