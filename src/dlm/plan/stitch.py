"""A base from its parts: what each part tells, and what follows when they are joined.

    encoders    what they take, how fast they read: the first sets the rate    plan/parts.py
    projector   frames of a token, its own size                                plan/projectors.py
    lm          its shape, its words, its form of conversation                 plan/minds.py

Nothing is loaded here: config files and the heads of weight files tell all of it.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlm.document.stitching import Lm, Projector, Stitching
from dlm.plan.bases import Base, Recipe, Sizes, Tower
from dlm.plan.frames import Strides
from dlm.plan.like import complete
from dlm.plan.minds import VOCABULARY, Mind, mind_of
from dlm.plan.parts import Ear, ear_of
from dlm.plan.projectors import (
    projector_learning_rate,
    projector_parameters,
    projector_strides,
)
from dlm.plan.saved import Widths, shape_of

PLACEHOLDER = "<|audio|>"
PROMPT = "Transcribe the audio."
BEFORE = "Listen: "
AFTER = "\n"
EPOCHS = 10
SOONEST = "mlp"
NUMBER_BYTES = 4  # of a fresh projector


@dataclass(frozen=True)
class Join:
    """The projector between its parts: its shape, its strides, how many numbers it learns.

    `weights` says which those are, "" for fresh ones.
    """

    shape: dict[str, Any]
    weights: str
    strides: Strides
    parameters: int


def stitched(given: Stitching, folder: Path) -> Base:
    """The base that these parts make; paths are relative to `folder`.

    Raises BaseError for a part that is not there, is of another kind, or does not fit the others.
    """
    given = complete(given, folder)
    ears = tuple(ear_of(each, folder) for each in given.encoders)
    mind = mind_of(given.lm or Lm(), given.chat, folder)
    join = _joined(_kind(given.projector or Projector()), ears, mind, folder)
    recipe = Recipe(
        encoders=tuple(ear.part for ear in ears),
        projector=join.shape,
        lm=mind.part,
        tokenizer=mind.tokenizer,
    )
    base = Base(
        key="+".join([*(ear.key for ear in ears), join.shape["kind"], mind.key]),
        kind="stitched",
        family="stitched",
        source="",
        revision=None,
        license=_licence(ears, mind),
        strides=join.strides,
        bins=max(ear.hearing.bins for ear in ears),
        whole_mel=True,
        placeholder=mind.facts.placeholder if mind.facts else PLACEHOLDER,
        before=_said(given.before, _before(mind)),
        after=_said(given.after, mind.facts.after if mind.facts else AFTER),
        prompt=_said(given.prompt, mind.facts.prompt if mind.facts else PROMPT),
        chat=mind.chat,
        sizes=Sizes(
            encoder=_towers(ears),
            projector=join.parameters,
            lm=mind.thinking.tower,
            words=mind.thinking.words,
            vocabulary=mind.thinking.vocabulary,
        ),
        megabytes=_megabytes(ears, mind, join),
        context=mind.thinking.context,
        adapter="projector" if mind.part.source else "full",
        learning_rate=projector_learning_rate(join.shape),
        epochs=EPOCHS,
        ear="wave" if len(ears) > 1 else ears[0].hearing.ear,
        recipe=recipe,
    )
    return replace(base, revision=_revision(base, recipe, join.weights))


def _before(mind: Mind) -> str:
    """What stands before a sound: something, for a projector may begin at nothing but zeros.

    Where a model normalises what it reads, zeros from the first token on have no gradient.
    """
    if mind.facts:
        return mind.facts.before
    return BEFORE if mind.chat == "plain" else ""


def _kind(given: Projector) -> Projector:
    """The projector that is asked for; of no kind, that which was seen to listen soonest."""
    return given if given.kind or given.source else given.model_copy(update={"kind": SOONEST})


def _joined(given: Projector, ears: tuple[Ear, ...], mind: Mind, folder: Path) -> Join:
    """The projector that is asked for, at the rate of the first encoder."""
    heard = tuple((ear.hearing.states, ear.hearing.tower.width) for ear in ears)
    out, strides = mind.thinking.tower.width, _strides(ears)
    frames_per_second = strides.rate / (strides.hop * strides.encoder)
    shape, weights = shape_of(given, Widths(heard, out, frames_per_second), folder)
    stride, queries = projector_strides(shape, frames_per_second)
    return Join(
        shape=shape,
        weights=weights,
        strides=replace(strides, projector=stride, queries=queries),
        parameters=projector_parameters(shape, heard, stride=stride, out=out),
    )


def _strides(ears: tuple[Ear, ...]) -> Strides:
    """How the first encoder reads, by the wave where there are two; what both can hear at once."""
    first, all_of_them = ears[0].hearing, [ear.hearing.strides for ear in ears]
    strides = first.strides
    if len(ears) > 1 and first.ear == "mel":
        strides = replace(strides, hop=1, encoder=strides.encoder * strides.hop)
    return replace(
        strides,
        window=min(each.window for each in all_of_them),
        least=max(each.least for each in all_of_them),
        fill="counted" if any(ear.counted for ear in ears) else "none",
    )


def _towers(ears: tuple[Ear, ...]) -> Tower:
    """The largest encoder, with the parameters of all."""
    towers = [ear.hearing.tower for ear in ears]
    largest = max(towers, key=lambda tower: tower.width * tower.layers)
    return replace(largest, parameters=sum(tower.parameters for tower in towers))


def _licence(ears: tuple[Ear, ...], mind: Mind) -> str:
    named = [*(ear.license for ear in ears), mind.license]
    return " and ".join(dict.fromkeys(each for each in named if each)) or "none"


def _megabytes(ears: tuple[Ear, ...], mind: Mind, join: Join) -> int:
    """What is fetched or lies on disk, a source of two parts once, and the projector."""
    sources = {mind.part.source: mind.bytes, **{ear.part.source: ear.bytes for ear in ears}}
    return max(1, round((sum(sources.values()) + join.parameters * NUMBER_BYTES) / 1e6))


def _said(asked: str | None, otherwise: str) -> str:
    return otherwise if asked is None else asked


def _revision(base: Base, recipe: Recipe, weights: str) -> str:
    """Another one when any part, its config, the projector or the form is another.

    Where a part lies is no part of it: a folder may be moved.
    """
    form = (base.strides, base.placeholder, base.before, base.after, base.chat, base.ear)
    parts = [
        [bool(part.source), part.revision, part.config, part.layer]
        for part in (*recipe.encoders, recipe.lm)
    ]
    vocabulary = Path(recipe.tokenizer) / VOCABULARY
    words = vocabulary.read_bytes() if vocabulary.is_file() else recipe.tokenizer.encode()
    projector = {name: each for name, each in recipe.projector.items() if name != "source"}
    told = json.dumps([parts, projector, weights, repr(form)], sort_keys=True)
    return hashlib.sha256(told.encode() + words).hexdigest()[:40]
