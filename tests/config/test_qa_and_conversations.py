"""Questions and answers under ::instruction::, turns under ::conversation::, audio in turns."""

from pathlib import Path

import pytest

from tests.config.documents import HEAD, catch_error, parse_body

INSTRUCTION = "::instruction::\n"
CONVERSATION = "::conversation::\n"


def test_questions_and_answers_are_read_in_order_with_their_lines() -> None:
    body = "\n### Q\nOne?\n\n### A\n\nFirst.\n\n- a\n\n### Q !probe\nTwo?\n### A\nSecond.\n\n"
    (section,) = parse_body(INSTRUCTION + body).sections
    assert [(pair.question, pair.answer, pair.line) for pair in section.qa_pairs] == [
        ("One?", "First.\n\n- a", 7),
        ("Two?", "Second.", 16),
    ]


def test_headings_in_code_and_other_headings_are_text() -> None:
    body = "### Q\nHow?\n### A\n```\n### Q\n#### q\n```\n#### Steps\n# Answer\n### Details\n"
    (section,) = parse_body(INSTRUCTION + body).sections
    assert (
        section.qa_pairs[0].answer == "```\n### Q\n#### q\n```\n#### Steps\n# Answer\n### Details"
    )


BAD_INSTRUCTIONS = {  # code of the error: body, line, words
    "document.empty_section": [
        ("", 5, "this ::instruction:: is empty; write ### Q and ### A below it"),
        ("\n\n", 5, "this ::instruction:: is empty"),
    ],
    "document.text_before_heading": [
        ("What?\n### Q\na\n### A\nb", 6, "text before the first heading of ::instruction::"),
    ],
    "document.empty_heading": [
        ("### Q\n### A\nb", 6, "there is no text under this ### Q; write its text below"),
        ("### Q\na\n### A\n\n", 8, "there is no text under this ### A"),
    ],
    "document.heading_order": [
        ("### A\na\n### Q\nb", 6, "this ### A answers no ### Q; write ### Q and ### A in turn"),
        ("### Q\na\n### Q\nb\n### A\nc", 8, "this ### Q follows a ### Q without its ### A"),
        ("### Q\na\n### A\nb\n### A\nc", 10, "this ### A answers no ### Q"),
        ("### Q\na\n", 6, "this ### Q has no ### A; write ### A and the answer below it"),
    ],
    "document.unknown_heading": [
        ("### q\na", 6, "'### q' is not a heading of ::instruction::; write ### Q or ### A"),
        ("#### Q\na", 6, "'#### Q' is not a heading"),
        ("###Q\na", 6, "'###Q' is not a heading"),
        ("### Q:\na", 6, "'### Q:' is not a heading"),
        ("### Question\na", 6, "'### Question' is not a heading"),
        ("### Q !check\na", 6, "'### Q !check' is not a heading"),
        ("### Q\na\n### A !probe\nb", 8, "'### A !probe' is not a heading"),
        ("### User\na", 6, "'### User' is not a heading"),
    ],
    "document.stray_blanks": [
        ("### Q\na\n### A\nb\n ### Q", 10, "there are blanks before this heading"),
    ],
}


@pytest.mark.parametrize(
    ("code", "body", "line", "words"),
    [(code, *case) for code, cases in BAD_INSTRUCTIONS.items() for case in cases],
)
def test_a_mistake_in_an_instruction_is_an_error(
    code: str, body: str, line: int, words: str
) -> None:
    error = catch_error(HEAD + INSTRUCTION + body)
    assert (error.code, error.where) == (code, f"my.dlm:{line}:1")
    assert words in str(error)


def test_audio_in_a_question_is_an_error() -> None:
    error = catch_error(f"{HEAD}{INSTRUCTION}### Q\nIn <audio>a.wav</audio>?\n### A\nb")
    assert (error.code, error.where) == ("document.audio_not_allowed", "my.dlm:7:4")
    assert "a question of ::instruction:: holds no audio; put the fence" in str(error)


def test_turns_hold_text_and_audio_in_order() -> None:
    body = (
        "### System\nBe short.\n### User\n<audio>clips/a.wav</audio>\n<audio> b c.wav </audio>\n\n"
        "Compare <audio>a</audio>, please:\n\nnow\n### Assistant\nThe first.\n"
    )
    (section,) = parse_body(CONVERSATION + body).sections
    assert [(message.role, message.line) for message in section.messages] == [
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


def test_a_turn_may_be_audio_alone_and_tags_in_code_are_text() -> None:
    body = "### User\n<audio>a.wav</audio>\n### Assistant\nThe `<audio>` tag.\n```\n<audio>\n```\n"
    (section,) = parse_body(CONVERSATION + body).sections
    assert section.messages[0].content == (Path("a.wav"),)
    assert section.messages[1].content == ("The `<audio>` tag.\n```\n<audio>\n```",)


BAD_CONVERSATIONS = {  # code of the error: body, position, words
    "document.empty_section": [
        ("", "5:1", "this ::conversation:: is empty; write ### System and ### User"),
    ],
    "document.text_before_heading": [
        ("Hi\n### User\na", "6:1", "text before the first heading of ::conversation::"),
    ],
    "document.heading_order": [
        ("### Assistant\na", "6:1", "a conversation cannot begin with ### Assistant; begin"),
        ("### User\na", "6:1", "the conversation ends with ### User; write ### Assistant"),
        ("### User\na\n### Assistant\nb\n### User\nc", "10:1", "ends with ### User"),
    ],
    "document.empty_heading": [
        ("### User\n\n### Assistant\nb", "6:1", "there is no text under this ### User"),
    ],
    "document.unknown_heading": [
        ("### user\na\n### Assistant\nb", "6:1", "'### user' is not a heading of ::conversation"),
        ("## User\na\n### Assistant\nb", "6:1", "'## User' is not a heading"),
        ("### User:\na\n### Assistant\nb", "6:1", "'### User:' is not a heading"),
        ("### Q\na\n### A\nb", "6:1", "'### Q' is not a heading of ::conversation::"),
    ],
    "document.bad_audio_tag": [
        ("### User\nx <audio>a.wav\n### Assistant\nb", "7:3", "cannot read the tag '<audio>'"),
        ("### User\na.wav</audio>\n### Assistant\nb", "7:6", "cannot read the tag '</audio>'"),
        ("### User\n<Audio>a</Audio>\n### Assistant\nb", "7:1", "write <audio>clips/a.wav</audio>"),
        ('### User\n<audio src="a">\n### Assistant\nb', "7:1", "cannot read the tag '<audio src="),
        ("### User\n<audio> </audio>\n### Assistant\nb", "7:1", "this <audio> tag is empty"),
    ],
    "document.audio_not_allowed": [
        ("### User\na\n### Assistant\n<audio>b</audio>", "9:1", "audio in a ### Assistant turn"),
        ("### System\n<audio>b\n### User\nc", "7:1", "audio in a ### System turn; only ### User"),
    ],
}


@pytest.mark.parametrize(
    ("code", "body", "position", "words"),
    [(code, *case) for code, cases in BAD_CONVERSATIONS.items() for case in cases],
)
def test_a_mistake_in_a_conversation_is_an_error(
    code: str, body: str, position: str, words: str
) -> None:
    body = body + "\n### Assistant\nz" if body.startswith("### System") else body
    error = catch_error(HEAD + CONVERSATION + body)
    assert (error.code, error.where) == (code, f"my.dlm:{position}")
    assert words in str(error)
