"""What learns, as the document asks and the base allows; what cannot be is refused.

adapter               projector | lora | dora | full, and where its low-rank weights sit
freeze_encoder        takes the encoder out of it
train_encoder         the encoder's own weights learn beside it
top_layers            and so do those of the language model's last layers
"""

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.types import AdapterSpec, Bits

DEFAULT_QLORA_BITS: Bits = 4
ALL_COMPONENTS: tuple[ComponentName, ...] = ("encoder", "projector", "lm")


def plan_adapter(config: TrainingConfig, spec: ModelSpec) -> AdapterSpec:
    """What learns. Raises PlanError for wishes that exclude each other."""
    kind = config.adapter or spec.default_adapter
    if config.bits and kind != "qlora":
        what = f"training.bits is {config.bits}, and training.adapter is {kind}"
        raise PlanError(what, hint="use adapter: qlora, or take training.bits out")
    where = {"full": ALL_COMPONENTS, "projector": ALL_COMPONENTS[1:2]}.get(kind, config.lora.where)
    _check_encoder_training(config, kind, where)
    _check_top_layers(config, kind, spec)
    where = tuple(role for role in where if role != "encoder" or not config.freeze_encoder)
    adapter = AdapterSpec(
        kind="lora" if kind == "qlora" else kind,
        rank=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        components=where,
        target_modules=None if config.target_modules == "auto" else config.target_modules,
        bits=(config.bits or DEFAULT_QLORA_BITS) if kind == "qlora" else None,
        top_layers=config.top_layers,
        train_encoder=config.train_encoder,
    )
    if not adapter.trainable_groups:
        what = "nothing would learn: training.lora.where names the encoder, which is frozen"
        raise PlanError(what, hint="take training.freeze_encoder out, or name lm or projector")
    if adapter.trainable_groups == ("projector",) and config.stability.freeze_projector_steps:
        what = "nothing would learn while the projector waits: it learns alone"
        raise PlanError(what, hint="take training.stability.freeze_projector_steps out")
    if (
        spec.composition
        and not spec.composition.projector.get("source")
        and "projector" not in where
    ):
        what = "the projector is new, and would stay as random as it is"
        raise PlanError(what, hint="set training.lora.where: [lm, projector]")
    return adapter


def _check_encoder_training(
    config: TrainingConfig, adapter_kind: str, components: tuple[ComponentName, ...]
) -> None:
    """The encoder is frozen, or learns, and in one way."""
    if not config.train_encoder:
        return
    if config.freeze_encoder:
        what = "training.freeze_encoder and training.train_encoder exclude each other"
        raise PlanError(what, hint="take one of them out")
    if adapter_kind != "full" and "encoder" in components:
        what = "training.train_encoder and training.lora.where both teach the encoder"
        raise PlanError(what, hint="take one of them out")


def _check_top_layers(config: TrainingConfig, adapter_kind: str, spec: ModelSpec) -> None:
    """There are so many layers, and their own weights are there to learn."""
    count, layers = config.top_layers, spec.sizes.lm.num_layers
    if count and adapter_kind in ("full", "qlora"):
        why = "learns every layer" if adapter_kind == "full" else "packs the weights of all layers"
        what = f"training.top_layers is {count}, and adapter: {adapter_kind} {why}"
        mend = "use adapter: lora or projector, or take training.top_layers out"
        raise PlanError(what, hint=mend)
    if count > layers:
        what = f"training.top_layers is {count}, and {spec.key} has {layers}"
        raise PlanError(what, hint=f"use {layers} or less")
