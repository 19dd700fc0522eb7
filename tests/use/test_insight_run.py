"""Curves of a log: by step, by part, and what an older or a broken log lacks."""

from dlm.use.insight_run import Curves, curves


def step(number: int, loss: float | None, **more: object) -> dict:
    rates = {"lora": 1e-4 * number, "projector": 1e-3 * number}
    return {"event": "Step", "step": number, "loss": loss, "rates": rates, **more}


def test_each_curve_holds_what_the_log_says_of_it() -> None:
    found = curves(
        [
            {"event": "Started", "step": 0, "steps": 3},
            step(1, 4.0, gradient_norm=2.0, norms={"lora": 1.5, "projector": 0.5}, changes={}),
            step(2, 3.0, gradient_norm=1.0, norms={}, changes={"lora": 0.001}),
            {"event": "Listened", "step": 2, "loss": 3.0, "shuffled": 3.25, "clips": 4},
            {"event": "Skipped", "step": 3, "reason": "the loss is not finite", "clips": []},
            {"event": "Checked", "step": 3, "scores": {"loss": 2.0, "gap": 0.5}, "clips": 4},
        ]
    )
    assert found.loss == {1: 4.0, 2: 3.0}
    assert found.rates == {"lora": {1: 1e-4, 2: 2e-4}, "projector": {1: 1e-3, 2: 2e-3}}
    assert found.gradient_norm == {1: 2.0, 2: 1.0}
    assert found.norms == {"lora": {1: 1.5}, "projector": {1: 0.5}}
    assert found.changes == {"lora": {2: 0.001}}
    assert found.gap == {2: 0.25, 3: 0.5}
    assert found.skipped == (3,)


def test_a_run_that_went_on_tells_its_last_word_on_a_step() -> None:
    told = [step(1, 4.0), step(2, 3.5), step(3, 9.0), step(2, 3.0), step(3, 2.0)]
    skipped = {"event": "Skipped", "step": 2, "reason": "", "clips": []}
    found = curves([*told[:1], skipped, *told[1:]])
    assert list(found.loss.items()) == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert found.skipped == ()


def test_what_a_log_lacks_is_an_empty_curve() -> None:
    assert curves([]) == Curves()
    older = curves([step(1, None, gradient_norm=1.0), step(2, 3.0, gradient_norm=None)])
    assert older.loss == {2: 3.0} and older.gradient_norm == {1: 1.0}
    assert older.norms == older.changes == {} and older.gap == {}
    unheard = {"event": "Listened", "step": 2, "loss": None, "shuffled": 1.0, "clips": 4}
    assert curves([unheard, {"event": "Checked", "step": 3, "scores": {}}]).gap == {}
