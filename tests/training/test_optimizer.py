"""The optimizer: parameter groups, learning rates, weight decay and schedules."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.errors import PlanError
from dlm.models.adapters import apply_adapter, get_param_group, get_trainable_parameters
from dlm.models.composed import ComposedAudioLM, load_composed_model
from dlm.plan.types import AdapterSpec, TrainingPlan
from dlm.training.optimizer import build_optimizer, compute_lr_factor, set_learning_rates
from tests.tiny_models import make_tiny_plan, write_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(model_dir: Path) -> ComposedAudioLM:
    model = load_composed_model(model_dir)
    components = ("encoder", "projector", "lm")
    apply_adapter(model, AdapterSpec("full", 4, 8, 0.0, components, None), seed=0)
    return model


def make_constant_plan(model_dir: Path, **changes: object) -> TrainingPlan:
    plan = make_tiny_plan(model_dir, 8, steps=20).training
    return replace(plan, **{"warmup_steps": 0, "lr_scheduler": "constant", **changes})


def get_learning_rates(model: ComposedAudioLM, plan: TrainingPlan) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in get_trainable_parameters(model).items()}
    optimizer = build_optimizer(model, plan)
    grouped = [
        (names[id(parameter)], group)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(grouped) == len(names), "every parameter is in one group"
    return {name: group["lr"] for name, group in grouped}


def test_one_learning_rate_for_all_parameters(model_dir: Path, model: ComposedAudioLM) -> None:
    assert set(
        get_learning_rates(model, make_constant_plan(model_dir, learning_rate=3e-4)).values()
    ) == {3e-4}


def test_learning_rates_by_parameter_group(model_dir: Path, model: ComposedAudioLM) -> None:
    rates = {"encoder": 1e-5, "projector": 1e-3}
    for name, rate in get_learning_rates(
        model, make_constant_plan(model_dir, learning_rate=1e-4, learning_rates=rates)
    ).items():
        assert rate == rates.get(get_param_group(name, model), 1e-4), name


def test_patterns_go_before_parameter_groups(model_dir: Path, model: ComposedAudioLM) -> None:
    rates = {"lm": 1e-4, "lm.*norm*": 5e-4, "*.bias": 2e-4}
    learning_rates = get_learning_rates(
        model, make_constant_plan(model_dir, learning_rate=1e-5, learning_rates=rates)
    )
    assert learning_rates["lm.model.norm.weight"] == 5e-4
    assert learning_rates["projector.enter.bias"] == 2e-4
    assert learning_rates["lm.model.embed_tokens.weight"] == 1e-4
    assert learning_rates["encoder.conv1.weight"] == 1e-5


@pytest.mark.parametrize("rates", [{"lora": 1e-4}, {"lm": 1e-4, "*.wieght": 1e-4}, {"LM": 1.0}])
def test_unused_learning_rate_is_refused(
    model_dir: Path, model: ComposedAudioLM, rates: dict[str, float]
) -> None:
    with pytest.raises(PlanError) as caught:
        build_optimizer(model, make_constant_plan(model_dir, learning_rates=rates))
    unused = list(rates)[-1]
    assert f"training.rates names {unused}, and" in str(caught.value)
    assert "encoder, lm, projector" in str(caught.value)


def test_learning_rate_of_a_frozen_group_is_refused(model_dir: Path) -> None:
    model = load_composed_model(model_dir)
    apply_adapter(model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    with pytest.raises(PlanError, match="training.rates names encoder"):
        build_optimizer(model, make_constant_plan(model_dir, learning_rates={"encoder": 1e-4}))


def test_lora_weights_are_a_parameter_group(model_dir: Path) -> None:
    model = load_composed_model(model_dir)
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, ("lm", "projector"), None), seed=0)
    learning_rates = get_learning_rates(
        model, make_constant_plan(model_dir, learning_rates={"lora": 1e-3, "projector": 1e-2})
    )
    assert {rate for name, rate in learning_rates.items() if ".lora_" in name} == {1e-3}
    assert {rate for name, rate in learning_rates.items() if ".lora_" not in name} == {1e-2}


def train_two_steps(
    model_dir: Path, optimizer_name: str, weight_decay: float
) -> dict[str, torch.Tensor]:
    """The weights after two steps with gradients of ones, at a constant learning rate."""
    model = load_composed_model(model_dir)
    apply_adapter(model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    fields = {"optimizer": optimizer_name, "weight_decay": weight_decay, "learning_rate": 1.5e-3}
    fields |= {"lr_scheduler": "constant", "warmup_ratio": 0.0}
    plan = make_tiny_plan(model_dir, 8, steps=20, adapter="projector", **fields).training
    optimizer = build_optimizer(model, plan)
    for step in (0, 1):
        for parameter in get_trainable_parameters(model).values():
            parameter.grad = torch.ones_like(parameter)
        assert set(set_learning_rates(optimizer, plan, step).values()) == {1.5e-3}
        optimizer.step()
    return {
        param_name: parameter.detach()
        for param_name, parameter in get_trainable_parameters(model).items()
    }


def test_weight_decay_of_adam_and_adamw(model_dir: Path) -> None:
    """Adam normalizes the decay with the gradient; AdamW subtracts it from the weights."""
    without_decay = train_two_steps(model_dir, "adam", 0.0)
    for name, parameter in train_two_steps(model_dir, "adamw", 0.0).items():
        assert torch.equal(parameter, without_decay[name])
    decayed = {name: train_two_steps(model_dir, name, 0.5) for name in ("adam", "adamw")}
    name = "projector.enter.weight"
    start = load_composed_model(model_dir).get_parameter(name).detach()
    expected = start * (1 - 1.5e-3 * 0.5) - 1.5e-3
    expected = expected * (1 - 1.5e-3 * 0.5) - 1.5e-3
    assert torch.allclose(decayed["adamw"][name], expected, atol=1e-6)
    assert torch.allclose(decayed["adam"][name], start - 3e-3, atol=1e-4), "all gradients positive"
    assert not torch.allclose(decayed["adam"][name], expected, atol=1e-4)


def test_vectors_have_no_weight_decay(model_dir: Path, model: ComposedAudioLM) -> None:
    optimizer = build_optimizer(model, make_constant_plan(model_dir, weight_decay=0.1))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_learning_rates_are_returned_by_name(model_dir: Path, model: ComposedAudioLM) -> None:
    plan = make_constant_plan(
        model_dir, learning_rate=1e-4, learning_rates={"projector": 1e-3, "lm.*norm*": 1e-5}
    )
    learning_rates = set_learning_rates(build_optimizer(model, plan), plan, 3)
    assert learning_rates == {"encoder": 1e-4, "projector": 1e-3, "lm": 1e-4, "lm.*norm*": 1e-5}


def test_schedules() -> None:
    def compute_factors(scheduler: str) -> list[float]:
        plan = replace(TRAINING_PLAN, lr_scheduler=scheduler)
        return [compute_lr_factor(plan, step) for step in range(12)]

    warmup = [0.25, 0.5, 0.75, 1.0]
    assert compute_factors("constant") == [*warmup, *[1.0] * 8]
    linear = [0.1 + 0.9 * (1 - step / 8) for step in range(8)]
    assert compute_factors("linear") == pytest.approx([*warmup, *linear])
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert compute_factors("cosine") == pytest.approx([*warmup, *cosine])


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_learning_rate_stays_between_a_tenth_and_its_peak(scheduler: str) -> None:
    for steps, warmup_steps in ((1, 0), (1, 1), (2, 1), (7, 0), (9, 9)):
        plan = replace(
            TRAINING_PLAN, lr_scheduler=scheduler, num_steps=steps, warmup_steps=warmup_steps
        )
        assert all(0.1 <= compute_lr_factor(plan, step) <= 1 for step in range(steps))


TRAINING_PLAN = TrainingPlan(
    num_steps=12,
    learning_rate=1.0,
    learning_rates={},
    weight_decay=0.0,
    max_grad_norm=1.0,
    lr_scheduler="cosine",
    warmup_steps=4,
    max_skipped_steps=5,
    save_interval_seconds=60.0,
    save_steps=None,
    precision="fp32",
    device="cpu",
    seed=0,
)


def test_first_step_changes_weights_by_the_learning_rate(model_dir: Path) -> None:
    model = load_composed_model(model_dir)
    apply_adapter(
        model, AdapterSpec("full", 4, 8, 0.0, ("encoder", "projector", "lm"), None), seed=0
    )
    plan = make_constant_plan(model_dir, learning_rate=1e-4, learning_rates={"projector": 1e-2})
    optimizer = build_optimizer(model, plan)
    before = {
        name: parameter.detach().clone()
        for name, parameter in get_trainable_parameters(model).items()
    }
    for parameter in get_trainable_parameters(model).values():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rates(optimizer, plan, 0)
    optimizer.step()
    for name, parameter in get_trainable_parameters(model).items():
        rate = 1e-2 if name.startswith("projector") else 1e-4
        assert torch.allclose(
            before[name] - parameter, torch.full_like(parameter, rate), rtol=1e-2
        ), name
