"""Code blocks are prose as they are written; comments are taken out."""

import pytest

from tests.config.documents import HEAD, catch_error, parse_body

CLIP = '::audio path="a.wav" transcript="x"::'


@pytest.mark.parametrize(
    "block",
    [
        f"```\n{CLIP}\n```",
        f"```dlm\n{CLIP}\n  ::instruction::\n```",
        f"~~~\n{CLIP}\n```\n~~~",
        f"````\n```\n{CLIP}\n```\n````",
        f"  ```\n  {CLIP}\n  ```",
        "```\n<!-- not a comment\n```",
        "```\n### q\n<audio>\n```",
    ],
)
def test_a_code_block_is_prose_as_it_is_written(block: str) -> None:
    (section,) = parse_body(f"Before.\n\n{block}\n\nAfter.\n").sections
    assert section.text == f"Before.\n\n{block}\n\nAfter."
    assert section.line == 5


@pytest.mark.parametrize("mark", ["```", "~~~~", "  ```dlm"])
def test_an_open_code_block_is_an_error_where_it_opens(mark: str) -> None:
    error = catch_error(f"{HEAD}Text.\n{mark}\n{CLIP}\n")
    assert (error.code, error.where) == ("document.code_not_closed", "my.dlm:6:1")
    assert error.hint == f"close it with {mark.strip().removesuffix('dlm')}"


def test_three_backticks_on_one_line_open_nothing() -> None:
    assert [section.kind for section in parse_body(f"```x```\n{CLIP}").sections] == [
        "prose",
        "audio",
    ]


@pytest.mark.parametrize(
    "comment", ["<!-- a -->", "<!--\na\n\nb\n-->", "<!---->", "<!-->", f"<!--\n{CLIP}\n```\n-->"]
)
def test_a_comment_is_not_prose(comment: str) -> None:
    assert parse_body(f"{comment}\n").sections == ()
    (section,) = parse_body(f"One.\n{comment}\nTwo.\n").sections
    assert section.text == "One.\nTwo."


def test_comments_inside_a_line_are_taken_out() -> None:
    (section,) = parse_body("One <!-- a -->two<!-- b\n c --> three\n<!-- d --><!-- e -->").sections
    assert section.text == "One two\n three"


def test_lines_after_a_comment_are_numbered_as_in_the_file() -> None:
    (section,) = parse_body("<!--\n\n-->\n\nText.").sections
    assert section.line == 9


def test_a_comment_in_backticks_is_text() -> None:
    (section,) = parse_body("Write `<!-- so -->` or ``<!--``.").sections
    assert section.text == "Write `<!-- so -->` or ``<!--``."


def test_a_question_inside_a_comment_is_not_read() -> None:
    body = "::instruction::\n### Q\na\n### A\nb\n<!--\n### Q\nc\n### A\nd\n-->\n<!-- next: -->\n"
    (section,) = parse_body(body).sections
    assert [(pair.question, pair.answer) for pair in section.qa_pairs] == [("a", "b")]


def test_an_open_comment_is_an_error_where_it_opens() -> None:
    error = catch_error(f"{HEAD}Text.\nMore <!-- comment\n{CLIP}\n")
    assert (error.code, error.where) == ("document.comment_not_closed", "my.dlm:6:6")
    assert error.hint == "end it with -->, or put <!-- in backticks"


def test_blank_prose_is_dropped() -> None:
    sections = parse_body(f"\n  \n{CLIP}\n\n\t\n{CLIP}\n\n").sections
    assert [section.kind for section in sections] == ["audio", "audio"]


def test_prose_has_its_inner_blank_lines_and_its_first_indent() -> None:
    (section,) = parse_body("\n    code\n\n\n# Title\n\n").sections
    assert section.text == "    code\n\n\n# Title"
    assert section.line == 6
