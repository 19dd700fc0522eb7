"""Curves of a log: by step and by component, and what an older log or an interrupted run lacks."""

from dlm.reports.run_curves import RunCurves, parse_run_curves


def make_step(number: int, loss: float | None, **fields: object) -> dict:
    rates = {"lora": 1e-4 * number, "projector": 1e-3 * number}
    return {
        "event": "StepCompleted",
        "step": number,
        "loss": loss,
        "learning_rates": rates,
        **fields,
    }


def make_gap(step: int, loss: float | None, shuffled_loss: float) -> dict:
    losses = {"loss": loss, "shuffled_loss": shuffled_loss}
    return {"event": "AudioGapEvaluated", "step": step, **losses, "num_examples": 4}


def test_each_curve_holds_what_the_log_holds() -> None:
    norms = {"lora": 1.5, "projector": 0.5}
    ratios = {"lora": 0.001}
    curves = parse_run_curves(
        [
            {"event": "TrainingStarted", "step": 0, "num_steps": 3},
            make_step(1, 4.0, grad_norm=2.0, component_grad_norms=norms, update_ratios={}),
            make_step(2, 3.0, grad_norm=1.0, component_grad_norms={}, update_ratios=ratios),
            make_gap(2, 3.0, 3.25),
            {"event": "StepSkipped", "step": 3, "reason": "loss is not finite", "locations": []},
            {"event": "Evaluated", "step": 3, "scores": {"loss": 2.0, "gap": 0.5}},
        ]
    )
    assert curves.loss == {1: 4.0, 2: 3.0}
    assert curves.learning_rates == {"lora": {1: 1e-4, 2: 2e-4}, "projector": {1: 1e-3, 2: 2e-3}}
    assert curves.grad_norm == {1: 2.0, 2: 1.0}
    assert curves.component_grad_norms == {"lora": {1: 1.5}, "projector": {1: 0.5}}
    assert curves.update_ratios == {"lora": {2: 0.001}}
    assert curves.audio_gap == {2: 0.25, 3: 0.5}
    assert curves.skipped_steps == (3,)


def test_the_last_entry_of_a_step_counts() -> None:
    skipped = {"event": "StepSkipped", "step": 2, "reason": "", "locations": []}
    interrupted = [make_step(1, 4.0), skipped, make_step(2, 3.5), make_step(3, 9.0)]
    curves = parse_run_curves([*interrupted, make_step(2, 3.0), make_step(3, 2.0)])
    assert list(curves.loss.items()) == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert curves.skipped_steps == ()


def test_what_a_log_lacks_is_an_empty_curve() -> None:
    assert parse_run_curves([]) == RunCurves()
    older = parse_run_curves([make_step(1, None, grad_norm=1.0), make_step(2, 3.0, grad_norm=None)])
    assert older.loss == {2: 3.0} and older.grad_norm == {1: 1.0}
    assert older.component_grad_norms == older.update_ratios == older.audio_gap == {}
    without_gap = [make_gap(2, None, 1.0), {"event": "Evaluated", "step": 3, "scores": {}}]
    assert parse_run_curves(without_gap).audio_gap == {}
