"""How what was looked at is told: a page on a version, this machine, the weights of a base."""

from collections.abc import Sequence
from typing import Any

from dlm.cli.shapes import as_json
from dlm.cli.tell import answer, planned, remark, scores, table
from dlm.verbs.keep import Health

GIB = 1 << 30


def insight(looked: Any, form: str) -> int:
    """Where the page is, and the scores on it."""
    if form == "json":
        answer(as_json(looked))
        return 0
    answer(str(looked.page))
    count = f"{looked.clips:,} clip{'s' * (looked.clips != 1)}"
    whose = "held out" if looked.held_out else "it learned from, none were held out"
    remark(f"{looked.version} on {count} {whose}: {scores(looked.scores)}")
    remark(f"open it in a browser; its {len(looked.pictures)} pictures lie beside it as PNG")
    return 0


def doctor(health: Health, form: str) -> int:
    """What the machine has; exit 1 when a plan does not fit it, or a weight is not a number."""
    faults = health.weights.faults if health.weights else ()
    code = int(health.complaint is not None or bool(faults))
    if form == "json":
        answer(as_json(health))
        return code
    table(_machine(health) + planned(health.plan))
    if health.fits:
        answer()
        _fits(health.fits)
    if health.weights:
        answer()
        _weights(health.weights)
    if health.complaint:
        remark(health.complaint, style="red")
    return code


def _machine(health: Health) -> list[tuple[str, str]]:
    """A line for each thing this machine has."""
    machine = health.machine
    fast = "fast, by AMX" if machine.amx else "fast, by AVX-512" if machine.bf16 else "slow here"
    gpus = "; ".join(f"{gpu.name}, {gpu.free / GIB:.0f} GiB free" for gpu in machine.gpus)
    return [
        ("cpu", f"{machine.cores} cores, bf16 {fast}"),
        ("gpu", gpus or "none"),
        ("memory", f"{machine.free_memory / GIB:.1f} of {machine.memory / GIB:.1f} GiB free"),
        ("disk", f"{machine.free_disk / GIB:.1f} GiB free at {health.home}"),
        ("decoder", health.decoder),
        ("resampler", health.resampler),
        ("hub cache", f"{health.cache}: {', '.join(health.cached) or 'no base of the catalogue'}"),
    ]


def _fits(found: Sequence[Any]) -> None:
    """A line for each base: what every way of teaching it takes, and how many rows fit at once."""
    modes = tuple(dict.fromkeys(fit.mode for fit in found))
    cells: dict[str, list[str]] = {}
    for fit in found:
        star = "*" if fit.checkpointing else ""
        fitting = f"{fit.rows} at once{star}" if fit.rows else "no"
        cells.setdefault(fit.base, []).append(f"{fitting}, {fit.least / GIB:.1f} GiB")
    table([(base, *line) for base, line in cells.items()], head=("base", *modes))
    answer("at the least, for rows of half a minute of sound; * with gradient checkpointing")


def _weights(weights: Any) -> None:
    """The formats of a base's tensors by part, and each tensor that is not finite."""
    rows = [
        (each.part, each.format, f"{each.tensors:,}", f"{each.size_bytes / 1e6:,.1f}")
        for each in weights.formats
    ]
    table(rows, head=("part", "format", "tensors", "MB"))
    for fault in weights.faults:
        remark(f"{fault.file}: {fault.tensor} {fault.what}", style="red")
    if not weights.faults:
        count = sum(each.tensors for each in weights.formats)
        answer(f"{weights.base}: every number of {count:,} tensors is finite")
