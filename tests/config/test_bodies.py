"""Questions and answers, and conversations."""

from pathlib import Path

import pytest

from tests.config.test_fences import document, refusal

ASK = "::instruction::\n"
TALK = "::conversation::\n"


def test_pairs_in_order_with_their_lines() -> None:
    body = "\n### Q\nOne?\n\n### A\n\nFirst.\n\n- a\n\n### Q !probe\nTwo?\n### A\nSecond.\n\n"
    (section,) = document(ASK + body).sections
    assert [(pair.question, pair.answer, pair.line) for pair in section.qa_pairs] == [
        ("One?", "First.\n\n- a", 7),
        ("Two?", "Second.", 16),
    ]


def test_headings_in_code_and_other_headings_are_text() -> None:
    body = "### Q\nHow?\n### A\n```\n### Q\n#### q\n```\n#### Steps\n# Answer\n### Details\n"
    (section,) = document(ASK + body).sections
    assert (
        section.qa_pairs[0].answer == "```\n### Q\n#### q\n```\n#### Steps\n# Answer\n### Details"
    )


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("", 5, "this ::instruction:: is empty; write ### Q and ### A below it"),
        ("\n\n", 5, "this ::instruction:: is empty"),
        ("What?\n### Q\na\n### A\nb", 6, "text before the first heading of ::instruction::"),
        ("### Q\n### A\nb", 6, "there is no text under this ### Q; write its text below"),
        ("### Q\na\n### A\n\n", 8, "there is no text under this ### A"),
        ("### A\na\n### Q\nb", 6, "this ### A answers no ### Q; write ### Q and ### A in turn"),
        ("### Q\na\n### Q\nb\n### A\nc", 8, "this ### Q follows a ### Q without its ### A"),
        ("### Q\na\n### A\nb\n### A\nc", 10, "this ### A answers no ### Q"),
        ("### Q\na\n", 6, "this ### Q has no ### A; write ### A and the answer below it"),
        ("### q\na", 6, "'### q' is not a heading of ::instruction::; write ### Q or ### A"),
        ("#### Q\na", 6, "'#### Q' is not a heading"),
        ("###Q\na", 6, "'###Q' is not a heading"),
        ("### Q:\na", 6, "'### Q:' is not a heading"),
        ("### Question\na", 6, "'### Question' is not a heading"),
        ("### Q !check\na", 6, "'### Q !check' is not a heading"),
        ("### Q\na\n### A !probe\nb", 8, "'### A !probe' is not a heading"),
        ("### Q\na\n### A\nb\n ### Q", 10, "there are blanks before this heading"),
        ("### User\na", 6, "'### User' is not a heading"),
    ],
)
def test_instructions_that_cannot_be(body: str, line: int, words: str) -> None:
    message = refusal(ASK + body)
    assert message.startswith(f"my.dlm:{line}:1: ")
    assert words in message


def test_sound_in_a_question_is_an_error() -> None:
    message = refusal(ASK + "### Q\nIn <audio>a.wav</audio>?\n### A\nb")
    assert "my.dlm:7:4: a question of ::instruction:: holds no audio; put the fence" in message


def test_turns_of_text_and_sound() -> None:
    body = (
        "### System\nBe short.\n### User\n<audio>clips/a.wav</audio>\n<audio> b c.wav </audio>\n\n"
        "Compare <audio>a</audio>, please:\n\nnow\n### Assistant\nThe first.\n"
    )
    (section,) = document(TALK + body).sections
    assert [(turn.role, turn.line) for turn in section.messages] == [
        ("system", 6),
        ("user", 8),
        ("assistant", 15),
    ]
    assert section.messages[0].content == ("Be short.",)
    assert section.messages[1].content == (
        Path("clips/a.wav"),
        Path("b c.wav"),
        "\n\nCompare ",
        Path("a"),
        ", please:\n\nnow",
    )
    assert section.messages[2].content == ("The first.",)


def test_a_turn_may_be_sound_alone_and_tags_in_code_are_text() -> None:
    body = "### User\n<audio>a.wav</audio>\n### Assistant\nThe `<audio>` tag.\n```\n<audio>\n```\n"
    (section,) = document(TALK + body).sections
    assert section.messages[0].content == (Path("a.wav"),)
    assert section.messages[1].content == ("The `<audio>` tag.\n```\n<audio>\n```",)


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ("", "5:1", "this ::conversation:: is empty; write ### System and ### User"),
        ("Hi\n### User\na", "6:1", "text before the first heading of ::conversation::"),
        ("### Assistant\na", "6:1", "a conversation cannot begin with ### Assistant; begin"),
        ("### User\na", "6:1", "the conversation ends with ### User; write ### Assistant"),
        ("### User\na\n### Assistant\nb\n### User\nc", "10:1", "ends with ### User"),
        ("### User\n\n### Assistant\nb", "6:1", "there is no text under this ### User"),
        ("### user\na\n### Assistant\nb", "6:1", "'### user' is not a heading of ::conversation"),
        ("## User\na\n### Assistant\nb", "6:1", "'## User' is not a heading"),
        ("### User:\na\n### Assistant\nb", "6:1", "'### User:' is not a heading"),
        ("### Q\na\n### A\nb", "6:1", "'### Q' is not a heading of ::conversation::"),
        ("### User\nx <audio>a.wav\n### Assistant\nb", "7:3", "cannot read the tag '<audio>'"),
        ("### User\na.wav</audio>\n### Assistant\nb", "7:6", "cannot read the tag '</audio>'"),
        ("### User\n<Audio>a</Audio>\n### Assistant\nb", "7:1", "write <audio>clips/a.wav</audio>"),
        ('### User\n<audio src="a">\n### Assistant\nb', "7:1", "cannot read the tag '<audio src="),
        ("### User\n<audio> </audio>\n### Assistant\nb", "7:1", "this <audio> tag is empty"),
        ("### User\na\n### Assistant\n<audio>b</audio>", "9:1", "audio in a ### Assistant turn"),
        ("### System\n<audio>b\n### User\nc", "7:1", "audio in a ### System turn; only ### User"),
    ],
)
def test_conversations_that_cannot_be(body: str, place: str, words: str) -> None:
    body = body + "\n### Assistant\nz" if body.startswith("### System") else body
    message = refusal(TALK + body)
    assert message.startswith(f"my.dlm:{place}: ")
    assert words in message
