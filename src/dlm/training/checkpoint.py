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

from dlm.batching.samplers import DataCursor
from dlm.errors import TrainingError

TrainableParameters = dict[str, torch.nn.Parameter]  # what learns, by name


@dataclass(frozen=True)
class TrainerState:
    """The steps done, and the moments of what was learning then, as they are on disk.

    `cursors` say where each process stands in a stream.
    """

    step: int = 0
    optimizer_moments: dict[str, torch.Tensor] = field(default_factory=dict)
    cursors: tuple[DataCursor, ...] = ()


def write_trainer_state(
    trainable_parameters: TrainableParameters,
    optimizer: torch.optim.Optimizer,
    step: int,
    checkpoint_dir: Path,
    *,
    cursors: tuple[DataCursor, ...] = (),
) -> None:
    """Write the state after `step` steps into `folder`."""
    weights = {
        name: each.detach().cpu().contiguous() for name, each in trainable_parameters.items()
    }
    moments = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, each in trainable_parameters.items()
        for key, value in optimizer.state.get(each, {}).items()
    }
    save_file(weights, checkpoint_dir / "weights.safetensors")
    save_file(moments, checkpoint_dir / "moments.safetensors")
    told = {"step": step, "cursors": cursors} if cursors else {"step": step}
    (checkpoint_dir / "state.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


def load_trainer_state(
    trainable_parameters: TrainableParameters, checkpoint_dir: Path
) -> TrainerState:
    """Put the weights of a state back. Raises TrainingError when it does not fit."""
    try:
        told = json.loads((checkpoint_dir / "state.json").read_text(encoding="utf-8"))
        step = int(told["step"])
        cursors = tuple(tuple(map(int, each)) for each in told.get("cursors", ()))
        weights = load_file(checkpoint_dir / "weights.safetensors")
        moments = load_file(checkpoint_dir / "moments.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as reason:
        mend = "start over with --fresh"
        raise TrainingError(
            f"state unreadable ({reason})", where=str(checkpoint_dir), hint=mend
        ) from reason
    shapes = {name: each.shape for name, each in trainable_parameters.items()}
    known = {key.rpartition("/")[0] for key in moments} <= shapes.keys()
    if not known or {name: each.shape for name, each in weights.items()} != shapes:
        raise TrainingError(
            "the state is of another plan", where=str(checkpoint_dir), hint="use --fresh"
        )
    with torch.no_grad():
        for name, slot in trainable_parameters.items():
            slot.copy_(weights[name])
    return TrainerState(step, moments, cursors)


def load_optimizer_state(
    trainable_parameters: TrainableParameters, optimizer: torch.optim.Optimizer, state: TrainerState
) -> None:
    """Give the optimiser the moments of a state."""
    for key, value in state.optimizer_moments.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[trainable_parameters[name]][moment] = value.to(
            trainable_parameters[name].device
        )
