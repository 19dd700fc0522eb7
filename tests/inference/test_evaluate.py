"""Evaluation tells a model that uses the audio from one that does not, by the listening gap."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.types import AudioSegment, Example, Message
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import compute_losses, evaluate_model, shuffle_audio
from dlm.training.events import Evaluated
from tests.tiny_models import (
    TRANSCRIPTS,
    make_example,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone,
    write_tone_examples,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def untrained(folder: Path, examples: list[Example]) -> InferenceEngine:
    return make_training_setup(make_tiny_plan(folder, len(examples), steps=1), examples).engine


def test_a_random_model_ignores_the_audio(
    untrained: InferenceEngine, examples: list[Example]
) -> None:
    report = evaluate_model(untrained, examples)
    scores = report.scores
    assert abs(scores["gap"]) < 0.1 and scores["wer"] > 0.9
    assert scores["gap"] == pytest.approx(scores["shuffled_loss"] - scores["loss"])
    assert Evaluated(1, scores, report.num_examples).ignores_audio


def write_four_pitches(folder: Path, repeats: int, first: int = 0) -> list[Example]:
    """Four pitches, each always with another word, recorded several times."""
    return [
        make_example(
            write_tone(folder / f"{n}-{m}.wav", hertz=250 + 400 * n + m, seconds=0.4),
            TRANSCRIPTS[n],
        )
        for n in range(4)
        for m in range(first, first + repeats)
    ]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_model_trained_with_shuffled_transcripts_ignores_the_audio(
    folder: Path, tmp_path: Path, shuffled: bool
) -> None:
    """Evaluated by the trainer on other recordings; the right pairs do train it to listen."""
    train_examples = write_four_pitches(tmp_path, 8)
    held_out = write_four_pitches(tmp_path, 2, first=10)
    if shuffled:  # every pitch comes with each word equally often
        answers = [Message("assistant", (word,)) for word in TRANSCRIPTS[:4]]
        train_examples = [
            replace(example, messages=(example.messages[0], answers[n % 4]))
            for n, example in enumerate(train_examples)
        ]
    plan = make_tiny_plan(folder, 32, steps=100, learning_rate=1e-2, micro_batch_size=16)
    setup = make_training_setup(plan, train_examples)

    def evaluate() -> tuple[dict[str, float], int]:
        return evaluate_model(setup.engine, held_out).scores, len(held_out)

    events = setup.iter_events(evaluate_fn=evaluate)
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    scores = evaluated.scores
    assert evaluated.ignores_audio == shuffled
    if shuffled:
        assert abs(scores["gap"]) < 0.1, scores
    else:
        assert scores["shuffled_loss"] >= 3 * scores["loss"], scores
        assert scores["wer"] == 0.0


def test_losses_do_not_depend_on_the_order_of_examples(
    untrained: InferenceEngine, examples: list[Example]
) -> None:
    losses, reversed_losses = (
        compute_losses(untrained, each) for each in (examples, examples[::-1])
    )
    assert losses == pytest.approx(reversed_losses, abs=1e-5)


def test_without_another_recording_there_is_no_gap(
    untrained: InferenceEngine, examples: list[Example]
) -> None:
    assert set(compute_losses(untrained, examples[:1])) == {"loss"}
    prose = Example((Message("assistant", ("Once.",)),), "prose", "text")
    assert set(compute_losses(untrained, [prose])) == {"loss"}
    assert compute_losses(untrained, []) == {}


def test_the_gap_is_of_examples_with_audio(
    untrained: InferenceEngine, examples: list[Example]
) -> None:
    prose = Example((Message("assistant", ("Once upon a time." * 3,)),), "prose", "text")
    with_prose = compute_losses(untrained, [*examples, prose])
    without_prose = compute_losses(untrained, examples)
    assert with_prose["gap"] == pytest.approx(without_prose["gap"], abs=1e-5)
    assert with_prose["loss"] != pytest.approx(without_prose["loss"], abs=1e-5)


def test_only_transcripts_have_a_wer(untrained: InferenceEngine, examples: list[Example]) -> None:
    answers = [replace(example, task="answer") for example in examples]
    report = evaluate_model(untrained, answers)
    assert report.word_errors is None and report.character_errors is None
    assert report.worst_examples == ()
    assert set(report.scores) == {"loss", "shuffled_loss", "gap"}
    mixed = evaluate_model(untrained, [*answers[:3], *examples[3:]])
    transcribed = sorted(score.location for score in mixed.worst_examples)
    assert transcribed == [example.location for example in examples[3:]]
    assert mixed.num_examples == 6


def test_the_highest_wer_comes_first_and_progress_is_reported(
    untrained: InferenceEngine, examples: list[Example]
) -> None:
    progress: list[tuple[int, int]] = []
    report = evaluate_model(
        untrained, examples, progress=lambda done, total: progress.append((done, total))
    )
    assert progress == [(n, 6) for n in range(1, 7)]
    rates = [score.wer for score in report.worst_examples]
    assert rates == sorted(rates, reverse=True) and len(rates) == 6
    assert "dlm-1" in report.normalizer


PATHS = st.sampled_from([Path(f"{name}.wav") for name in "abcd"])
SEGMENTS = st.builds(AudioSegment, PATHS, start=st.sampled_from([None, 0.0, 1.0]))


@given(groups=st.lists(st.lists(SEGMENTS, min_size=1, max_size=2), min_size=1, max_size=8))
def test_shuffling_replaces_every_recording_and_nothing_else(
    groups: list[list[AudioSegment]],
) -> None:
    examples = [
        Example(
            (Message("user", (*segments, "?")), Message("assistant", (str(n),))), str(n), "answer"
        )
        for n, segments in enumerate(groups)
    ]
    shuffled = shuffle_audio(examples)
    all_segments = {segment for segments in groups for segment in segments}
    if len({segment.path for segment in all_segments}) < 2:
        assert shuffled == []
        return
    for example, other in zip(examples, shuffled, strict=True):
        assert (other.location, other.task) == (example.location, example.task)
        assert [each.text for each in other.messages] == [each.text for each in example.messages]
        for own, donor in zip(example.audio_segments, other.audio_segments, strict=True):
            assert donor.path != own.path and donor in all_segments


def test_an_example_of_two_recordings_gets_two_of_other_examples() -> None:
    segments = [AudioSegment(Path(f"{name}.wav")) for name in "abcdef"]
    examples = [
        Example((Message("user", pair), Message("assistant", ("x",))), "p", "answer")
        for pair in (tuple(segments[:2]), tuple(segments[2:4]), tuple(segments[4:]))
    ]
    for example, other in zip(examples, shuffle_audio(examples), strict=True):
        assert not set(example.audio_segments) & set(other.audio_segments)


def test_each_of_distinct_recordings_is_used_once(examples: list[Example]) -> None:
    donors = [example.audio_segments[0] for example in shuffle_audio(examples)]
    own = [example.audio_segments[0] for example in examples]
    assert sorted(map(repr, donors)) == sorted(map(repr, own))
    assert shuffle_audio(examples) == shuffle_audio(examples)
