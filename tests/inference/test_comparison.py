"""Whether a version may replace another: paired bootstrap on the same clips, and what it needs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlm.inference.comparison import compare_scores, compute_score_difference, score_clips
from dlm.inference.evaluate import compute_losses
from dlm.store.records import ClipScores
from tests.tiny_models import (
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)


def make_scores(errors: list[int], *, metric: str = "wer") -> ClipScores:
    """Scores of as many clips, of eight words each."""
    scores = {f"{number:03}": (float(count), 8.0) for number, count in enumerate(errors)}
    return ClipScores(metric, "dlm-1", scores)


def draw_errors(rate: float, *, seed: int, num_clips: int = 40) -> list[int]:
    return np.random.default_rng(seed).binomial(8, rate, num_clips).tolist()


def test_a_run_with_most_words_wrong_is_clearly_worse_than_one_without_errors() -> None:
    good, bad = make_scores([0] * 40), make_scores(draw_errors(0.61, seed=1))
    comparison = compare_scores(bad, {"v0001": good}, current_name="v0001")
    (difference,) = comparison.differences
    assert not comparison.is_accepted and difference.other_score == 0.0
    assert 0.5 < difference.low < difference.score < difference.high < 0.7
    assert compare_scores(good, {"v0001": bad}, current_name="v0001").is_accepted
    assert comparison == compare_scores(bad, {"v0001": good}, current_name="v0001")


def test_chance_alone_makes_no_version_clearly_worse() -> None:
    """Of two versions with the same error rate, about one in forty is taken for worse."""
    comparisons = [
        compare_scores(
            make_scores(draw_errors(0.2, seed=seed)),
            {"v0001": make_scores(draw_errors(0.2, seed=1000 + seed))},
            current_name="v0001",
        )
        for seed in range(20)
    ]
    assert sum(not comparison.is_accepted for comparison in comparisons) <= 3


def test_the_interval_is_that_of_the_difference_on_the_same_clips() -> None:
    """Clips differ far more than the two versions do, which a paired interval does not see."""
    other = [(float(errors), 8.0) for errors in draw_errors(0.5, seed=3)]
    difference = compute_score_difference("v0001", [(e + 1, n) for e, n in other], other)
    assert difference.low == pytest.approx(1 / 8) == pytest.approx(difference.high)
    assert difference.num_clips == 40


def test_it_must_not_be_clearly_worse_than_the_base_either() -> None:
    good, bad = make_scores([0] * 10), make_scores([4] * 10)
    references = {"v0001": bad, "base": good}
    comparison = compare_scores(bad, references, current_name="v0001")
    assert [each.is_clearly_worse for each in comparison.differences] == [False, True]
    assert not comparison.is_accepted


def test_what_is_not_compared_has_a_reason() -> None:
    four = make_scores([8] * 4)
    comparison = compare_scores(four, {"v0001": make_scores([0] * 4)}, current_name="v0001")
    assert comparison.is_accepted and not comparison.differences
    assert comparison.reason == "4 clips held out, and 5 are needed to compare"
    others = {"v0001": make_scores([0] * 9, metric="loss"), "base": "the base cannot be scored"}
    comparison = compare_scores(make_scores([8] * 9), others, current_name="v0001")
    assert comparison.is_accepted
    assert comparison.reason == "v0001 has no wer on the held-out clips; the base cannot be scored"


def test_clips_are_scored_by_words_characters_or_losses(tmp_path: Path) -> None:
    examples = write_tone_examples(tmp_path / "clips", 3)
    plan = make_tiny_plan(write_tiny_model(tmp_path / "tiny"), len(examples), steps=1)
    engine = make_training_setup(plan, examples).engine
    words = score_clips(engine, {each.location: each for each in examples})
    assert words.metric == "cer"  # every transcript is one word
    lengths = [length for _, length in words.scores.values()]
    assert lengths == [len(each.target) for each in examples]
    answers = {each.location: replace(each, task="answer") for each in examples}
    losses = score_clips(engine, answers)
    assert losses.metric == "loss" and losses.normalizer == ""
    errors, tokens = map(sum, zip(*losses.scores.values(), strict=True))
    mean_loss = compute_losses(engine, list(answers.values()))["loss"]
    assert math.isclose(errors / tokens, mean_loss, rel_tol=1e-5)
