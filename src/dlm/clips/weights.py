"""How often each clip comes in a pass, by the weight of its source.

    1     once
    2.5   twice, and half of the clips a third time
    0.5   half of the clips: the other half in the next pass

Every pass has as many clips as the first, so a step is a function of its number. Which clips have
their turn is drawn once, by the seed; from there on they take turns.
"""

import random
from collections.abc import Iterable, Sequence


def in_a_pass(weights: Iterable[float]) -> int:
    """How many clips come in a pass."""
    return sum(count for _, _, count in shares(weights))


def shares(weights: Iterable[float]) -> list[tuple[float, int, int]]:
    """Each weight: how many clips have it, and how many of them come in a pass."""
    members = _members(weights)
    return [(weight, len(each), _count(weight, len(each))) for weight, each in members.items()]


def drawn(weights: Sequence[float], number: int, seed: int) -> list[int]:
    """The indices that come in pass `number`, counted from 0."""
    found: list[int] = []
    for weight, members in _members(weights).items():
        whole, some = int(weight), _count(weight, len(members)) - int(weight) * len(members)
        found += members * whole
        if some:
            turns = members.copy()
            random.Random(f"{seed}/{weight}").shuffle(turns)
            first = number * some
            found += [turns[at % len(turns)] for at in range(first, first + some)]
    return sorted(found)


def _members(weights: Iterable[float]) -> dict[float, list[int]]:
    """The indices of each weight."""
    members: dict[float, list[int]] = {}
    for index, weight in enumerate(weights):
        members.setdefault(weight, []).append(index)
    return members


def _count(weight: float, many: int) -> int:
    """How many of so many clips come in a pass; of a source that is there, at least one."""
    return max(round(weight * many), 1)
