"""Properties that hold for any text (hypothesis): parsed or one DocumentError, edits exact."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from dlm.config.editor import append_section, format_audio_fence, set_field
from dlm.config.parser import parse_document
from dlm.errors import DocumentError
from tests.config.documents import PATH
from tests.config.documents import REQUIRED_FIELDS as HEAD

PIECES = st.sampled_from(
    [
        *("---\n", HEAD, "training:\n", "  lora_r: 4\n", "  sources: [{path: a}]\n", "? ", "- "),
        *("::audio ", 'path="a"', " ", 'transcript="b', '"', "::", ":", "\\", "\n", "\t", "\r"),
        *("::instruction::\n", "### Q\n", "### A\n", "### q\n", "::conversation::\n", "#name"),
        *("### User\n", "### Assistant\n", "<audio>", "</audio>", "text", "é", "\u2028", "\0"),
        *("```\n", "~~~\n", "`", "<!--", "-->", "{", "}", "[", "]", "&a ", "*a", "!!", "|\n", "%"),
    ]
)
TEXT = st.text().map(lambda text: text.replace("\0", "x")).filter(str.strip)


def unwrap(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def check_parses_or_is_refused(text: str) -> None:
    try:
        parse_document(text, PATH)
    except DocumentError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith("my.dlm:") and error.hint and error.code


@given(st.text() | st.lists(PIECES).map("".join))
def test_any_text_is_a_document_or_a_document_error(text: str) -> None:
    check_parses_or_is_refused(text)


@given(st.text() | st.lists(PIECES).map("".join))
@example('a: "\\uD800"')
@example("a: " + "9" * 5000)
@example("2024-13-45: 1:30\n<<: {}")
def test_any_frontmatter_is_parsed_or_a_document_error(yaml: str) -> None:
    check_parses_or_is_refused(f"---\n{HEAD}{yaml}\n---\n")


@given(st.text() | st.lists(PIECES).map("".join))
def test_any_body_is_parsed_or_a_document_error(body: str) -> None:
    check_parses_or_is_refused(f"---\n{HEAD}---\n{body}")


@given(TEXT, TEXT)
def test_a_formatted_fence_parses_to_the_same_values(path: str, transcript: str) -> None:
    fence = format_audio_fence(path, transcript)
    (section,) = parse_document(f"---\n{HEAD}---\n{fence}\n", PATH).sections
    assert section.attributes == {
        "path": unwrap(path),
        "transcript": unwrap(transcript),
    }


@given(
    prompt=st.text(),
    before=st.sampled_from(["", "# note\n", "training: {seed: 1}\n", "system_prompt: >-\n  a\n\n"]),
    after=st.sampled_from(["", "# note\n", "training:\n  # x\n  seed: 1\n\n"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_setting_a_field_leaves_other_bytes(
    prompt: str, before: str, after: str, line_end: str
) -> None:
    if before and before[0] == after[:1] == "t":
        after = ""
    text = f"---\n{before}{HEAD}{after}---\nProse.".replace("\n", line_end)
    changed = set_field(text.encode(), "system_prompt", prompt)
    assert parse_document(changed.decode(), PATH).config.system_prompt == prompt
    if "system_prompt" in before:
        changed_again = set_field(changed, "system_prompt", "a")
        assert set_field(text.encode(), "system_prompt", "a") == changed_again
    else:
        remaining_lines = iter(changed.decode().split(line_end))
        assert all(line in remaining_lines for line in text.split(line_end))


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_clips_can_be_added_one_after_another(transcripts: list[str]) -> None:
    data = f"---\n{HEAD}---\n".encode()
    for transcript in transcripts:
        data = append_section(data, format_audio_fence("a.wav", transcript))
    sections = parse_document(data.decode(), PATH).sections
    assert [section.attributes["transcript"] for section in sections] == [*map(unwrap, transcripts)]
