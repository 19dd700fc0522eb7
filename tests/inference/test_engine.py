"""Prompts with recordings become messages; answers are streamed, or generated in batches."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.schema import TrainingConfig
from dlm.data.types import AudioSegment, Message
from dlm.errors import UsageError
from dlm.inference.engine import (
    InferenceEngine,
    batch_generate,
    build_prompt_messages,
    load_engine,
    stream_answer,
)
from dlm.models.generate import GenerationConfig
from dlm.plan.model_spec import read_model_spec
from tests.tiny_models import (
    make_tiny_plan,
    make_tiny_spec,
    make_training_setup,
    write_tiny_model,
    write_tone,
    write_tone_examples,
)

A, B = Path("a.wav"), Path("b.wav")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> InferenceEngine:
    spec = read_model_spec(write_tiny_model(tmp_path_factory.mktemp("tiny")))
    return load_engine(spec, None, device="cpu", config=TrainingConfig())


def test_recordings_come_before_the_question() -> None:
    assert build_prompt_messages("Who?", [A, B], make_tiny_spec(), None) == (
        Message("user", (AudioSegment(A), AudioSegment(B), "Who?")),
    )


def test_recordings_replace_placeholders_in_the_question() -> None:
    question = "First <|audio|>\nthen <|audio|> who?"
    (message,) = build_prompt_messages(question, [A, B], make_tiny_spec(), None)
    assert message.content == ("First ", AudioSegment(A), "then ", AudioSegment(B), " who?")
    (message,) = build_prompt_messages("<|audio|>", [A], make_tiny_spec(), None)
    assert message.content == (AudioSegment(A),)


@pytest.mark.parametrize("paths", [[], [A], [A, B, A]])
def test_placeholders_must_be_as_many_as_recordings(paths: list[Path]) -> None:
    message = rf"the question has 2 <\|audio\|>, and there are {len(paths)} --audio"
    with pytest.raises(UsageError, match=message) as caught:
        build_prompt_messages("<|audio|> and <|audio|>", paths, make_tiny_spec(), None)
    assert caught.value.code == "usage.placeholder_count"


def test_the_system_prompt_comes_first() -> None:
    messages = build_prompt_messages("Who?", [A], make_tiny_spec(), "Be brief.")
    assert [message.role for message in messages] == ["system", "user"]


def test_an_answer_is_streamed_and_reproducible(engine: InferenceEngine, tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", hertz=300)
    messages = build_prompt_messages("Who?", [path], engine.model.spec, None)
    config = GenerationConfig(max_new_tokens=6)
    pieces = list(stream_answer(engine, messages, config))
    assert pieces == list(stream_answer(engine, messages, config))
    assert len("".join(pieces)) <= 6


def test_every_example_is_answered_once(engine: InferenceEngine, tmp_path: Path) -> None:
    examples = write_tone_examples(tmp_path, 3) * 7
    answered = [example.location for example, _ in batch_generate(engine, examples)]
    assert sorted(answered) == sorted(example.location for example in examples)


@pytest.mark.parametrize("first_letter", ["A", "\u0410", "\u1200", "\U00010400"])
def test_answers_are_bounded_in_characters_and_a_cut_one_is_told(
    tmp_path: Path, first_letter: str
) -> None:
    """The kind: a bound in tokens is another one for each script; one, two, three, four bytes.

    A model knows two texts by heart: one of ten characters, one beyond the bound.
    """
    short, long = write_tone_examples(tmp_path, 2)
    limit = 60 + round(40 * 0.45)  # of the second, the longer one
    letters = [chr(ord(first_letter) + n) for n in range(12)]
    texts = {short.location: "".join(letters[:10]), long.location: "".join(letters[10:]) * limit}
    examples = [
        replace(each, messages=(*each.messages[:-1], Message("assistant", (texts[each.location],))))
        for each in (short, long)
    ]
    folder = write_tiny_model(tmp_path / "tiny")
    plan = make_tiny_plan(folder, 2, steps=300, learning_rate=4e-3)
    setup = make_training_setup(plan, examples)
    list(setup.iter_events())
    setup.model.eval()
    answers = {example.location: text for example, text in batch_generate(setup.engine, examples)}
    assert setup.engine.cut_locations == [long.location]
    assert answers[short.location] == texts[short.location]
    assert limit <= len(answers[long.location]) < limit + 10
    assert set(answers[long.location].rstrip("\ufffd")) == set(letters[10:])


def test_seconds_and_tokens_are_summed_over_segments(
    engine: InferenceEngine, tmp_path: Path
) -> None:
    segments = tuple(
        AudioSegment(write_tone(tmp_path / f"{n}.wav", hertz=300 + n, seconds=0.5 + n))
        for n in range(2)
    )
    assert engine.sum_audio_seconds(segments) == pytest.approx(2.0)
    assert engine.count_audio_tokens(segments) == sum(
        window.num_tokens for segment in segments for window in engine.extractor(segment)
    )
