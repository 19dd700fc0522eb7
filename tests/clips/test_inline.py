"""A clip as a section of a document is the same clip again, or is refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.clips.clip import Clip, Problem, Sound, Turn
from dlm.clips.inline import section_of
from dlm.clips.sections import clips_in
from dlm.document.document import Document
from dlm.errors import ClipError
from tests.clips.sounds import document, spoken
from tests.fuzz.letters import PIECES


def again(folder: Path, text: str) -> Clip:
    """The clip of a section, read in a document of its own."""
    (clip,) = clips_in(document(folder, text))
    assert isinstance(clip, Clip)
    return clip


def asked(*turns: tuple[str, tuple[str | Sound, ...]], **known: str) -> Clip:
    return Clip(tuple(Turn(role, parts) for role, parts in turns), "list.jsonl:1", **known)


@pytest.fixture
def empty(tmp_path: Path) -> Document:
    return document(tmp_path)


def test_a_transcript(empty: Document) -> None:
    path = empty.folder / "a b/c.wav"
    clip = spoken(path, 'She said "no" \\ left: é.', start=0.5, end=1 / 3 + 1)
    text = section_of(clip, empty)
    assert text == (
        '::audio path="a b/c.wav" transcript="She said \\"no\\" \\\\ left: é."'
        ' start="0.5" end="1.333333333"::'
    )
    back = again(empty.folder, text)
    assert (back.turns[1], back.task) == (clip.turns[1], "transcribe")
    assert (back.sounds[0].path, back.sounds[0].start) == (path, 0.5)


def test_a_transcript_with_its_question_and_language(empty: Document) -> None:
    sound = Sound(empty.folder / "a.wav")
    turns = (("user", (sound, "Write it down.")), ("assistant", ("Oui.",)))
    clip = asked(*turns, task="transcribe", language="fr")
    back = again(empty.folder, section_of(clip, empty))
    assert (back.turns, back.language, back.task) == (clip.turns, "fr", "transcribe")


def test_a_conversation(empty: Document) -> None:
    first, second = (Sound(empty.folder / name) for name in ("a.wav", "b.wav"))
    clip = asked(
        ("system", ("Be brief.",)),
        ("user", (first, second, " Who speaks\n\nfaster?")),
        ("assistant", ("The second: `x`\n```\n### User\n```",)),
        ("user", ("Sure?",)),
        ("assistant", ("Yes.",)),
        task="answer",
    )
    text = section_of(clip, empty)
    assert text.startswith("::conversation::\n### System\nBe brief.\n### User\n<audio>a.wav")
    assert again(empty.folder, text).turns == clip.turns


def test_what_the_document_says_before_is_not_written_again(tmp_path: Path) -> None:
    told = document(tmp_path, head="system_prompt: Listen.\n")
    plain = spoken(tmp_path / "a.wav")
    clip = Clip((Turn("system", ("Listen.",)), *plain.turns), plain.place, "transcribe")
    text = section_of(clip, told)
    assert text == '::audio path="a.wav" transcript="hello there my friend"::'
    (back,) = clips_in(document(tmp_path, text, head="system_prompt: Listen.\n"))
    assert back.turns == clip.turns


def clip_of(text: str, **where: float | tuple[int, int]) -> Clip:
    turns = (("user", (Sound(Path("a.wav"), **where), "What?")), ("assistant", (text,)))
    return asked(*turns, task="answer")


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (clip_of("x", inside=(512, 8)), "its recording lies in an archive, which no section"),
        (clip_of("x", start=1.0), "it hears a span of a recording, which no conversation can"),
        (clip_of("### User\nx"), "nothing stands under this ### Assistant"),
        (clip_of("<audio>b.wav</audio>"), "sound in a ### Assistant turn"),
        (clip_of("x ::audio path="), "a fence stands alone on its line"),
        (clip_of("```"), "this code block is never closed"),
        (clip_of("<!-- x -->y"), "no section says just what it says"),
    ],
)
def test_what_no_section_can_hold(clip: Clip, words: str, empty: Document) -> None:
    with pytest.raises(ClipError) as refused:
        section_of(clip, empty)
    assert str(refused.value).startswith("list.jsonl:1: ")
    assert words in str(refused.value) and "without --inline" in str(refused.value)


WORDS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=5).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, WORDS, st.sampled_from(["transcribe", "answer"]))
def test_any_words_come_back_or_are_refused(
    empty: Document, asked_for: str, said: str, name: str, task: str
) -> None:
    turns = (("user", (Sound(Path(f"{name}.wav")), asked_for)), ("assistant", (said,)))
    clip = asked(*turns, task=task)
    try:
        text = section_of(clip, empty)
    except ClipError as error:
        assert len(str(Problem.of(error, clip.place)).splitlines()) == 1
        return
    back = again(empty.folder, text)
    assert (back.task, back.target.split()) == (task, said.split())
