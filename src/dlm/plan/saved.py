"""A projector that was learned before: where it lies, and whether it fits here.

{source: sparrow}                            that of a stitched base, in the shape it has there
{source: ./v0001, kind: mlp, hidden: 256}    that of a version, in the shape it was learned in
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dlm.document.stitching import Projector
from dlm.errors import BaseError
from dlm.files import sha256_file
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.hearing import hearing_of
from dlm.plan.hub import EMBEDDED
from dlm.plan.origin import Origin, origin_of
from dlm.plan.projectors import Heard, projector_parameters, projector_shape, projector_strides
from dlm.plan.weights import CONFIG, damaged

PREFIX = "projector."
TENSORS = "*.safetensors"
FRESH = "take source out for a fresh one, or name another"


@dataclass(frozen=True)
class Widths:
    """What a projector stands between: hidden states and their width, and the model's width.

    `frames_per_second` are those of the first encoder.
    """

    heard: Heard
    out: int
    frames_per_second: float

    @property
    def told(self) -> str:
        """The same in words."""
        width = sum(states * width for states, width in self.heard)
        return f"frames {width} wide and a language model {self.out} wide"


def shape_of(given: Projector, widths: Widths, folder: Path) -> tuple[dict[str, Any], str]:
    """The kind of the projector that is asked for and its options, checked; its source among them.

    With it, which weights these are: "" for fresh ones. Raises BaseError where saved ones do not
    fit between the parts.
    """
    options = {
        name: value
        for name, value in given.model_dump(exclude_unset=True).items()
        if value is not None and name != "source"
    }
    source = given.source
    if source is None and given.kind in CATALOGUE:
        source = options.pop("kind")
    if source is None:
        projector_shape(options)
        return options, ""
    place = (folder / Path(source).expanduser()).absolute()
    if place.is_dir() and not (place / CONFIG).is_file():
        _check_version(options, place, widths)
        return {**options, "source": str(place)}, _hash(place)
    origin = origin_of(source, folder)
    return _of_base(options, origin, widths), origin.revision


def _of_base(options: dict[str, Any], origin: Origin, widths: Widths) -> dict[str, Any]:
    facts = origin.facts
    if facts is None:
        raise BaseError("holds no projector by itself", where=origin.named, mend=FRESH)
    parts = origin.config["encoders"]
    hearings = [hearing_of(each["config"], each["layer"], where=origin.named) for each in parts]
    heard = tuple((hearing.states, hearing.tower.width) for hearing in hearings)
    there = replace(widths, heard=heard, out=facts.sizes.lm.width)
    if there != widths:
        what = f"its projector joins {there.told}; here are {widths.told}"
        raise BaseError(what, where=origin.named, mend=FRESH)
    shape = {**origin.config["projector"], "stride": facts.strides.projector}
    shape.pop("tokens_per_second", None)
    if any(shape.get(name, value) != value for name, value in options.items()):
        what = f"its projector is {shape}"
        raise BaseError(what, where=origin.named, mend="leave its options out")
    local = Path(origin.source).is_absolute() or origin.source.startswith(EMBEDDED)
    return {**shape, "source": origin.source if local else f"{origin.source}@{origin.revision}"}


def _check_version(options: dict[str, Any], place: Path, widths: Widths) -> None:
    """Refuse what a version holds when it has another number of weights."""
    projector_shape(options)
    stride, _ = projector_strides(options, widths.frames_per_second)
    wanted = projector_parameters(options, widths.heard, stride=stride, out=widths.out)
    found = _count(place)
    if found != wanted:
        what = f"its projector has {found:,} numbers, and one between {widths.told} {wanted:,}"
        raise BaseError(what, where=str(place), mend=FRESH)


def _hash(place: Path) -> str:
    return " ".join(sha256_file(path) for path in sorted(place.glob(TENSORS)))


def _count(place: Path) -> int:
    """Numbers of the projector among the tensors in a folder."""
    total = 0
    for path in sorted(place.glob(TENSORS)):
        try:
            with safe_open(path, framework="numpy") as file:
                for key in sorted(file.keys()):
                    if key.startswith(PREFIX):
                        total += math.prod(file.get_slice(key).get_shape())
        except (OSError, SafetensorError) as reason:
            raise damaged(f"cannot be read ({reason})", path) from reason
    return total
