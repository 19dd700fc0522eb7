"""Reading a file: bytes, line ends, order of sections, and files that are no document."""

import hashlib
import os
from pathlib import Path

import pytest

from dlm.config.parser import parse_document, read_document
from dlm.errors import DocumentError
from tests.config.documents import HEAD, catch_error, parse_body


def catch_read_error(path: Path) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).splitlines()) == 1
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_the_byte_order_mark_do_not_matter(
    tmp_path: Path, line_end: str, mark: str
) -> None:
    path = tmp_path / "my.dlm"
    source = HEAD + "Prose é.\n\nMore\u2028text.\n"
    data = (mark + source.replace("\n", line_end)).encode()
    path.write_bytes(data)
    document = read_document(path)
    assert document.text == source
    assert document.sha256 == hashlib.sha256(data).hexdigest()
    assert document.folder == tmp_path
    assert [(section.kind, section.line, section.text) for section in document.sections] == [
        ("prose", 5, "Prose é.\n\nMore\u2028text.")
    ]


def test_the_body_may_be_absent() -> None:
    assert parse_document(HEAD.rstrip("\n"), Path("my.dlm")).sections == ()
    assert parse_body("").sections == ()


def test_sections_are_read_in_order() -> None:
    document = parse_body(
        'Intro.\n::audio path="a" transcript="b"::\n::instruction::\n### Q\na\n### A\nb\n'
        "::conversation::\n### User\na\n### Assistant\nb\n"
        '::audio path="a" transcript="b"::\nOutro.'
    )
    assert [(section.kind, section.line) for section in document.sections] == [
        ("prose", 5),
        ("audio", 6),
        ("instruction", 7),
        ("conversation", 12),
        ("audio", 17),
        ("prose", 18),
    ]


def test_a_missing_document_is_an_error_that_names_dlm_init(tmp_path: Path) -> None:
    path = tmp_path / "my.dlm"
    error = catch_read_error(path)
    assert (error.code, error.hint) == ("document.not_found", f"dlm init {path} writes one")


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    assert catch_read_error(tmp_path).code == "document.is_directory"


def test_a_pipe_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert catch_read_error(tmp_path / "pipe").code == "document.not_a_document"


def test_a_file_used_as_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    error = catch_read_error(tmp_path / "a" / "my.dlm")
    assert error.code == "document.not_readable" and "(Not a directory)" in str(error)


def test_a_file_without_read_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.dlm"
    path.write_text(HEAD)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    error = catch_read_error(path)
    assert error.code == "document.not_readable"
    assert "the document cannot be read (Permission denied); check the path" in str(error)


def test_bytes_that_are_not_utf8_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "my.dlm"
    path.write_bytes(b"---\r\na: \xff\n---\n")
    error = catch_read_error(path)
    assert (error.code, error.where) == ("document.not_utf8", f"{path}:2:4")
    assert "invalid UTF-8 at byte 8; save the document as UTF-8" in str(error)


def test_a_recording_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    error = catch_read_error(path)
    assert (error.code, error.where) == ("document.not_a_document", f"{path}:1:6")
    assert "a zero byte: this is not text; name a .dlm file" in str(error)


def test_half_a_character_is_an_error() -> None:
    error = catch_error(f"{HEAD}ab\ud800")
    assert (error.code, error.where) == ("document.not_utf8", "my.dlm:5:3")
