"""The parts of a dataset: train, validation, test, what else they are called, and which is taken.

    train        training, train-clean-100, train.360
    validation   valid, val, dev, eval, dev-other
    test         testing, test-clean

A source takes the part that its `split` names; without one, what is for training.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from dlm.clips.clip import Clip
from dlm.clips.origin import Given, Origin, Shard, Skipped
from dlm.errors import ClipError

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
ENDS = "-_."  # of the word that tells it
NUMBER = re.compile(r"[-_.]\d+(?:-of-\d+.*)?$")  # of a file, where a part has several


def part_of(name: str) -> str | None:
    """What a folder or a file holds, by its name; None for a name that does not tell."""
    word = name.lower()
    for end in ENDS:
        word = word.partition(end)[0]
    return next((part for part, names in NAMES.items() if word in names), None)


def part_of_file(root: Path, file: Path) -> str:
    """The part that a file is of: its own name says so, or a folder's on the way to it."""
    above = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    names = (NUMBER.sub("", file.stem), *reversed(above))
    return next((name for name in names if part_of(name)), "train")


def parted(origin: Origin, shards: Mapping[str, Sequence[Shard]]) -> list[Shard]:
    """The shards of the part that is taken; those of the others are passed over, and counted."""
    taken = taken_of(origin, shards.keys())
    return [
        shard if part in taken else Shard(shard.name, partial(_passed, shard))
        for part, found in shards.items()
        for shard in found
    ]


def taken_of(origin: Origin, parts: Collection[str]) -> list[str]:
    """Which of the parts a source takes. Raises ClipError where it names another."""
    there, said = ", ".join(sorted(parts)), origin.source.split
    if said is None and len(parts) == 1:
        return list(parts)
    wanted = part_of(said or "train")
    taken = [part for part in parts if part == said]
    plain = said is None or said.lower() in {name for names in NAMES.values() for name in names}
    if not taken and wanted is not None and plain:
        taken = [part for part in parts if part_of(part) == wanted]
    if not taken:
        what = f"no split {said}" if said else "no split for training"
        raise ClipError(f"{what}: it has {there or 'none'}", mend="say which with split:")
    return taken


def _passed(shard: Shard, first: int) -> Iterator[Given]:
    """Every clip of a shard that is not taken, by its name alone."""
    for given in shard.read(first):
        if isinstance(given, Clip):
            yield Skipped(given.place, "other split")
