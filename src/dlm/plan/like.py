"""A base that is like another: the parts of that one, where none is given.

{like: sparrow, projector: mlp}     sparrow's encoder and language model, a fresh projector
{like: sparrow, encoder: {layer: 2}}     all of sparrow, whose second layer is heard
"""

from pathlib import Path
from typing import TypeVar

from dlm.document.record import Record
from dlm.document.stitching import Encoder, Lm, Origin, Projector, Stitching
from dlm.errors import BaseError
from dlm.plan.origin import origin_of
from dlm.plan.recipes import RECIPES

Part = TypeVar("Part", bound=Origin)
Group = TypeVar("Group", bound=Record)


def complete(given: Stitching, folder: Path) -> Stitching:
    """The parts, with those of the base it is like where none is given.

    Raises BaseError where that base has none to give.
    """
    if given.like is None:
        return given
    like = parts_of(given.like, folder)
    asked = given.model_fields_set - {"like", "encoder", "projector", "lm"}
    changed = {name: value for name, value in given if name in asked}
    if isinstance(given.encoder, Encoder) and isinstance(like.encoder, Encoder):
        changed["encoder"] = _over(like.encoder, given.encoder)
    elif given.encoder is not None:
        changed["encoder"] = given.encoder
    mine, theirs = given.projector, like.projector
    if mine is not None:
        changed["projector"] = mine if mine.kind or mine.source else _with(theirs, mine)
    if given.lm is not None:
        changed["lm"] = _over(like.lm, given.lm)
    whole = like.model_copy(update=changed)
    if whole.projector is None:
        what = f"{given.like} has no projector that can be taken"
        raise BaseError(what, where="base_model", mend="add 'projector: mlp'")
    return whole


def parts_of(name: str, folder: Path) -> Stitching:
    """A base as the parts it is stitched from; `folder` is what a path is relative to."""
    if name in RECIPES:
        return RECIPES[name]
    origin = origin_of(name, folder)
    facts, encoder, lm = origin.facts, Encoder(source=name), Lm(source=name)
    if facts is None:
        return Stitching(encoder=encoder, lm=lm)
    return Stitching(
        encoder=encoder,
        projector=Projector(source=name),
        lm=lm,
        prompt=facts.prompt or None,
        before=facts.before,
        after=facts.after,
    )


def _over(like: Part | None, given: Part) -> Part:
    """A part that comes from elsewhere, or the one it is like with other settings."""
    return given if given.source or given.from_scratch else _with(like, given)


def _with(like: Group | None, given: Group) -> Group:
    if like is None:
        return given
    named = given.model_fields_set
    return like.model_copy(update={name: value for name, value in given if name in named})
