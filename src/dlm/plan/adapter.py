"""What is trained: adapter kind, LoRA components, frozen or trained encoder, top layers.

    adapter          projector | lora | qlora | dora | full, in the components of `lora.where`
    freeze_encoder   takes the encoder out of them
    train_encoder    trains the encoder's own weights besides
    top_layers       trains the last layers of the language model besides

Settings that exclude each other, or that train nothing, are refused.
"""

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.types import AdapterSpec, Bits

DEFAULT_QLORA_BITS: Bits = 4


def plan_adapter(config: TrainingConfig, spec: ModelSpec) -> AdapterSpec:
    """Return what is trained of a model.

    Raises:
        PlanError: settings exclude each other (`plan.bits_without_qlora`,
            `plan.encoder_frozen_and_trained`, `plan.encoder_trained_twice`,
            `plan.bad_top_layers`), nothing would be trained (`plan.nothing_to_train`), or a new
            projector would not be (`plan.untrained_projector`).
    """
    kind = config.adapter or spec.default_adapter
    if config.bits and kind != "qlora":
        raise PlanError(
            f"training.bits is {config.bits}, and training.adapter is {kind}",
            hint="use adapter: qlora, or take training.bits out",
            code="plan.bits_without_qlora",
        )
    components: tuple[ComponentName, ...] = config.lora.where
    if kind in ("full", "projector"):
        components = ("encoder", "projector", "lm") if kind == "full" else ("projector",)
    if config.train_encoder:
        _check_encoder_training(config, kind, components)
    if config.top_layers:
        _check_top_layers(config.top_layers, kind, spec)
    if config.freeze_encoder:
        components = tuple(component for component in components if component != "encoder")
    adapter = AdapterSpec(
        kind="lora" if kind == "qlora" else kind,
        rank=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        components=components,
        target_modules=None if config.target_modules == "auto" else config.target_modules,
        bits=(config.bits or DEFAULT_QLORA_BITS) if kind == "qlora" else None,
        top_layers=config.top_layers,
        train_encoder=config.train_encoder,
    )
    _check_trainable_groups(config, adapter, spec)
    return adapter


def _check_encoder_training(
    config: TrainingConfig, kind: str, components: tuple[ComponentName, ...]
) -> None:
    if config.freeze_encoder:
        raise PlanError(
            "training.freeze_encoder and training.train_encoder exclude each other",
            hint="take one of them out",
            code="plan.encoder_frozen_and_trained",
        )
    if kind != "full" and "encoder" in components:
        raise PlanError(
            "training.train_encoder and training.lora.where both train the encoder",
            hint="take one of them out",
            code="plan.encoder_trained_twice",
        )


def _check_top_layers(top_layers: int, kind: str, spec: ModelSpec) -> None:
    if kind in ("full", "qlora"):
        reason = "trains every layer" if kind == "full" else "quantizes the weights of all layers"
        raise PlanError(
            f"training.top_layers is {top_layers}, and adapter: {kind} {reason}",
            hint="use adapter: lora or projector, or take training.top_layers out",
            code="plan.bad_top_layers",
        )
    num_layers = spec.sizes.lm.num_layers
    if top_layers > num_layers:
        raise PlanError(
            f"training.top_layers is {top_layers}, and {spec.key} has {num_layers}",
            hint=f"use {num_layers} or less",
            code="plan.bad_top_layers",
        )


def _check_trainable_groups(config: TrainingConfig, adapter: AdapterSpec, spec: ModelSpec) -> None:
    if not adapter.trainable_groups:
        raise PlanError(
            "nothing would be trained: training.lora.where names the encoder, which is frozen",
            hint="take training.freeze_encoder out, or name lm or projector",
            code="plan.nothing_to_train",
        )
    if not spec.sizes.projector and set(adapter.components) == {"projector"}:
        raise PlanError(
            f"nothing would be trained: {spec.key} has no projector",
            hint="use adapter: lora or full",
            code="plan.nothing_to_train",
        )
    if adapter.trainable_groups == ("projector",) and config.stability.freeze_projector_steps:
        raise PlanError(
            "nothing would be trained while the projector is frozen: it is trained alone",
            hint="take training.stability.freeze_projector_steps out",
            code="plan.nothing_to_train",
        )
    new_projector = spec.composition and not spec.composition.projector.get("source")
    if new_projector and "projector" not in adapter.components:
        raise PlanError(
            "the projector is new, and its random weights would not be trained",
            hint="set training.lora.where: [lm, projector]",
            code="plan.untrained_projector",
        )
