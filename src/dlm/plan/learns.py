"""What learns, as the document asks and the base allows; what cannot be is refused.

adapter               projector | lora | dora | full, and where its low-rank weights sit
freeze_encoder        takes the encoder out of it
train_encoder         the encoder's own weights learn beside it
top_layers            and so do those of the language model's last layers
"""

from dlm.document.settings import Training
from dlm.errors import PlanError
from dlm.plan.bases import Base, Role
from dlm.plan.plan import Adapter, Bits

QLORA_BITS: Bits = 4
EVERYWHERE: tuple[Role, ...] = ("encoder", "projector", "lm")


def adapter_of(asked: Training, base: Base) -> Adapter:
    """What learns. Raises PlanError for wishes that exclude each other."""
    kind = asked.adapter or base.adapter
    if asked.bits and kind != "qlora":
        what = f"training.bits is {asked.bits}, and training.adapter is {kind}"
        raise PlanError(what, mend="use adapter: qlora, or take training.bits out")
    where = {"full": EVERYWHERE, "projector": EVERYWHERE[1:2]}.get(kind, asked.lora.where)
    _check_encoder(asked, kind, where)
    _check_layers(asked, kind, base)
    where = tuple(role for role in where if role != "encoder" or not asked.freeze_encoder)
    adapter = Adapter(
        kind="lora" if kind == "qlora" else kind,
        rank=asked.lora_r,
        alpha=asked.lora_alpha,
        dropout=asked.lora_dropout,
        where=where,
        targets=None if asked.target_modules == "auto" else asked.target_modules,
        bits=(asked.bits or QLORA_BITS) if kind == "qlora" else None,
        top_layers=asked.top_layers,
        train_encoder=asked.train_encoder,
    )
    if not adapter.learners:
        what = "nothing would learn: training.lora.where names the encoder, which is frozen"
        raise PlanError(what, mend="take training.freeze_encoder out, or name lm or projector")
    if adapter.learners == ("projector",) and asked.stability.freeze_projector_steps:
        what = "nothing would learn while the projector waits: it learns alone"
        raise PlanError(what, mend="take training.stability.freeze_projector_steps out")
    if base.recipe and not base.recipe.projector.get("source") and "projector" not in where:
        what = "the projector is new, and would stay as random as it is"
        raise PlanError(what, mend="set training.lora.where: [lm, projector]")
    return adapter


def _check_encoder(asked: Training, kind: str, where: tuple[Role, ...]) -> None:
    """The encoder is frozen, or learns, and in one way."""
    if not asked.train_encoder:
        return
    if asked.freeze_encoder:
        what = "training.freeze_encoder and training.train_encoder exclude each other"
        raise PlanError(what, mend="take one of them out")
    if kind != "full" and "encoder" in where:
        what = "training.train_encoder and training.lora.where both teach the encoder"
        raise PlanError(what, mend="take one of them out")


def _check_layers(asked: Training, kind: str, base: Base) -> None:
    """There are so many layers, and their own weights are there to learn."""
    count, layers = asked.top_layers, base.sizes.lm.layers
    if count and kind in ("full", "qlora"):
        why = "learns every layer" if kind == "full" else "packs the weights of all layers"
        what = f"training.top_layers is {count}, and adapter: {kind} {why}"
        mend = "use adapter: lora or projector, or take training.top_layers out"
        raise PlanError(what, mend=mend)
    if count > layers:
        what = f"training.top_layers is {count}, and {base.key} has {layers}"
        raise PlanError(what, mend=f"use {layers} or less")
