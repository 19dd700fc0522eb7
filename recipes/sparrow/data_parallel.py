"""Data-parallel training on a CPU: a process per core, gradients averaged once per step (gloo).

On a busy machine this is faster than threads, which wait for each other in every layer. Forward and
backward run in bf16 on a copy of the model; the master weights stay in fp32.
"""

import copy
import math
import tempfile
from collections.abc import Callable

import torch
from torch import distributed, multiprocessing, nn


def run_data_parallel(train_fn: Callable[..., None], num_processes: int, *args: object) -> None:
    """Run `train_fn(rank, *args)` in every process, and wait for all."""
    with tempfile.TemporaryDirectory() as folder:
        init_method = f"file://{folder}/rendezvous"
        multiprocessing.spawn(
            _run_rank, (train_fn, num_processes, init_method, args), num_processes
        )


def _run_rank(
    rank: int,
    train_fn: Callable[..., None],
    num_processes: int,
    init_method: str,
    args: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=init_method, rank=rank, world_size=num_processes
    )
    train_fn(rank, *args)
    distributed.destroy_process_group()


class MixedPrecisionModel:
    """A model in fp32 and its copy in bf16, which computes loss and gradients.

    Attributes:
        fp32_model: holds the master weights.
        bf16_model: the copy.
        parameters: trainable parameters of the fp32 model.
    """

    def __init__(self, fp32_model: nn.Module) -> None:
        self.fp32_model = fp32_model
        self.bf16_model = copy.deepcopy(fp32_model).bfloat16()
        pairs = zip(fp32_model.parameters(), self.bf16_model.parameters(), strict=True)
        self._parameter_pairs = [pair for pair in pairs if pair[0].requires_grad]
        self.parameters = [parameter for parameter, _ in self._parameter_pairs]

    @torch.no_grad()
    def sync_weights(self) -> None:
        """Copy the weights to the bf16 model, and drop its gradients."""
        for fp32_parameter, bf16_parameter in self._parameter_pairs:
            bf16_parameter.copy_(fp32_parameter)
        self.bf16_model.zero_grad(set_to_none=True)

    def all_reduce_gradients(self, scalars: list[float]) -> list[float]:
        """Average the bf16 gradients over the processes into the fp32 model.

        Returns:
            `scalars`, averaged too.
        """
        gradients = [parameter.grad.flatten().float() for _, parameter in self._parameter_pairs]
        flat = torch.cat([*gradients, torch.tensor(scalars)])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        *gradients, means = flat.split([grad.numel() for grad in gradients] + [len(scalars)])
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return means.tolist()

    def apply_step(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        """Clip the gradients to a norm of 1, and update the master weights."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()


def compute_learning_rate(
    step: int, progress: float, peak: float, floor: float, warmup_steps: int
) -> float:
    """Compute a cosine schedule over time, with a linear warm-up over steps.

    Args:
        step: counted from 0.
        progress: fraction of the training time that has passed.
        peak: learning rate after the warm-up.
        floor: fraction of `peak` at the end.
        warmup_steps: steps of the warm-up.
    """
    warmup = min(1.0, (step + 1) / warmup_steps)
    decay = floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1))) / 2
    return peak * warmup * decay
