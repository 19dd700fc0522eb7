"""What hears in a stitched base: an encoder, from its source or its config.

a stitched base      its encoder
a model that hears   its tower (audio_config)
an encoder           itself
from_scratch         random weights of a config
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlm.document.stitching import Encoder
from dlm.errors import BaseError
from dlm.plan.bases import Layer, Part
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.derive import PARTS, family_of, part_of, read_json
from dlm.plan.hearing import BERT, ENCODERS, MELS, Hearing, encoder_parameters, hearing_of
from dlm.plan.origin import Origin, origin_of
from dlm.plan.thinking import USUAL
from dlm.plan.weights import Weights

Config = dict[str, Any]

SCRATCH = "new-"  # before the class of a part with random weights, in the key of its base
THINKS = ("ForCausalLM", "LMHeadModel")  # how the classes of language models end
FAMILIES = {base.family for base in CATALOGUE.values() if base.kind == "native"}


@dataclass(frozen=True)
class Ear:
    """What hears; `bytes` are those of its files. `counted` when silence up to a window counts."""

    part: Part
    key: str
    hearing: Hearing
    counted: bool = False
    license: str = ""
    bytes: int = 0


def ear_of(given: Encoder, folder: Path) -> Ear:
    """What the plan needs of an encoder. Raises BaseError where it is none."""
    if given.from_scratch is not None:
        kind = given.from_scratch["model_type"]
        where = f"from_scratch: {kind}"
        _check_hears(given.from_scratch, where)
        hearing = hearing_of(given.from_scratch, given.layer, where=where)
        ear = Ear(Part("", None, given.from_scratch, given.layer), SCRATCH + kind, hearing)
    else:
        ear = _released(origin_of(str(given.source), folder), given)
    return _padded(ear) if given.pad else ear


def bytes_of(weights: Weights) -> int:
    """Bytes of all tensors."""
    return sum(each.end - each.begin for file in weights.values() for each in file.values())


def hears(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model that hears and thinks."""
    return family_of(dict(config)) in FAMILIES


def _released(origin: Origin, given: Encoder) -> Ear:
    if origin.facts is not None:
        return _of_stitched(origin, given)
    weights = origin.weights
    if hears(origin.config):
        config = _tower(origin.config, origin.named)
        tensors = ((key, each) for file in weights.values() for key, each in file.items())
        count = sum(each.count for key, each in tensors if PARTS["encoder"].search(key))
    else:
        config, count = origin.config, encoder_parameters(weights)
    _check_hears(config, origin.named)
    if config["model_type"] not in (*MELS, BERT):
        config = {**config, **_prepared(origin)}
    found = hearing_of(config, given.layer, where=origin.named)
    return Ear(
        part=Part(origin.source, origin.revision, config, given.layer),
        key=origin.key,
        hearing=replace(found, tower=replace(found.tower, parameters=count)),
        license=origin.license,
        bytes=bytes_of(weights),
    )


def _of_stitched(origin: Origin, given: Encoder) -> Ear:
    """The encoder of a stitched base, heard as it was there."""
    parts, facts = origin.config["encoders"], origin.facts
    if len(parts) != 1 or facts is None:
        what = "has two encoders, which cannot be taken apart"
        raise BaseError(what, where=origin.named, mend="name the two by their own sources")
    (part,) = parts
    layer: Layer = given.layer if "layer" in given.model_fields_set else part["layer"]
    found = hearing_of(part["config"], layer, where=origin.named)
    tower = replace(found.tower, parameters=facts.sizes.encoder.parameters)
    return Ear(
        part=Part(origin.source, origin.revision, part["config"], layer),
        key=origin.key,
        hearing=replace(found, tower=tower),
        counted=facts.strides.fill == "counted",
        license=origin.license,
        bytes=facts.megabytes * 10**6,
    )


def _tower(config: Config, where: str) -> Config:
    """The config of what hears in a model that does more."""
    family = family_of(config)
    whole = part_of(config, "thinker_config") or config
    tower = {"model_type": f"{family}_encoder", **part_of(whole, "audio_config")}
    if tower["model_type"] not in ENCODERS:
        what = f"the encoder of {family} cannot be taken out of it"
        raise BaseError(what, where=where, mend=f"known encoders are {', '.join(ENCODERS)}")
    return tower


def _check_hears(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is no encoder of sound, by its name."""
    kind = str(config.get("model_type", "unknown"))
    if kind in ENCODERS:
        return
    if kind in USUAL or named_class(config).endswith(THINKS):
        what = f"is a language model ({kind}), not an encoder of sound"
        raise BaseError(what, where=where, mend="name it under lm: the two are swapped")
    what = f"is of a class that is not known to hear ({kind})"
    raise BaseError(what, where=where, mend=f"known encoders are {', '.join(ENCODERS)}")


def named_class(config: Mapping[str, Any]) -> str:
    """The class that a config says it is of, as far as it says so."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def _prepared(origin: Origin) -> Config:
    """Whether a wave is brought to a mean of 0 and a variance of 1, where that is told."""
    path = origin.file("preprocessor_config.json")
    told = read_json(path) if path else {}
    return {key: told[key] for key in ("do_normalize",) if isinstance(told.get(key), bool)}


def _padded(ear: Ear) -> Ear:
    """The same encoder, that hears every clip with silence up to 30 s."""
    strides = ear.hearing.strides
    if ear.hearing.ear != "mel":
        what = "hears a clip as long as it is, and takes no pad"
        raise BaseError(what, where=ear.key, mend="take encoder.pad out")
    if strides.window_seconds != 30:
        what = f"hears {strides.window_seconds:g} s at once, not 30 s"
        raise BaseError(what, where=ear.key, mend="take encoder.pad out")
    return replace(ear, counted=True)
