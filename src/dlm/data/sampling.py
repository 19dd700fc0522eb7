"""Which examples come in an epoch: sampling by the `weight` of each source.

    1     every example once
    2.5   every example twice, and half of them a third time
    0.5   half of the examples; the other half in the next epoch

All epochs have the same number of examples, so the batches of a step follow from its number. The
order in which examples take their extra turn is drawn once, from the seed.
"""

import random
from collections.abc import Iterable, Sequence


def count_epoch_examples(weights: Iterable[float]) -> int:
    """Count the examples of an epoch."""
    return sum(count for _, _, count in count_examples_by_weight(weights))


def count_examples_by_weight(weights: Iterable[float]) -> list[tuple[float, int, int]]:
    """Return for each weight: the weight, the examples that have it, their number in an epoch."""
    return [
        (weight, len(indices), _count_epoch_draws(weight, len(indices)))
        for weight, indices in _group_indices_by_weight(weights).items()
    ]


def draw_epoch_indices(weights: Sequence[float], epoch: int, seed: int) -> list[int]:
    """Draw the indices of the examples of an epoch, in ascending order; `epoch` begins at 0."""
    drawn: list[int] = []
    for weight, indices in _group_indices_by_weight(weights).items():
        num_repeats = int(weight)
        num_extra = _count_epoch_draws(weight, len(indices)) - num_repeats * len(indices)
        drawn += indices * num_repeats
        if num_extra:
            order = indices.copy()
            random.Random(f"{seed}/{weight}").shuffle(order)
            start = epoch * num_extra
            drawn += [order[turn % len(order)] for turn in range(start, start + num_extra)]
    return sorted(drawn)


def _group_indices_by_weight(weights: Iterable[float]) -> dict[float, list[int]]:
    groups: dict[float, list[int]] = {}
    for index, weight in enumerate(weights):
        groups.setdefault(weight, []).append(index)
    return groups


def _count_epoch_draws(weight: float, num_examples: int) -> int:
    """Count the draws of an epoch; a source that has examples gives at least one."""
    return max(round(weight * num_examples), 1)
