"""A question with its sounds, and the answer."""

from pathlib import Path

import pytest

from dlm.config.schema import TrainingConfig
from dlm.data.types import AudioSegment, Message
from dlm.errors import UsageError
from dlm.inference.engine import batch_generate, build_prompt_messages, load_engine, stream_answer
from dlm.models.generate import GenerationConfig
from dlm.plan.model_spec import read_model_spec
from tests.tiny_models import make_tiny_spec, write_tiny_model, write_tone, write_tone_examples

A, B = Path("a.wav"), Path("b.wav")


def test_sounds_come_before_the_question() -> None:
    assert build_prompt_messages("Who?", [A, B], make_tiny_spec(), None) == (
        Message("user", (AudioSegment(A), AudioSegment(B), "Who?")),
    )


def test_a_question_places_its_sounds() -> None:
    asked = "First <|audio|>\nthen <|audio|> who?"
    (turn,) = build_prompt_messages(asked, [A, B], make_tiny_spec(), None)
    assert turn.content == ("First ", AudioSegment(A), "then ", AudioSegment(B), " who?")
    (turn,) = build_prompt_messages("<|audio|>", [A], make_tiny_spec(), None)
    assert turn.content == (AudioSegment(A),)


@pytest.mark.parametrize("sounds", [[], [A], [A, B, A]])
def test_as_many_places_as_sounds(sounds: list[Path]) -> None:
    told = rf"the question has 2 <\|audio\|>, and there are {len(sounds)} --audio"
    with pytest.raises(UsageError, match=told):
        build_prompt_messages("<|audio|> and <|audio|>", sounds, make_tiny_spec(), None)


def test_what_the_model_is_told_comes_first() -> None:
    turns = build_prompt_messages("Who?", [A], make_tiny_spec(), "Be brief.")
    assert [turn.role for turn in turns] == ["system", "user"]


def test_a_model_is_asked(tmp_path: Path) -> None:
    using = load_engine(
        read_model_spec(write_tiny_model(tmp_path)), None, device="cpu", config=TrainingConfig()
    )
    turns = build_prompt_messages(
        "Who?", [write_tone(tmp_path / "a.wav", hertz=300)], using.model.spec, None
    )
    pieces = list(stream_answer(using, turns, GenerationConfig(max_new_tokens=6)))
    again = list(stream_answer(using, turns, GenerationConfig(max_new_tokens=6)))
    assert pieces == again and len("".join(pieces)) <= 6


def test_every_clip_is_answered_once(tmp_path: Path) -> None:
    using = load_engine(
        read_model_spec(write_tiny_model(tmp_path)), None, device="cpu", config=TrainingConfig()
    )
    clips = write_tone_examples(tmp_path, 3) * 7
    answers = list(batch_generate(using, clips))
    assert sorted(clip.location for clip, _ in answers) == sorted(clip.location for clip in clips)
