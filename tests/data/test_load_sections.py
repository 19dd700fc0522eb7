"""What each section of a document becomes."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.parser import Document, MessageBlock, QAPair, Section
from dlm.data.load import LoadedData, load_examples
from dlm.data.types import AudioSegment, Example, Message
from tests.data.sounds import document, save


def made(folder: Path, *sections: Section, head: str = "") -> Document:
    """A document with exactly these sections, whatever the parser would say of them."""
    return replace(document(folder, head=head), sections=sections)


def audio(line: int = 1, **attributes: str) -> Section:
    given = {"path": "clips/a.wav", "transcript": "Hello there."} | attributes
    return Section("audio", line, attributes=given)


def said(clip: Example) -> list[tuple[str, tuple]]:
    return [(turn.role, turn.content) for turn in clip.messages]


def only(gathered: LoadedData) -> Example:
    (clip,) = gathered.examples
    assert gathered.issues == ()
    return clip


def test_an_audio_section_is_a_clip(tmp_path: Path) -> None:
    written = document(tmp_path, '# A\n\n::audio path="clips/a.wav" transcript="Hello there."::\n')
    clip = load_examples(written).examples[1]
    sound = AudioSegment(tmp_path / "clips/a.wav")
    assert said(clip) == [("user", (sound,)), ("assistant", ("Hello there.",))]
    assert (clip.location, clip.task, clip.language) == ("my.dlm:8", "transcribe", None)
    assert clip.audio_segments[0].name == "clips/a.wav"


def test_its_attributes_reach_the_clip(tmp_path: Path) -> None:
    section = audio(start="1.5", end="2", language="fr", prompt="Translate.")
    clip = only(load_examples(made(tmp_path, section)))
    assert clip.messages[0].content == (
        AudioSegment(tmp_path / "clips/a.wav", 1.5, 2.0),
        "Translate.",
    )
    assert clip.language == "fr"


def test_the_system_prompt_opens_every_turn_taking(tmp_path: Path) -> None:
    sections = (
        audio(1),
        Section("instruction", 2, qa_pairs=(QAPair("Who?", "Ann.", 3),)),
        Section("conversation", 5, messages=(turn("user", "Hi"), turn("assistant", "Ho"))),
        Section("conversation", 8, messages=(turn("system", "Own."), turn("assistant", "Ho"))),
        Section("prose", 9, text="Plain."),
    )
    clips = load_examples(made(tmp_path, *sections, head="system_prompt: Listen well.\n")).examples
    assert [clip.messages[0] for clip in clips] == [
        *[Message("system", ("Listen well.",))] * 3,
        Message("system", ("Own.",)),
        Message("assistant", ("Plain.",)),
    ]


def test_questions_after_audio_are_about_its_sound(tmp_path: Path) -> None:
    pairs = (QAPair("Who speaks?", "Ann.", 3), QAPair("Where?", "Here.", 6))
    section = Section("instruction", 2, qa_pairs=pairs)
    _, first, second = load_examples(
        made(tmp_path, audio(language="en", end="2"), section)
    ).examples
    sound = AudioSegment(tmp_path / "clips/a.wav", None, 2.0)
    assert said(first) == [("user", (sound, "Who speaks?")), ("assistant", ("Ann.",))]
    assert (first.location, first.task, first.language) == ("my.dlm:3", "answer", "en")
    assert (second.location, second.target) == ("my.dlm:6", "Here.")


def test_questions_elsewhere_are_text(tmp_path: Path) -> None:
    section = Section("instruction", 3, qa_pairs=(QAPair("Who?", "Ann.", 4),))
    for before in (Section("prose", 2, text="Between."), section):
        clip = load_examples(made(tmp_path, audio(), before, section)).examples[-1]
        if before.kind == "prose":
            assert clip.task == "text" and said(clip)[0] == ("user", ("Who?",))
    assert load_examples(made(tmp_path, section)).examples[0].task == "text"


def turn(role: str, *parts: str | Path) -> MessageBlock:
    return MessageBlock(role, parts, 1)


def test_a_conversation_is_one_clip(tmp_path: Path) -> None:
    turns = (
        turn("user", Path("a.wav"), " and ", Path("b.wav")),
        turn("assistant", "Two voices."),
        turn("user", "Who?"),
        turn("assistant", "Ann and Bob."),
    )
    clip = only(load_examples(made(tmp_path, Section("conversation", 4, messages=turns))))
    sounds = (AudioSegment(tmp_path / "a.wav"), AudioSegment(tmp_path / "b.wav"))
    assert clip.messages[0] == Message("user", (sounds[0], " and ", sounds[1]))
    assert (clip.audio_segments, clip.task, clip.location) == (sounds, "answer", "my.dlm:4")
    assert (clip.target, clip.audio_segments[1].name) == ("Ann and Bob.", "b.wav")


def test_a_conversation_without_sound_is_text(tmp_path: Path) -> None:
    turns = (turn("user", "Hi"), turn("assistant", "Ho"))
    assert (
        only(load_examples(made(tmp_path, Section("conversation", 4, messages=turns)))).task
        == "text"
    )


@pytest.mark.parametrize("turns", [(), (turn("user", "Hi"),), (turn("assistant", " "),)])
def test_a_conversation_must_end_with_the_assistant(tmp_path: Path, turns: tuple) -> None:
    (problem,) = load_examples(made(tmp_path, Section("conversation", 4, messages=turns))).issues
    assert problem.fatal
    assert str(problem) == (
        "my.dlm:4: the conversation does not end with words of the assistant; "
        "add the assistant turn that is to be learned"
    )


def test_prose_is_one_assistant_turn(tmp_path: Path) -> None:
    clip = only(load_examples(document(tmp_path, "\nPlain words.\n\nAnd more.\n")))
    assert said(clip) == [("assistant", ("Plain words.\n\nAnd more.",))]
    assert (clip.task, clip.location) == ("text", "my.dlm:7")


@pytest.mark.parametrize("blank", ["", "  \t", "\u2003"])
def test_an_empty_transcript(tmp_path: Path, blank: str) -> None:
    (problem,) = load_examples(made(tmp_path, audio(12, transcript=blank))).issues
    assert problem.fatal
    assert str(problem) == (
        "my.dlm:12: AUDIO section has empty transcript; write what is said in clips/a.wav"
    )


def test_attributes_that_cannot_be(tmp_path: Path) -> None:
    sections = (audio(3, start="soon"), audio(4, path=" "))
    first, second = load_examples(made(tmp_path, *sections)).issues
    assert str(first) == 'my.dlm:3: start="soon" is not a number of seconds; write start="1.5"'
    assert "my.dlm:4: AUDIO section has no path" in str(second)


def test_a_path_from_home_or_the_root(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    elsewhere = save(tmp_path / "elsewhere/b.wav")
    sections = (audio(1, path="~/a.wav"), audio(2, path=str(elsewhere)))
    first, second = load_examples(made(tmp_path, *sections)).examples
    assert first.audio_segments[0].path == tmp_path / "home/a.wav"
    assert first.audio_segments[0].name == "~/a.wav"
    assert second.audio_segments[0].path == elsewhere


@pytest.mark.parametrize("body", ["", "\n\n  \n"])
def test_a_document_without_anything_to_learn(tmp_path: Path, body: str) -> None:
    gathered = load_examples(document(tmp_path, body))
    (problem,) = gathered.issues
    assert problem.fatal and gathered.examples == ()
    assert str(problem) == (
        "my.dlm: the document has nothing to train on; add an ::audio:: section, "
        "or a folder of clips under training.sources"
    )
