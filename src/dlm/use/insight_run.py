"""What a run said, as curves by step: loss, rates, gradients, changes of the weights, the gap.

    Step       loss, rates, gradient_norm; norms and changes by part, where the run measured them
    Listened   the listening gap on the way
    Checked    the listening gap at the end, with the scores
    Skipped    steps that taught nothing

A run that was cut short and went on tells some steps twice: what was told last is what counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dlm.training.loss import listening_gap

Line = dict[int, float]  # by step, in their order


@dataclass(frozen=True)
class Curves:
    """One run by step; a curve that was not measured is empty.

    `loss` and `gap` are nats per label token, `norms` gradient norms before clipping, `changes` the
    length of a step's change over the length of the weights, both by part.
    """

    loss: Line = field(default_factory=dict)
    rates: dict[str, Line] = field(default_factory=dict)
    gradient_norm: Line = field(default_factory=dict)
    norms: dict[str, Line] = field(default_factory=dict)
    changes: dict[str, Line] = field(default_factory=dict)
    gap: Line = field(default_factory=dict)
    skipped: tuple[int, ...] = ()


def curves(told: Iterable[Mapping[str, Any]]) -> Curves:
    """The curves of a log, as `store.record.read_log` gives its lines."""
    events: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event in told:
        if "step" in event:
            events.setdefault(event["event"], {})[event["step"]] = event
    steps = events.get("Step", {})
    skipped = events.get("Skipped", {}).keys() - steps.keys()
    return Curves(
        loss=_line(steps, "loss"),
        rates=_lines(steps, "rates"),
        gradient_norm=_line(steps, "gradient_norm"),
        norms=_lines(steps, "norms"),
        changes=_lines(steps, "changes"),
        gap=_gap(events),
        skipped=tuple(sorted(skipped)),
    )


def _line(events: Mapping[int, Mapping[str, Any]], name: str) -> Line:
    """One number of each event; null stands for one that was not finite."""
    return {
        step: events[step][name] for step in sorted(events) if events[step].get(name) is not None
    }


def _lines(events: Mapping[int, Mapping[str, Any]], name: str) -> dict[str, Line]:
    """A number of each event by part."""
    by_step = {step: event.get(name) or {} for step, event in events.items()}
    parts = dict.fromkeys(part for step in sorted(by_step) for part in by_step[step])
    return {part: _line(by_step, part) for part in parts}


def _gap(events: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Line:
    checked = {step: event["scores"] for step, event in events.get("Checked", {}).items()}
    listened = {
        step: {"gap": listening_gap(event["loss"], event["shuffled"])}
        for step, event in events.get("Listened", {}).items()
        if None not in (event["loss"], event["shuffled"])
    }
    return _line({**checked, **listened}, "gap")
