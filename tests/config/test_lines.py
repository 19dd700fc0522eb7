"""Code blocks keep what they hold; notes vanish."""

import pytest

from tests.config.test_fences import document, refusal

CLIP = '::audio path="a.wav" transcript="x"::'


@pytest.mark.parametrize(
    "block",
    [
        f"```\n{CLIP}\n```",
        f"```dlm\n{CLIP}\n  ::instruction::\n```",
        f"~~~\n{CLIP}\n```\n~~~",
        f"````\n```\n{CLIP}\n```\n````",
        f"  ```\n  {CLIP}\n  ```",
        "```\n<!-- kept\n```",
        "```\n### q\n<audio>\n```",
    ],
)
def test_a_code_block_is_prose_to_the_letter(block: str) -> None:
    (section,) = document(f"Before.\n\n{block}\n\nAfter.\n").sections
    assert section.text == f"Before.\n\n{block}\n\nAfter."
    assert section.line == 5


@pytest.mark.parametrize("mark", ["```", "~~~~", "  ```dlm"])
def test_an_open_code_block_is_an_error_where_it_opens(mark: str) -> None:
    message = refusal(f"Text.\n{mark}\n{CLIP}\n")
    assert message.startswith("my.dlm:6:1: this code block is never closed; close it with ")


def test_three_backticks_on_one_line_open_nothing() -> None:
    assert [one.kind for one in document(f"```x```\n{CLIP}").sections] == ["prose", "audio"]


@pytest.mark.parametrize(
    "note", ["<!-- a -->", "<!--\na\n\nb\n-->", "<!---->", "<!-->", f"<!--\n{CLIP}\n```\n-->"]
)
def test_a_note_is_not_prose(note: str) -> None:
    assert document(f"{note}\n").sections == ()
    (section,) = document(f"One.\n{note}\nTwo.\n").sections
    assert section.text == "One.\nTwo."


def test_notes_inside_a_line() -> None:
    (section,) = document("One <!-- a -->two<!-- b\n c --> three\n<!-- d --><!-- e -->").sections
    assert section.text == "One two\n three"


def test_places_after_a_note_are_those_of_the_file() -> None:
    (section,) = document("<!--\n\n-->\n\nText.").sections
    assert section.line == 9


def test_a_note_in_backticks_is_text() -> None:
    (section,) = document("Write `<!-- so -->` or ``<!--``.").sections
    assert section.text == "Write `<!-- so -->` or ``<!--``."


def test_a_pair_taken_out_by_a_note_is_not_learnt() -> None:
    body = "::instruction::\n### Q\na\n### A\nb\n<!--\n### Q\nc\n### A\nd\n-->\n<!-- next: -->\n"
    (section,) = document(body).sections
    assert [(pair.question, pair.answer) for pair in section.qa_pairs] == [("a", "b")]


def test_an_open_note_is_an_error_where_it_opens() -> None:
    message = refusal(f"Text.\nMore <!-- note\n{CLIP}\n")
    assert message == (
        "my.dlm:6:6: this comment is never closed; end it with -->, or put <!-- in backticks"
    )


def test_blank_prose_is_dropped() -> None:
    sections = document(f"\n  \n{CLIP}\n\n\t\n{CLIP}\n\n").sections
    assert [section.kind for section in sections] == ["audio", "audio"]


def test_prose_keeps_its_inner_lines_and_its_first_indent() -> None:
    (section,) = document("\n    code\n\n\n# Title\n\n").sections
    assert section.text == "    code\n\n\n# Title"
    assert section.line == 6
