"""What holds for every text."""

import re
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from dlm.config.editor import append_section, format_audio_fence, set_field
from dlm.config.parser import parse_document
from dlm.errors import DocumentError

HEAD = "dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow\n"
PATH = Path("my.dlm")
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


def one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def told_in_one_line(text: str) -> None:
    try:
        parse_document(text, PATH)
    except DocumentError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith("my.dlm:") and error.hint


@given(st.text() | st.lists(PIECES).map("".join))
def test_any_text_is_a_document_or_a_document_error(text: str) -> None:
    told_in_one_line(text)


@given(st.text() | st.lists(PIECES).map("".join))
@example('a: "\\uD800"')
@example("a: " + "9" * 5000)
@example("2024-13-45: 1:30\n<<: {}")
def test_any_frontmatter_is_read_or_a_document_error(yaml: str) -> None:
    told_in_one_line(f"---\n{HEAD}{yaml}\n---\n")


@given(st.text() | st.lists(PIECES).map("".join))
def test_any_body_is_read_or_a_document_error(body: str) -> None:
    told_in_one_line(f"---\n{HEAD}---\n{body}")


@given(TEXT, TEXT)
def test_a_fence_comes_back_as_it_was_given(path: str, transcript: str) -> None:
    fence = format_audio_fence(path, transcript)
    (section,) = parse_document(f"---\n{HEAD}---\n{fence}\n", PATH).sections
    assert section.attributes == {"path": one_line(path), "transcript": one_line(transcript)}


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
        again = set_field(changed, "system_prompt", "a")
        assert set_field(text.encode(), "system_prompt", "a") == again
    else:
        kept = iter(changed.decode().split(line_end))
        assert all(line in kept for line in text.split(line_end))


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_clips_can_be_added_one_after_another(transcripts: list[str]) -> None:
    data = f"---\n{HEAD}---\n".encode()
    for transcript in transcripts:
        data = append_section(data, format_audio_fence("a.wav", transcript))
    found = parse_document(data.decode(), PATH).sections
    assert [one.attributes["transcript"] for one in found] == [*map(one_line, transcripts)]
