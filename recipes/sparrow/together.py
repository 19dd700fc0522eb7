"""One process of one thread per core, meeting once a step to average their gradients.

On a busy machine that loses far less than threads that meet in every layer. The work of a step is
done in bf16 by a twin of the model; the weights themselves stay in fp32.
"""

import copy
import tempfile
from collections.abc import Callable

import torch
from torch import distributed, multiprocessing, nn


def run(train: Callable[..., None], processes: int, *given: object) -> None:
    """Run `train(rank, *given)` in every process and wait for all."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}/place"
        multiprocessing.spawn(_join, (train, processes, place, given), processes)


class Twins:
    """An fp32 model and the bf16 twin that does its work."""

    def __init__(self, exact: nn.Module) -> None:
        self.exact, self.fast = exact, copy.deepcopy(exact).bfloat16()
        pairs = zip(exact.parameters(), self.fast.parameters(), strict=True)
        self.pairs = [pair for pair in pairs if pair[0].requires_grad]
        self.weights = [weight for weight, _ in self.pairs]

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the twin the weights of the model, and no gradients."""
        for exact, fast in self.pairs:
            fast.copy_(exact)
        self.fast.zero_grad(set_to_none=True)

    def average(self, numbers: list[float]) -> list[float]:
        """Give every weight the twins' mean gradient; returns the mean of `numbers` as well."""
        grads = [fast.grad.flatten().float() for _, fast in self.pairs]
        wide = torch.cat([*grads, torch.tensor(numbers)])
        distributed.all_reduce(wide)
        wide /= distributed.get_world_size()
        *pieces, means = wide.split([grad.numel() for grad in grads] + [len(numbers)])
        for (exact, _), piece in zip(self.pairs, pieces, strict=True):
            exact.grad = piece.view_as(exact)
        return means.tolist()


def _join(
    rank: int, train: Callable[..., None], processes: int, place: str, given: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=processes)
    train(rank, *given)
    distributed.destroy_process_group()
