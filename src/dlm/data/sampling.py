"""How often each clip comes in a pass, by the weight of its source.

    1     once
    2.5   twice, and half of the clips a third time
    0.5   half of the clips: the other half in the next pass

Every pass has as many clips as the first, so a step is a function of its number. Which clips have
their turn is drawn once, by the seed; from there on they take turns.
"""

import random
from collections.abc import Iterable, Sequence


def count_epoch_examples(weights: Iterable[float]) -> int:
    """How many clips come in a pass."""
    return sum(count for _, _, count in count_examples_by_weight(weights))


def count_examples_by_weight(weights: Iterable[float]) -> list[tuple[float, int, int]]:
    """Each weight: how many clips have it, and how many of them come in a pass."""
    members = _group_indices_by_weight(weights)
    return [
        (weight, len(each), _count_epoch_draws(weight, len(each)))
        for weight, each in members.items()
    ]


def draw_epoch_indices(weights: Sequence[float], epoch: int, seed: int) -> list[int]:
    """The indices that come in pass `number`, counted from 0."""
    found: list[int] = []
    for weight, members in _group_indices_by_weight(weights).items():
        whole, some = (
            int(weight),
            _count_epoch_draws(weight, len(members)) - int(weight) * len(members),
        )
        found += members * whole
        if some:
            turns = members.copy()
            random.Random(f"{seed}/{weight}").shuffle(turns)
            first = epoch * some
            found += [turns[at % len(turns)] for at in range(first, first + some)]
    return sorted(found)


def _group_indices_by_weight(weights: Iterable[float]) -> dict[float, list[int]]:
    """The indices of each weight."""
    members: dict[float, list[int]] = {}
    for index, weight in enumerate(weights):
        members.setdefault(weight, []).append(index)
    return members


def _count_epoch_draws(weight: float, num_examples: int) -> int:
    """How many of so many clips come in a pass; of a source that is there, at least one."""
    return max(round(weight * num_examples), 1)
