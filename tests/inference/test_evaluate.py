"""Scores on clips: the listening gap tells a model that hears from one that does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

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
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def untaught(folder: Path, clips: list[Example]) -> InferenceEngine:
    return make_training_setup(make_tiny_plan(folder, len(clips), steps=1), clips).engine


def test_a_random_model_ignores_the_audio(untaught: InferenceEngine, clips: list[Example]) -> None:
    report = evaluate_model(untaught, clips)
    assert abs(report.scores["gap"]) < 0.1
    assert report.scores["wer"] > 0.9
    assert report.scores["gap"] == pytest.approx(
        report.scores["shuffled_loss"] - report.scores["loss"]
    )
    assert Evaluated(1, report.scores, report.num_examples).ignores_audio


def taught_tones(folder: Path, repeats: int, first: int = 0) -> list[Example]:
    """Four pitches, each always another word, recorded several times."""
    return [
        make_example(
            write_tone(folder / f"{n}-{m}.wav", hertz=250 + 400 * n + m, seconds=0.4),
            TRANSCRIPTS[n],
        )
        for n in range(4)
        for m in range(first, first + repeats)
    ]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_model_taught_with_other_clips_sounds_is_deaf_and_says_so(
    folder: Path, tmp_path: Path, shuffled: bool
) -> None:
    """Taught through `fit` and tried on other recordings; the right pairs do teach it to hear."""
    learn, held_out = taught_tones(tmp_path, 8), taught_tones(tmp_path, 2, first=10)
    if shuffled:  # every pitch is said to be each word equally often
        words = [Message("assistant", (word,)) for word in TRANSCRIPTS[:4]]
        learn = [
            replace(clip, messages=(clip.messages[0], words[n % 4])) for n, clip in enumerate(learn)
        ]
    plan = make_tiny_plan(folder, 32, steps=100, learning_rate=1e-2, micro_batch_size=16)
    taught = make_training_setup(plan, learn)

    def check() -> tuple[dict[str, float], int]:
        return evaluate_model(taught.engine, held_out).scores, len(held_out)

    (checked,) = [
        each for each in taught.iter_events(evaluate_fn=check) if isinstance(each, Evaluated)
    ]
    scores = checked.scores
    assert checked.ignores_audio == shuffled
    if shuffled:
        assert abs(scores["gap"]) < 0.1, scores
    else:
        assert scores["shuffled_loss"] >= 3 * scores["loss"], scores
        assert scores["wer"] == 0.0


def test_scores_do_not_depend_on_the_order_of_clips(
    untaught: InferenceEngine, clips: list[Example]
) -> None:
    one, other = (compute_losses(untaught, each) for each in (clips, clips[::-1]))
    assert one == pytest.approx(other, abs=1e-5)


def test_without_another_sound_there_is_no_gap(
    untaught: InferenceEngine, clips: list[Example]
) -> None:
    assert set(compute_losses(untaught, clips[:1])) == {"loss"}
    prose = Example((Message("assistant", ("Once.",)),), "prose", "text")
    assert set(compute_losses(untaught, [prose])) == {"loss"}
    assert compute_losses(untaught, []) == {}


def test_prose_has_no_part_in_the_gap(untaught: InferenceEngine, clips: list[Example]) -> None:
    prose = Example((Message("assistant", ("Once upon a time." * 3,)),), "prose", "text")
    with_prose, without = compute_losses(untaught, [*clips, prose]), compute_losses(untaught, clips)
    assert with_prose["gap"] == pytest.approx(without["gap"], abs=1e-5)
    assert with_prose["loss"] != pytest.approx(without["loss"], abs=1e-5)


def test_only_transcripts_are_scored_by_words(
    untaught: InferenceEngine, clips: list[Example]
) -> None:
    answers = [replace(clip, task="answer") for clip in clips]
    report = evaluate_model(untaught, answers)
    assert (
        report.word_errors is None
        and report.character_errors is None
        and report.worst_examples == ()
    )
    assert set(report.scores) == {"loss", "shuffled_loss", "gap"}
    mixed = evaluate_model(untaught, [*answers[:3], *clips[3:]])
    assert sorted(each.location for each in mixed.worst_examples) == [
        clip.location for clip in clips[3:]
    ]
    assert mixed.num_examples == 6


def test_the_worst_come_first_and_progress_is_told(
    untaught: InferenceEngine, clips: list[Example]
) -> None:
    told = []
    report = evaluate_model(untaught, clips, progress=lambda done, of: told.append((done, of)))
    assert told == [(n, 6) for n in range(1, 7)]
    rates = [each.wer for each in report.worst_examples]
    assert rates == sorted(rates, reverse=True) and len(rates) == 6
    assert "dlm-1" in report.normalizer


PATHS = some.sampled_from([Path(f"{name}.wav") for name in "abcd"])
SOUNDS = some.builds(AudioSegment, PATHS, start=some.sampled_from([None, 0.0, 1.0]))


@given(groups=some.lists(some.lists(SOUNDS, min_size=1, max_size=2), min_size=1, max_size=8))
def test_no_clip_keeps_its_own_recording(groups: list[list[AudioSegment]]) -> None:
    clips = [
        Example(
            (Message("user", (*sounds, "?")), Message("assistant", (str(n),))), str(n), "answer"
        )
        for n, sounds in enumerate(groups)
    ]
    swapped = shuffle_audio(clips)
    if len({sound.path for sounds in groups for sound in sounds}) < 2:
        assert swapped == []
        return
    every = {sound for sounds in groups for sound in sounds}
    for clip, other in zip(clips, swapped, strict=True):
        assert (other.location, other.target, other.task) == (clip.location, clip.target, clip.task)
        assert [turn.text for turn in other.messages] == [turn.text for turn in clip.messages]
        for mine, given_ in zip(clip.audio_segments, other.audio_segments, strict=True):
            assert given_.path != mine.path and given_ in every


def test_a_clip_of_two_sounds_gets_two_of_others() -> None:
    sounds = [AudioSegment(Path(f"{name}.wav")) for name in "abcdef"]
    clips = [
        Example((Message("user", pair), Message("assistant", ("x",))), "p", "answer")
        for pair in (tuple(sounds[:2]), tuple(sounds[2:4]), tuple(sounds[4:]))
    ]
    for clip, other in zip(clips, shuffle_audio(clips), strict=True):
        assert not set(clip.audio_segments) & set(other.audio_segments)


def test_each_sound_stands_in_once_where_all_differ(clips: list[Example]) -> None:
    swapped = [clip.audio_segments[0] for clip in shuffle_audio(clips)]
    assert sorted(map(repr, swapped)) == sorted(repr(clip.audio_segments[0]) for clip in clips)
    assert shuffle_audio(clips) == shuffle_audio(clips)
