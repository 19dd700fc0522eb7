"""A clip as a section of a document is the same clip again, or is refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.config.parser import Document
from dlm.data.export import format_section
from dlm.data.load import iter_document_examples
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.errors import DataError
from tests.data.sounds import document, spoken
from tests.fuzz.letters import PIECES


def again(folder: Path, text: str) -> Example:
    """The clip of a section, read in a document of its own."""
    (clip,) = iter_document_examples(document(folder, text))
    assert isinstance(clip, Example)
    return clip


def asked(*turns: tuple[str, tuple[str | AudioSegment, ...]], **known: str) -> Example:
    return Example(tuple(Message(role, parts) for role, parts in turns), "list.jsonl:1", **known)


@pytest.fixture
def empty(tmp_path: Path) -> Document:
    return document(tmp_path)


def test_a_transcript(empty: Document) -> None:
    path = empty.folder / "a b/c.wav"
    clip = spoken(path, 'She said "no" \\ left: é.', start=0.5, end=1 / 3 + 1)
    text = format_section(clip, empty)
    assert text == (
        '::audio path="a b/c.wav" transcript="She said \\"no\\" \\\\ left: é."'
        ' start="0.5" end="1.333333333"::'
    )
    back = again(empty.folder, text)
    assert (back.messages[1], back.task) == (clip.messages[1], "transcribe")
    assert (back.audio_segments[0].path, back.audio_segments[0].start) == (path, 0.5)


def test_a_transcript_with_its_question_and_language(empty: Document) -> None:
    sound = AudioSegment(empty.folder / "a.wav")
    turns = (("user", (sound, "Write it down.")), ("assistant", ("Oui.",)))
    clip = asked(*turns, task="transcribe", language="fr")
    back = again(empty.folder, format_section(clip, empty))
    assert (back.messages, back.language, back.task) == (clip.messages, "fr", "transcribe")


def test_a_conversation(empty: Document) -> None:
    first, second = (AudioSegment(empty.folder / name) for name in ("a.wav", "b.wav"))
    clip = asked(
        ("system", ("Be brief.",)),
        ("user", (first, second, " Who speaks\n\nfaster?")),
        ("assistant", ("The second: `x`\n```\n### User\n```",)),
        ("user", ("Sure?",)),
        ("assistant", ("Yes.",)),
        task="answer",
    )
    text = format_section(clip, empty)
    assert text.startswith("::conversation::\n### System\nBe brief.\n### User\n<audio>a.wav")
    assert again(empty.folder, text).messages == clip.messages


def test_what_the_document_says_before_is_not_written_again(tmp_path: Path) -> None:
    told = document(tmp_path, head="system_prompt: Listen.\n")
    plain = spoken(tmp_path / "a.wav")
    clip = Example((Message("system", ("Listen.",)), *plain.messages), plain.location, "transcribe")
    text = format_section(clip, told)
    assert text == '::audio path="a.wav" transcript="hello there my friend"::'
    (back,) = iter_document_examples(document(tmp_path, text, head="system_prompt: Listen.\n"))
    assert back.messages == clip.messages


def clip_of(text: str, **where: float | tuple[int, int]) -> Example:
    turns = (("user", (AudioSegment(Path("a.wav"), **where), "What?")), ("assistant", (text,)))
    return asked(*turns, task="answer")


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (clip_of("x", byte_range=(512, 8)), "its recording lies in an archive, which no section"),
        (clip_of("x", start=1.0), "it is about a span of a recording, which no conversation can"),
        (clip_of("### User\nx"), "nothing stands under this ### Assistant"),
        (clip_of("<audio>b.wav</audio>"), "sound in a ### Assistant turn"),
        (clip_of("x ::audio path="), "a fence stands alone on its line"),
        (clip_of("```"), "this code block is never closed"),
        (clip_of("<!-- x -->y"), "no section gives exactly this clip"),
    ],
)
def test_what_no_section_can_hold(clip: Example, words: str, empty: Document) -> None:
    with pytest.raises(DataError) as refused:
        format_section(clip, empty)
    assert str(refused.value).startswith("list.jsonl:1: ")
    assert words in str(refused.value) and "without --inline" in str(refused.value)


WORDS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=5).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, WORDS, st.sampled_from(["transcribe", "answer"]))
def test_any_words_come_back_or_are_refused(
    empty: Document, asked_for: str, said: str, name: str, task: str
) -> None:
    turns = (("user", (AudioSegment(Path(f"{name}.wav")), asked_for)), ("assistant", (said,)))
    clip = asked(*turns, task=task)
    try:
        text = format_section(clip, empty)
    except DataError as error:
        assert len(str(Issue.from_error(error, clip.location)).splitlines()) == 1
        return
    back = again(empty.folder, text)
    assert (back.task, back.target.split()) == (task, said.split())
