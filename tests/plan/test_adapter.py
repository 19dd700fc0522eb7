"""What is trained for each setting of `training`, and the settings that exclude each other."""

from dataclasses import replace

import pytest

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError
from dlm.plan.adapter import plan_adapter
from dlm.plan.model_spec import ComponentRef, CompositionSpec
from dlm.plan.types import AdapterSpec
from tests.tiny_models import make_tiny_spec


def plan(*, new_projector: bool = False, **training: object) -> AdapterSpec:
    """The adapter of a model whose language model has one layer."""
    spec = make_tiny_spec()
    if new_projector:
        component = ComponentRef("sparrow", "1", {})
        composition = CompositionSpec((component,), {"kind": "mlp"}, component)
        spec = replace(spec, composition=composition)
    return plan_adapter(TrainingConfig(**training), spec)


@pytest.mark.parametrize(
    ("training", "groups"),
    [
        ({}, ("encoder", "projector", "lm")),  # the tiny model's default is full
        ({"adapter": "full", "freeze_encoder": True}, ("projector", "lm")),
        ({"adapter": "projector"}, ("projector",)),
        ({"adapter": "projector", "train_encoder": True}, ("encoder", "projector")),
        ({"adapter": "projector", "top_layers": 1}, ("projector", "lm")),
        ({"adapter": "lora"}, ("lora",)),
        ({"adapter": "dora", "lora": {"where": ["lm", "projector"]}}, ("projector", "lora")),
        ({"adapter": "qlora", "top_layers": 0}, ("lora",)),
    ],
    ids=str,
)
def test_trainable_groups(training: dict, groups: tuple[str, ...]) -> None:
    assert plan(**training).trainable_groups == groups


def test_qlora_is_lora_with_four_bits() -> None:
    adapter = plan(adapter="qlora")
    assert (adapter.kind, adapter.bits) == ("lora", 4)
    assert plan(adapter="qlora", bits=8).bits == 8
    assert plan(adapter="lora").bits is None


def test_target_modules_are_all_linear_layers_unless_named() -> None:
    assert plan(adapter="lora").target_modules is None
    assert plan(adapter="lora", target_modules=["q_proj"]).target_modules == ("q_proj",)


@pytest.mark.parametrize(
    ("training", "code"),
    [
        ({"adapter": "lora", "bits": 8}, "plan.bits_without_qlora"),
        ({"freeze_encoder": True, "train_encoder": True}, "plan.encoder_frozen_and_trained"),
        ({"adapter": "lora", "train_encoder": True, "lora": {"where": ["encoder"]}},
         "plan.encoder_trained_twice"),
        ({"adapter": "full", "top_layers": 1}, "plan.bad_top_layers"),
        ({"adapter": "qlora", "top_layers": 1}, "plan.bad_top_layers"),
        ({"adapter": "lora", "top_layers": 2}, "plan.bad_top_layers"),
        ({"adapter": "lora", "lora": {"where": ["encoder"]}, "freeze_encoder": True},
         "plan.nothing_to_train"),
        ({"adapter": "projector", "stability": {"freeze_projector_steps": 2}},
         "plan.nothing_to_train"),
        ({"adapter": "lora", "new_projector": True}, "plan.untrained_projector"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_exclude_each_other_are_refused(training: dict, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(**training)
    assert caught.value.code == code
    assert "\n" not in str(caught.value) and caught.value.hint
