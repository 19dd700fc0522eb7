"""Curves of a run from its log: loss, learning rates, gradient norms, update ratios, listening gap.

    StepCompleted       loss, learning rates, gradient norm; norms and update ratios by component
    AudioGapEvaluated   the listening gap during training
    Evaluated           the listening gap at the end
    StepSkipped         steps without an update

The log of a run that was resumed holds some steps twice: the last entry of a step counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dlm.training.loss import compute_audio_gap

Curve = dict[int, float]  # value by step, in order


@dataclass(frozen=True)
class RunCurves:
    """The curves of a run; one that was not measured is empty.

    Attributes:
        loss: nats per label token.
        learning_rates: by parameter group.
        grad_norm: before clipping.
        component_grad_norms: the same by component.
        update_ratios: norm of a step's update over the norm of the weights, by component.
        audio_gap: the listening gap, nats per label token.
        skipped_steps: steps without an update.
    """

    loss: Curve = field(default_factory=dict)
    learning_rates: dict[str, Curve] = field(default_factory=dict)
    grad_norm: Curve = field(default_factory=dict)
    component_grad_norms: dict[str, Curve] = field(default_factory=dict)
    update_ratios: dict[str, Curve] = field(default_factory=dict)
    audio_gap: Curve = field(default_factory=dict)
    skipped_steps: tuple[int, ...] = ()


def parse_run_curves(log_events: Iterable[Mapping[str, Any]]) -> RunCurves:
    """Extract the curves of a log, as `store.runs.read_run_log` reads it."""
    events: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event in log_events:
        if "step" in event:
            events.setdefault(event["event"], {})[event["step"]] = event
    steps = events.get("StepCompleted", {})
    skipped = events.get("StepSkipped", {}).keys() - steps.keys()
    gaps = {
        step: {"gap": compute_audio_gap(event["loss"], event["shuffled_loss"])}
        for step, event in events.get("AudioGapEvaluated", {}).items()
        if None not in (event["loss"], event["shuffled_loss"])
    }
    gaps |= {step: event["scores"] for step, event in events.get("Evaluated", {}).items()}
    return RunCurves(
        loss=_extract_curve(steps, "loss"),
        learning_rates=_extract_component_curves(steps, "learning_rates"),
        grad_norm=_extract_curve(steps, "grad_norm"),
        component_grad_norms=_extract_component_curves(steps, "component_grad_norms"),
        update_ratios=_extract_component_curves(steps, "update_ratios"),
        audio_gap=_extract_curve(gaps, "gap"),
        skipped_steps=tuple(sorted(skipped)),
    )


def _extract_curve(events: Mapping[int, Mapping[str, Any]], field_name: str) -> Curve:
    """One number of each event; null stands for one that was not finite."""
    values = {step: events[step].get(field_name) for step in sorted(events)}
    return {step: value for step, value in values.items() if value is not None}


def _extract_component_curves(
    events: Mapping[int, Mapping[str, Any]], field_name: str
) -> dict[str, Curve]:
    values = {step: events[step].get(field_name) or {} for step in sorted(events)}
    components = dict.fromkeys(name for by_component in values.values() for name in by_component)
    return {name: _extract_curve(values, name) for name in components}
