"""Curves of a log: by step, by part, and what an older or a broken log lacks."""

from dlm.reports.insight import RunCurves, parse_run_curves


def step(number: int, loss: float | None, **more: object) -> dict:
    rates = {"lora": 1e-4 * number, "projector": 1e-3 * number}
    return {"event": "StepCompleted", "step": number, "loss": loss, "learning_rates": rates, **more}


def test_each_curve_holds_what_the_log_says_of_it() -> None:
    found = parse_run_curves(
        [
            {"event": "TrainingStarted", "step": 0, "steps": 3},
            step(
                1,
                4.0,
                grad_norm=2.0,
                component_grad_norms={"lora": 1.5, "projector": 0.5},
                update_ratios={},
            ),
            step(2, 3.0, grad_norm=1.0, component_grad_norms={}, update_ratios={"lora": 0.001}),
            {
                "event": "AudioGapEvaluated",
                "step": 2,
                "loss": 3.0,
                "shuffled_loss": 3.25,
                "clips": 4,
            },
            {"event": "StepSkipped", "step": 3, "reason": "the loss is not finite", "clips": []},
            {"event": "Evaluated", "step": 3, "scores": {"loss": 2.0, "gap": 0.5}, "clips": 4},
        ]
    )
    assert found.loss == {1: 4.0, 2: 3.0}
    assert found.learning_rates == {"lora": {1: 1e-4, 2: 2e-4}, "projector": {1: 1e-3, 2: 2e-3}}
    assert found.grad_norm == {1: 2.0, 2: 1.0}
    assert found.component_grad_norms == {"lora": {1: 1.5}, "projector": {1: 0.5}}
    assert found.update_ratios == {"lora": {2: 0.001}}
    assert found.audio_gap == {2: 0.25, 3: 0.5}
    assert found.skipped_steps == (3,)


def test_a_run_that_went_on_tells_its_last_word_on_a_step() -> None:
    told = [step(1, 4.0), step(2, 3.5), step(3, 9.0), step(2, 3.0), step(3, 2.0)]
    skipped = {"event": "StepSkipped", "step": 2, "reason": "", "clips": []}
    found = parse_run_curves([*told[:1], skipped, *told[1:]])
    assert list(found.loss.items()) == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert found.skipped_steps == ()


def test_what_a_log_lacks_is_an_empty_curve() -> None:
    assert parse_run_curves([]) == RunCurves()
    older = parse_run_curves([step(1, None, grad_norm=1.0), step(2, 3.0, grad_norm=None)])
    assert older.loss == {2: 3.0} and older.grad_norm == {1: 1.0}
    assert older.component_grad_norms == older.update_ratios == {} and older.audio_gap == {}
    unheard = {
        "event": "AudioGapEvaluated",
        "step": 2,
        "loss": None,
        "shuffled_loss": 1.0,
        "clips": 4,
    }
    assert (
        parse_run_curves([unheard, {"event": "Evaluated", "step": 3, "scores": {}}]).audio_gap == {}
    )
