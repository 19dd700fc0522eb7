"""A question with its sounds, and the answer."""

from pathlib import Path

import pytest

from dlm.clips.clip import Sound, Turn
from dlm.document.settings import Training
from dlm.errors import UsageError
from dlm.model.generate import Decoding
from dlm.plan.bases import read_facts
from dlm.use.prompt import ask, turns_of
from dlm.use.ready import answer_all, ready
from tests.tiny import make_tiny, tiny_base, tone, tones

A, B = Path("a.wav"), Path("b.wav")


def test_sounds_come_before_the_question() -> None:
    assert turns_of("Who?", [A, B], tiny_base(), None) == (
        Turn("user", (Sound(A), Sound(B), "Who?")),
    )


def test_a_question_places_its_sounds() -> None:
    asked = "First <|audio|>\nthen <|audio|> who?"
    (turn,) = turns_of(asked, [A, B], tiny_base(), None)
    assert turn.parts == ("First ", Sound(A), "then ", Sound(B), " who?")
    (turn,) = turns_of("<|audio|>", [A], tiny_base(), None)
    assert turn.parts == (Sound(A),)


@pytest.mark.parametrize("sounds", [[], [A], [A, B, A]])
def test_as_many_places_as_sounds(sounds: list[Path]) -> None:
    told = rf"the question has 2 <\|audio\|>, and there are {len(sounds)} --audio"
    with pytest.raises(UsageError, match=told):
        turns_of("<|audio|> and <|audio|>", sounds, tiny_base(), None)


def test_what_the_model_is_told_comes_first() -> None:
    turns = turns_of("Who?", [A], tiny_base(), "Be brief.")
    assert [turn.role for turn in turns] == ["system", "user"]


def test_a_model_is_asked(tmp_path: Path) -> None:
    using = ready(read_facts(make_tiny(tmp_path)), None, device="cpu", asked=Training())
    turns = turns_of("Who?", [tone(tmp_path / "a.wav", hertz=300)], using.model.base, None)
    pieces = list(ask(using, turns, Decoding(max_tokens=6)))
    again = list(ask(using, turns, Decoding(max_tokens=6)))
    assert pieces == again and len("".join(pieces)) <= 6


def test_every_clip_is_answered_once(tmp_path: Path) -> None:
    using = ready(read_facts(make_tiny(tmp_path)), None, device="cpu", asked=Training())
    clips = tones(tmp_path, 3) * 7
    answers = list(answer_all(using, clips))
    assert sorted(clip.place for clip, _ in answers) == sorted(clip.place for clip in clips)
