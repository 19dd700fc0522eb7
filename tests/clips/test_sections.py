"""What each section of a document becomes."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.sources import Gathered, gather
from dlm.document.document import Document, Pair, Section, WrittenTurn
from tests.clips.sounds import document, save


def made(folder: Path, *sections: Section, head: str = "") -> Document:
    """A document with exactly these sections, whatever the parser would say of them."""
    return replace(document(folder, head=head), sections=sections)


def audio(line: int = 1, **attributes: str) -> Section:
    given = {"path": "clips/a.wav", "transcript": "Hello there."} | attributes
    return Section("audio", line, attributes=given)


def said(clip: Clip) -> list[tuple[str, tuple]]:
    return [(turn.role, turn.parts) for turn in clip.turns]


def only(gathered: Gathered) -> Clip:
    (clip,) = gathered.clips
    assert gathered.problems == ()
    return clip


def test_an_audio_section_is_a_clip(tmp_path: Path) -> None:
    written = document(tmp_path, '# A\n\n::audio path="clips/a.wav" transcript="Hello there."::\n')
    clip = gather(written).clips[1]
    sound = Sound(tmp_path / "clips/a.wav")
    assert said(clip) == [("user", (sound,)), ("assistant", ("Hello there.",))]
    assert (clip.place, clip.task, clip.language) == ("my.dlm:8", "transcribe", None)
    assert clip.sounds[0].name == "clips/a.wav"


def test_its_attributes_reach_the_clip(tmp_path: Path) -> None:
    section = audio(start="1.5", end="2", language="fr", prompt="Translate.")
    clip = only(gather(made(tmp_path, section)))
    assert clip.turns[0].parts == (Sound(tmp_path / "clips/a.wav", 1.5, 2.0), "Translate.")
    assert clip.language == "fr"


def test_the_system_prompt_opens_every_turn_taking(tmp_path: Path) -> None:
    sections = (
        audio(1),
        Section("instruction", 2, pairs=(Pair("Who?", "Ann.", 3),)),
        Section("conversation", 5, turns=(turn("user", "Hi"), turn("assistant", "Ho"))),
        Section("conversation", 8, turns=(turn("system", "Own."), turn("assistant", "Ho"))),
        Section("prose", 9, text="Plain."),
    )
    clips = gather(made(tmp_path, *sections, head="system_prompt: Listen well.\n")).clips
    assert [clip.turns[0] for clip in clips] == [
        *[Turn("system", ("Listen well.",))] * 3,
        Turn("system", ("Own.",)),
        Turn("assistant", ("Plain.",)),
    ]


def test_questions_after_audio_are_about_its_sound(tmp_path: Path) -> None:
    pairs = (Pair("Who speaks?", "Ann.", 3), Pair("Where?", "Here.", 6))
    section = Section("instruction", 2, pairs=pairs)
    _, first, second = gather(made(tmp_path, audio(language="en", end="2"), section)).clips
    sound = Sound(tmp_path / "clips/a.wav", None, 2.0)
    assert said(first) == [("user", (sound, "Who speaks?")), ("assistant", ("Ann.",))]
    assert (first.place, first.task, first.language) == ("my.dlm:3", "answer", "en")
    assert (second.place, second.target) == ("my.dlm:6", "Here.")


def test_questions_elsewhere_are_text(tmp_path: Path) -> None:
    section = Section("instruction", 3, pairs=(Pair("Who?", "Ann.", 4),))
    for before in (Section("prose", 2, text="Between."), section):
        clip = gather(made(tmp_path, audio(), before, section)).clips[-1]
        if before.kind == "prose":
            assert clip.task == "text" and said(clip)[0] == ("user", ("Who?",))
    assert gather(made(tmp_path, section)).clips[0].task == "text"


def turn(role: str, *parts: str | Path) -> WrittenTurn:
    return WrittenTurn(role, parts, 1)


def test_a_conversation_is_one_clip(tmp_path: Path) -> None:
    turns = (
        turn("user", Path("a.wav"), " and ", Path("b.wav")),
        turn("assistant", "Two voices."),
        turn("user", "Who?"),
        turn("assistant", "Ann and Bob."),
    )
    clip = only(gather(made(tmp_path, Section("conversation", 4, turns=turns))))
    sounds = (Sound(tmp_path / "a.wav"), Sound(tmp_path / "b.wav"))
    assert clip.turns[0] == Turn("user", (sounds[0], " and ", sounds[1]))
    assert (clip.sounds, clip.task, clip.place) == (sounds, "answer", "my.dlm:4")
    assert (clip.target, clip.sounds[1].name) == ("Ann and Bob.", "b.wav")


def test_a_conversation_without_sound_is_text(tmp_path: Path) -> None:
    turns = (turn("user", "Hi"), turn("assistant", "Ho"))
    assert only(gather(made(tmp_path, Section("conversation", 4, turns=turns)))).task == "text"


@pytest.mark.parametrize("turns", [(), (turn("user", "Hi"),), (turn("assistant", " "),)])
def test_a_conversation_must_end_with_the_assistant(tmp_path: Path, turns: tuple) -> None:
    (problem,) = gather(made(tmp_path, Section("conversation", 4, turns=turns))).problems
    assert problem.fatal
    assert str(problem) == (
        "my.dlm:4: the conversation does not end with words of the assistant; "
        "add the assistant turn that is to be learned"
    )


def test_prose_is_one_assistant_turn(tmp_path: Path) -> None:
    clip = only(gather(document(tmp_path, "\nPlain words.\n\nAnd more.\n")))
    assert said(clip) == [("assistant", ("Plain words.\n\nAnd more.",))]
    assert (clip.task, clip.place) == ("text", "my.dlm:7")


@pytest.mark.parametrize("blank", ["", "  \t", "\u2003"])
def test_an_empty_transcript(tmp_path: Path, blank: str) -> None:
    (problem,) = gather(made(tmp_path, audio(12, transcript=blank))).problems
    assert problem.fatal
    assert str(problem) == (
        "my.dlm:12: AUDIO section has empty transcript; write what is said in clips/a.wav"
    )


def test_attributes_that_cannot_be(tmp_path: Path) -> None:
    sections = (audio(3, start="soon"), audio(4, path=" "))
    first, second = gather(made(tmp_path, *sections)).problems
    assert str(first) == 'my.dlm:3: start="soon" is not a number of seconds; write start="1.5"'
    assert "my.dlm:4: AUDIO section has no path" in str(second)


def test_a_path_from_home_or_the_root(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    elsewhere = save(tmp_path / "elsewhere/b.wav")
    sections = (audio(1, path="~/a.wav"), audio(2, path=str(elsewhere)))
    first, second = gather(made(tmp_path, *sections)).clips
    assert first.sounds[0].path == tmp_path / "home/a.wav"
    assert first.sounds[0].name == "~/a.wav"
    assert second.sounds[0].path == elsewhere


@pytest.mark.parametrize("body", ["", "\n\n  \n"])
def test_a_document_without_anything_to_learn(tmp_path: Path, body: str) -> None:
    gathered = gather(document(tmp_path, body))
    (problem,) = gathered.problems
    assert problem.fatal and gathered.clips == ()
    assert str(problem) == (
        "my.dlm: the document gives nothing to learn; add an ::audio:: section, "
        "or a folder of clips under training.sources"
    )
