"""What `base_model` names: a key of the catalogue, or a folder with a base in it."""

from difflib import get_close_matches
from pathlib import Path

from dlm.errors import BaseError
from dlm.plan.bases import FACTS, Base, read_facts
from dlm.plan.catalogue import CATALOGUE


def find(name: str) -> Base:
    """The row called `name`. Raises BaseError with the nearest key when there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = get_close_matches(name, CATALOGUE, n=1)
    known = ", ".join(sorted(CATALOGUE))
    mend = f"did you mean {near[0]}?" if near else f"known bases: {known}, or a local folder"
    raise BaseError(f"unknown base '{name}'", mend=mend)


def resolve(name: str, folder: Path) -> Base:
    """The facts of what `base_model` names: a catalogue key, or a folder (relative to `folder`)."""
    place = folder / Path(name).expanduser()
    if name in CATALOGUE or not (place / FACTS).is_file():
        return find(name)
    return read_facts(place)
