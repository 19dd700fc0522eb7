"""Examples as sections of a document: parsed again they are the same, or they are refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.config.parser import Document
from dlm.data.export import format_section
from dlm.data.load import iter_document_examples
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.errors import DataError
from tests.data.recordings import create_document, make_audio_example
from tests.fuzz.mutations import PIECES


def parse_example(folder: Path, text: str) -> Example:
    """The clip of a section, read in a document of its own."""
    (example,) = iter_document_examples(create_document(folder, text))
    assert isinstance(example, Example)
    return example


def make_example(*messages: tuple[str, tuple[str | AudioSegment, ...]], **known: str) -> Example:
    return Example(tuple(Message(role, parts) for role, parts in messages), "list.jsonl:1", **known)


@pytest.fixture
def empty_document(tmp_path: Path) -> Document:
    return create_document(tmp_path)


def test_a_transcript_is_an_audio_section(empty_document: Document) -> None:
    path = empty_document.folder / "a b/c.wav"
    example = make_audio_example(path, 'She said "no" \\ left: é.', start=0.5, end=1 / 3 + 1)
    text = format_section(example, empty_document)
    assert text == (
        '::audio path="a b/c.wav" transcript="She said \\"no\\" \\\\ left: é."'
        ' start="0.5" end="1.333333333"::'
    )
    parsed = parse_example(empty_document.folder, text)
    assert (parsed.messages[1], parsed.task) == (example.messages[1], "transcribe")
    assert (parsed.audio_segments[0].path, parsed.audio_segments[0].start) == (path, 0.5)


def test_prompt_and_language_are_kept(empty_document: Document) -> None:
    segment = AudioSegment(empty_document.folder / "a.wav")
    messages = (("user", (segment, "Write it down.")), ("assistant", ("Oui.",)))
    example = make_example(*messages, task="transcribe", language="fr")
    parsed = parse_example(empty_document.folder, format_section(example, empty_document))
    assert (parsed.messages, parsed.language, parsed.task) == (example.messages, "fr", "transcribe")


def test_a_conversation_is_a_conversation_section(empty_document: Document) -> None:
    first, second = (AudioSegment(empty_document.folder / name) for name in ("a.wav", "b.wav"))
    example = make_example(
        ("system", ("Be brief.",)),
        ("user", (first, second, " Who speaks\n\nfaster?")),
        ("assistant", ("The second: `x`\n```\n### User\n```",)),
        ("user", ("Sure?",)),
        ("assistant", ("Yes.",)),
        task="answer",
    )
    text = format_section(example, empty_document)
    assert text.startswith("::conversation::\n### System\nBe brief.\n### User\n<audio>a.wav")
    assert parse_example(empty_document.folder, text).messages == example.messages


def test_the_system_prompt_of_the_document_is_not_repeated(tmp_path: Path) -> None:
    written = create_document(tmp_path, head="system_prompt: Listen.\n")
    plain = make_audio_example(tmp_path / "a.wav")
    example = Example(
        (Message("system", ("Listen.",)), *plain.messages), plain.location, "transcribe"
    )
    text = format_section(example, written)
    assert text == '::audio path="a.wav" transcript="hello there my friend"::'
    (parsed,) = iter_document_examples(
        create_document(tmp_path, text, head="system_prompt: Listen.\n")
    )
    assert parsed.messages == example.messages


def make_question(text: str, **span: float | tuple[int, int]) -> Example:
    messages = (("user", (AudioSegment(Path("a.wav"), **span), "What?")), ("assistant", (text,)))
    return make_example(*messages, task="answer")


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (
            make_question("x", byte_range=(512, 8)),
            "its recording lies in an archive, which no section",
        ),
        (
            make_question("x", start=1.0),
            "it is about a span of a recording, which no conversation can",
        ),
        (make_question("### User\nx"), "there is no text under this ### Assistant"),
        (make_question("<audio>b.wav</audio>"), "audio in a ### Assistant turn"),
        (make_question("x ::audio path="), "a fence stands alone on its line"),
        (make_question("```"), "this code block is never closed"),
        (make_question("<!-- x -->y"), "no section gives exactly this clip"),
    ],
)
def test_examples_that_no_section_can_hold_are_refused(
    example: Example, words: str, empty_document: Document
) -> None:
    with pytest.raises(DataError) as refused:
        format_section(example, empty_document)
    assert str(refused.value).startswith("list.jsonl:1: ")
    assert words in str(refused.value) and "without --inline" in str(refused.value)


WORDS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=5).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, WORDS, st.sampled_from(["transcribe", "answer"]))
def test_any_text_is_parsed_again_or_refused(
    empty_document: Document, question: str, answer: str, name: str, task: str
) -> None:
    messages = (("user", (AudioSegment(Path(f"{name}.wav")), question)), ("assistant", (answer,)))
    example = make_example(*messages, task=task)
    try:
        text = format_section(example, empty_document)
    except DataError as error:
        assert len(str(Issue.from_error(error, example.location)).splitlines()) == 1
        return
    parsed = parse_example(empty_document.folder, text)
    assert (parsed.task, parsed.target.split()) == (task, answer.split())
