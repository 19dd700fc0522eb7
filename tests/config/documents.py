"""Documents for tests of the parser: a valid head, and the error of a text with a mistake."""

from pathlib import Path

import pytest

from dlm.config.parser import Document, parse_document
from dlm.errors import DocumentError

ULID = "01HZ4X7TGZM3J1A2B3C4D5E6F7"
REQUIRED_FIELDS = f"dlm_id: {ULID}\nbase_model: sparrow\n"
HEAD = f"---\n{REQUIRED_FIELDS}---\n"
BODY_LINE = 5  # number of the first line of the body
PATH = Path("my.dlm")


def parse_body(body: str) -> Document:
    return parse_document(HEAD + body, PATH)


def parse_yaml(yaml: str) -> Document:
    return parse_document(f"---\n{REQUIRED_FIELDS}{yaml}\n---\n", PATH)


def catch_error(text: str) -> DocumentError:
    """Return the error of a document: one line with location, hint and code."""
    with pytest.raises(DocumentError) as caught:
        parse_document(text, PATH)
    error = caught.value
    assert len(str(error).splitlines()) == 1
    assert error.where is not None and error.hint and error.code
    return error
