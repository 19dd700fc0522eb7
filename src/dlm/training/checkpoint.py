"""The checkpoint a run resumes from, to the same bits: trained weights, Adam's moments, the step.

    weights.safetensors      trained parameters, by name
    moments.safetensors      <name>/exp_avg, <name>/exp_avg_sq, <name>/step
    state.json               {"step": steps done}; of a stream also "cursors", one for each rank

Random numbers and the position in listed data are functions of the seed and the step.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.batching.samplers import DataCursor
from dlm.errors import TrainingError

TrainableParameters = dict[str, torch.nn.Parameter]  # by name


@dataclass(frozen=True)
class TrainerState:
    """A checkpoint, apart from the weights.

    Attributes:
        step: steps done.
        optimizer_moments: by parameter and moment, as in moments.safetensors.
        cursors: position of each rank in a stream; empty for listed data.
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
    """Write the checkpoint after `step` steps into an empty folder."""
    weights = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in trainable_parameters.items()
    }
    moments = {
        f"{name}/{moment}": value.detach().cpu().contiguous()
        for name, parameter in trainable_parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(weights, checkpoint_dir / "weights.safetensors")
    save_file(moments, checkpoint_dir / "moments.safetensors")
    state = {"step": step, "cursors": cursors} if cursors else {"step": step}
    (checkpoint_dir / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def load_trainer_state(
    trainable_parameters: TrainableParameters, checkpoint_dir: Path
) -> TrainerState:
    """Load a checkpoint's weights into the parameters, and return the rest of it.

    Raises:
        TrainingError: it cannot be read (`training.bad_checkpoint`), or holds other parameters
            (`training.other_plan`).
    """
    try:
        state = json.loads((checkpoint_dir / "state.json").read_text(encoding="utf-8"))
        step = int(state["step"])
        cursors = tuple(tuple(map(int, cursor)) for cursor in state.get("cursors", ()))
        weights = load_file(checkpoint_dir / "weights.safetensors")
        moments = load_file(checkpoint_dir / "moments.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint cannot be read ({error})",
            where=str(checkpoint_dir),
            hint="start over with --fresh",
            code="training.bad_checkpoint",
        ) from error
    shapes = {name: parameter.shape for name, parameter in trainable_parameters.items()}
    known_moments = {key.rpartition("/")[0] for key in moments} <= shapes.keys()
    if not known_moments or {name: each.shape for name, each in weights.items()} != shapes:
        raise TrainingError(
            "the checkpoint belongs to another plan",
            where=str(checkpoint_dir),
            hint="start over with --fresh",
            code="training.other_plan",
        )
    with torch.no_grad():
        for name, parameter in trainable_parameters.items():
            parameter.copy_(weights[name])
    return TrainerState(step, moments, cursors)


def load_optimizer_state(
    trainable_parameters: TrainableParameters, optimizer: torch.optim.Optimizer, state: TrainerState
) -> None:
    """Give the optimizer the moments of a checkpoint."""
    for key, value in state.optimizer_moments.items():
        name, _, moment = key.rpartition("/")
        parameter = trainable_parameters[name]
        optimizer.state[parameter][moment] = value.to(parameter.device)
