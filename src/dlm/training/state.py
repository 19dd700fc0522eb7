"""Everything a run needs to go on to the same bits: weights, optimiser moments, the step.

    weights.safetensors      what learns, by name
    moments.safetensors      <name>/exp_avg, <name>/exp_avg_sq, <name>/step
    state.json               {"step": steps done}; of a stream its "cursors" too, one a process

Random numbers and the place in a list need no file: both are functions of the seed and the step.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.batches.bucket import Cursor
from dlm.errors import TrainingError

Slots = dict[str, torch.nn.Parameter]  # what learns, by name


@dataclass(frozen=True)
class State:
    """The steps done, and the moments of what was learning then, as they are on disk.

    `cursors` say where each process stands in a stream.
    """

    step: int = 0
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    cursors: tuple[Cursor, ...] = ()


def write_state(
    slots: Slots,
    optimizer: torch.optim.Optimizer,
    step: int,
    folder: Path,
    *,
    cursors: tuple[Cursor, ...] = (),
) -> None:
    """Write the state after `step` steps into `folder`."""
    weights = {name: each.detach().cpu().contiguous() for name, each in slots.items()}
    moments = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, each in slots.items()
        for key, value in optimizer.state.get(each, {}).items()
    }
    save_file(weights, folder / "weights.safetensors")
    save_file(moments, folder / "moments.safetensors")
    told = {"step": step, "cursors": cursors} if cursors else {"step": step}
    (folder / "state.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


def read_state(slots: Slots, folder: Path) -> State:
    """Put the weights of a state back. Raises TrainingError when it does not fit."""
    try:
        told = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        step = int(told["step"])
        cursors = tuple(tuple(map(int, each)) for each in told.get("cursors", ()))
        weights = load_file(folder / "weights.safetensors")
        moments = load_file(folder / "moments.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as reason:
        mend = "start over with --fresh"
        raise TrainingError(
            f"state unreadable ({reason})", where=str(folder), mend=mend
        ) from reason
    shapes = {name: each.shape for name, each in slots.items()}
    known = {key.rpartition("/")[0] for key in moments} <= shapes.keys()
    if not known or {name: each.shape for name, each in weights.items()} != shapes:
        raise TrainingError("the state is of another plan", where=str(folder), mend="use --fresh")
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(weights[name])
    return State(step, moments, cursors)


def place_moments(slots: Slots, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give the optimiser the moments of a state."""
    for key, value in state.moments.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[slots[name]][moment] = value.to(slots[name].device)
