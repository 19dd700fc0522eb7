"""Fences that open a section, and lines that are nearly one."""

import pytest

from tests.config.documents import BODY_LINE, HEAD, catch_error, parse_body


def test_a_clip_and_its_transcript() -> None:
    (section,) = parse_body('::audio path="clips/a.wav" transcript="Hello there."::\n').sections
    assert section.kind == "audio"
    assert section.line == BODY_LINE
    assert section.attributes == {"path": "clips/a.wav", "transcript": "Hello there."}


def test_every_attribute_in_any_order() -> None:
    fence = (
        '::audio end="9.25" start="0" prompt="Who?" language="fr"  transcript="Été" path="é.wav" ::'
    )
    (section,) = parse_body(fence).sections
    assert section.attributes == {
        "end": "9.25",
        "start": "0",
        "prompt": "Who?",
        "language": "fr",
        "transcript": "Été",
        "path": "é.wav",
    }


def test_quotes_backslashes_and_colons_inside_a_value() -> None:
    (section,) = parse_body(
        r'::audio path="a.wav" transcript="She said \"::hi::\" <!-- \\ 日本"::'
    ).sections
    assert section.attributes["transcript"] == r'She said "::hi::" <!-- \ 日本'


def test_prose_straight_under_a_clip_is_prose() -> None:
    sections = parse_body('::audio path="a.wav" transcript="x"::\nAfter.\n').sections
    assert [section.kind for section in sections] == ["audio", "prose"]


@pytest.mark.parametrize("between", ["", "\n\n", "<!-- a comment -->\n", "\n<!-- 1\n2 -->\n  \n"])
def test_an_instruction_follows_its_clip_across_blank_lines_and_comments(between: str) -> None:
    clip = '::audio path="a.wav" transcript="x"::\n'
    sections = parse_body(f"{clip}{between}::instruction::\n### Q\nWhat?\n### A\nThis.\n").sections
    assert [section.kind for section in sections] == ["audio", "instruction"]


@pytest.mark.parametrize(
    "text",
    [
        "std::vector::x",
        "::std::move(x);",
        "::std::vector<int> audio = 3;",
        "::Audio::Mixer mixer;",
        "The std::audio path is long.",
        ":smile:",
        ":name: value",
        "`::instruction::` opens a section",
        "Write `::audio path=...` to add a clip",
        "audio: the art of sound",
        "Instruction: read this",
        "a conversation about audio",
        "::",
        ":::",
        "::: warning",
        "- [ ] audio",
        "    :audio",
    ],
)
def test_text_that_only_resembles_a_fence_is_prose(text: str) -> None:
    (section,) = parse_body(f"One.\n{text}\nTwo.").sections
    assert section.text == f"One.\n{text}\nTwo."


NEAR_MISSES = {  # code of the error: line, column, words
    "document.unknown_section": [
        ('::Audio path="a" transcript="b"::', 1, "unknown section 'Audio'; did you mean 'audio'?"),
        ('::AUDIO path="a" transcript="b"::', 1, "did you mean 'audio'?"),
        ("::instructions::", 1, "did you mean 'instruction'?"),
        ("::foo::", 1, "unknown section 'foo'; write one of audio, instruction, conversation"),
        ('::video path="a"::', 1, "unknown section 'video'"),
        ("::prose::", 1, "unknown section 'prose'"),
    ],
    "document.fence_not_closed": [
        ("::conversation", 15, "this ::conversation:: fence is not closed; end it with two colons"),
        ("::instruction :", 14, "this ::instruction:: fence is not closed"),
        ("::instruction:::", 14, "this ::instruction:: fence is not closed"),
        ('::audio path="a" transcript="b":', 32, "this ::audio:: fence is not closed"),
        ('::audio path="a" transcript="b"', 32, "this ::audio:: fence is not closed"),
    ],
    "document.stray_blanks": [
        ("  ::instruction::", 1, "blanks before this fence; remove them"),
        ("\t::instruction::", 1, "blanks before this fence"),
        ("::instruction:: ", 14, "blanks after this fence; remove them"),
        ('::audio path="a" transcript="b":: ', 32, "blanks after this fence"),
    ],
    "document.fence_not_alone": [
        ("::instruction:: hello", 14, "a fence stands alone on its line; move what follows"),
        ("::instruction:: <!-- note -->", 14, "a fence stands alone on its line"),
        ("::instruction::hello", 14, "a fence stands alone on its line"),
        ("- ::instruction::", 1, "a fence stands alone on its line; remove '- ' before it"),
        ('> ::audio path="a" transcript="b"::', 1, "remove '> ' before it"),
        ("\u200b::instruction::", 1, "a fence stands alone on its line; remove '\\u200b'"),
        ('See ::audio path="a" transcript="b"::', 5, "a fence stands alone on its line"),
    ],
    "document.bad_fence": [
        (':audio path="a" transcript="b":', 1, "a fence opens with two colons and its name"),
        (':::audio path="a" transcript="b"::', 1, "write ::audio"),
        (':: audio path="a" transcript="b"::', 1, "write ::audio"),
        ('audio path="a" transcript="b"::', 1, "write ::audio"),
        ("instruction::", 1, "write ::instruction"),
        (":instruction:", 1, "write ::instruction"),
    ],
    "document.named_adapter": [
        ("::instruction#name::", 14, "named adapters ('#name') are not supported"),
        ('::audio#name path="a" transcript="b"::', 8, "named adapters ('#name')"),
    ],
    "document.fence_attributes": [
        ('::instruction path="a"::', 14, "::instruction:: takes no attributes; write ::instr"),
    ],
    "document.missing_attribute": [
        ("::audio::", 1, '::audio:: needs a path and a transcript; write ::audio path="clips'),
        ("::audio", 1, "::audio:: needs a path and a transcript"),
        ('::audio path="a"::', 1, '::audio:: has no transcript; add transcript="..."'),
        ('::audio transcript="a"::', 1, "::audio:: has no path"),
    ],
    "document.bad_attribute": [
        ("::audio clips/a.wav::", 8, "cannot read 'clips/a.wav::'; attributes are written"),
        ("::audio path='a' transcript='b'::", 9, 'straight double quotes; write path="..."'),
        ("::audio path=“a” transcript=“b”::", 9, "not in straight double quotes"),
        ("::audio path=a transcript=b::", 9, "not in straight double quotes"),
        ('::audio path = "a" transcript="b"::', 9, "blanks around the = of 'path'"),
        ('::audio path="a" transcript="b::', 18, "the value of 'transcript' has no closing quote"),
        ('::audio path="a transcript="b"::', 29, "text right after the value of 'path'"),
        ('::audio path="a" transcript="he said "hi" now"::', 39, r"a quote inside a value as \""),
        ('::audio path="a"transcript="b"::', 17, "a blank between attributes"),
    ],
    "document.bad_escape": [
        ('::audio path="clips\\a" transcript="b"::', 20, r"a backslash before 'a'; write a"),
    ],
    "document.unknown_attribute": [
        ('::audio path="a" transcript="b" lang="fr"::', 33, "unknown attribute 'lang'; did you"),
        ('::audio path="a" transcript="b" zzz="fr"::', 33, "known are path, transcript, language"),
        ('::audio Path="a" transcript="b"::', 9, "'Path'; did you mean 'path'?"),
    ],
    "document.duplicate_attribute": [
        ('::audio path="a" path="b"::', 18, "'path' is written twice; remove one"),
    ],
    "data.empty_transcript": [
        ('::audio path="a" transcript=""::', 18, "AUDIO section has empty transcript; write what"),
        ('::audio path="a" transcript="  "::', 18, "AUDIO section has empty transcript"),
    ],
    "document.empty_attribute": [
        ('::audio path=" " transcript="b"::', 9, "'path' is empty"),
        ('::audio path="a" transcript="b" prompt=""::', 33, "'prompt' is empty"),
    ],
    "data.bad_seconds": [
        ('::audio path="a" transcript="b" start="1:30"::', 33, "'start' is '1:30'; write seconds"),
        ('::audio path="a" transcript="b" start="-1"::', 33, "'start' is '-1'; write seconds"),
        ('::audio path="a" transcript="b" end="nan"::', 33, "'end' is 'nan'"),
    ],
    "audio.span_empty": [
        ('::audio path="a" transcript="b" end="0"::', 33, "'end' 0 is not after 'start' 0"),
        ('::audio path="a" transcript="b" start="2" end="2.0"::', 43, "'end' 2.0 is not after"),
    ],
}


@pytest.mark.parametrize(
    ("code", "line", "column", "words"),
    [(code, *case) for code, cases in NEAR_MISSES.items() for case in cases],
)
def test_a_line_that_is_nearly_a_fence_is_an_error(
    code: str, line: str, column: int, words: str
) -> None:
    error = catch_error(f"{HEAD}Prose.\n{line}\nMore.\n")
    assert (error.code, error.where) == (code, f"my.dlm:{BODY_LINE + 1}:{column}")
    assert words in str(error)


def test_a_line_that_is_nearly_a_fence_is_an_error_inside_an_answer() -> None:
    body = "::instruction::\n### Q\nWhat?\n### A\nThis.\n ::instruction::\n"
    error = catch_error(HEAD + body)
    assert (error.code, error.where) == ("document.stray_blanks", "my.dlm:10:1")
