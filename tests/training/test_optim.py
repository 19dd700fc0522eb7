"""Which parameters learn at which rate, and how it moves."""

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(folder: Path) -> ComposedAudioLM:
    model = load_composed_model(folder)
    where = ("encoder", "projector", "lm")
    apply_adapter(model, AdapterSpec("full", 4, 8, 0.0, where, None), seed=0)
    return model


def plan(folder: Path, **changes: object) -> TrainingPlan:
    drawn = make_tiny_plan(folder, 8, steps=20).training
    return replace(drawn, **{"warmup_steps": 0, "lr_scheduler": "constant", **changes})


def rates_by_name(model: ComposedAudioLM, drawn: TrainingPlan) -> dict[str, float]:
    names = {id(each): name for name, each in get_trainable_parameters(model).items()}
    made = build_optimizer(model, drawn)
    told = [(names[id(each)], group) for group in made.param_groups for each in group["params"]]
    assert len(told) == len(names), "every parameter once"
    return {name: group["lr"] for name, group in told}


def test_every_parameter_learns_at_the_one_rate(folder: Path, model: ComposedAudioLM) -> None:
    assert set(rates_by_name(model, plan(folder, learning_rate=3e-4)).values()) == {3e-4}


def test_roles_have_rates_of_their_own(folder: Path, model: ComposedAudioLM) -> None:
    rates = {"encoder": 1e-5, "projector": 1e-3}
    for name, rate in rates_by_name(
        model, plan(folder, learning_rate=1e-4, learning_rates=rates)
    ).items():
        assert rate == rates.get(get_param_group(name, model), 1e-4), name


def test_a_pattern_goes_before_a_role(folder: Path, model: ComposedAudioLM) -> None:
    rates = {"lm": 1e-4, "lm.*norm*": 5e-4, "*.bias": 2e-4}
    found = rates_by_name(model, plan(folder, learning_rate=1e-5, learning_rates=rates))
    assert found["lm.model.norm.weight"] == 5e-4
    assert found["projector.enter.bias"] == 2e-4
    assert found["lm.model.embed_tokens.weight"] == 1e-4
    assert found["encoder.conv1.weight"] == 1e-5


@pytest.mark.parametrize("rates", [{"lora": 1e-4}, {"lm": 1e-4, "*.wieght": 1e-4}, {"LM": 1.0}])
def test_a_rate_that_matches_nothing_is_an_error(
    folder: Path, model: ComposedAudioLM, rates: dict[str, float]
) -> None:
    with pytest.raises(PlanError) as told:
        build_optimizer(model, plan(folder, learning_rates=rates))
    odd = list(rates)[-1]
    assert f"training.rates names {odd}, and" in str(told.value)
    assert "encoder, lm, projector" in str(told.value)


def test_a_frozen_role_is_an_error(folder: Path) -> None:
    model = load_composed_model(folder)
    apply_adapter(model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    with pytest.raises(PlanError, match="training.rates names encoder"):
        build_optimizer(model, plan(folder, learning_rates={"encoder": 1e-4}))


def test_low_rank_weights_are_a_role(folder: Path) -> None:
    model = load_composed_model(folder)
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, ("lm", "projector"), None), seed=0)
    found = rates_by_name(model, plan(folder, learning_rates={"lora": 1e-3, "projector": 1e-2}))
    assert {rate for name, rate in found.items() if ".lora_" in name} == {1e-3}
    assert {rate for name, rate in found.items() if ".lora_" not in name} == {1e-2}


def stepped(folder: Path, optimizer: str, decay: float) -> dict[str, torch.Tensor]:
    """The weights after two steps of a gradient of ones, at a constant rate from the first."""
    model = load_composed_model(folder)
    apply_adapter(model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    asked = {"optimizer": optimizer, "weight_decay": decay, "learning_rate": 1.5e-3}
    asked |= {"lr_scheduler": "constant", "warmup_ratio": 0.0}
    drawn = make_tiny_plan(folder, 8, steps=20, adapter="projector", **asked).training
    made = build_optimizer(model, drawn)
    for step in (0, 1):
        for each in get_trainable_parameters(model).values():
            each.grad = torch.ones_like(each)
        assert set(set_learning_rates(made, drawn, step).values()) == {1.5e-3}
        made.step()
    return {name: each.detach() for name, each in get_trainable_parameters(model).items()}


def test_adam_and_adamw_differ_in_their_decay(folder: Path) -> None:
    """Adam scales the decay as it scales gradients; AdamW takes its share of the weights."""
    plain = stepped(folder, "adam", 0.0)
    for name, each in stepped(folder, "adamw", 0.0).items():
        assert torch.equal(each, plain[name])
    decayed = {kind: stepped(folder, kind, 0.5) for kind in ("adam", "adamw")}
    name = "projector.enter.weight"
    start = load_composed_model(folder).get_parameter(name).detach()
    twice = start * (1 - 1.5e-3 * 0.5) - 1.5e-3
    twice = twice * (1 - 1.5e-3 * 0.5) - 1.5e-3
    assert torch.allclose(decayed["adamw"][name], twice, atol=1e-6)
    assert torch.allclose(decayed["adam"][name], start - 3e-3, atol=1e-4), "all gradients positive"
    assert not torch.allclose(decayed["adam"][name], twice, atol=1e-4)


def test_matrices_decay_and_vectors_do_not(folder: Path, model: ComposedAudioLM) -> None:
    made = build_optimizer(model, plan(folder, weight_decay=0.1))
    for group in made.param_groups:
        for each in group["params"]:
            assert group["weight_decay"] == (0.1 if each.ndim > 1 else 0.0)


def test_every_rate_is_said_by_its_name(folder: Path, model: ComposedAudioLM) -> None:
    drawn = plan(folder, learning_rate=1e-4, learning_rates={"projector": 1e-3, "lm.*norm*": 1e-5})
    told = set_learning_rates(build_optimizer(model, drawn), drawn, 3)
    assert told == {"encoder": 1e-4, "projector": 1e-3, "lm": 1e-4, "lm.*norm*": 1e-5}


def test_the_rate_rises_and_falls() -> None:
    def factors(schedule: str) -> list[float]:
        drawn = replace(SHAPE, lr_scheduler=schedule)
        return [compute_lr_factor(drawn, step) for step in range(12)]

    rise = [0.25, 0.5, 0.75, 1.0]
    assert factors("constant") == [*rise, *[1.0] * 8]
    line = [0.1 + 0.9 * (1 - done / 8) for done in range(8)]
    assert factors("linear") == pytest.approx([*rise, *line])
    curve = [0.1 + 0.9 * (1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)]
    assert factors("cosine") == pytest.approx([*rise, *curve])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_rate_is_never_zero_nor_above_its_peak(schedule: str) -> None:
    for steps, warm in ((1, 0), (1, 1), (2, 1), (7, 0), (9, 9)):
        drawn = replace(SHAPE, lr_scheduler=schedule, num_steps=steps, warmup_steps=warm)
        assert all(0.1 <= compute_lr_factor(drawn, step) <= 1 for step in range(steps))


SHAPE = TrainingPlan(
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


def test_rates_move_the_weights(folder: Path) -> None:
    """Adam's first step moves each weight by about its rate."""
    model = load_composed_model(folder)
    apply_adapter(
        model, AdapterSpec("full", 4, 8, 0.0, ("encoder", "projector", "lm"), None), seed=0
    )
    drawn = plan(folder, learning_rate=1e-4, learning_rates={"projector": 1e-2})
    made = build_optimizer(model, drawn)
    before = {name: each.detach().clone() for name, each in get_trainable_parameters(model).items()}
    for each in get_trainable_parameters(model).values():
        each.grad = torch.ones_like(each)
    set_learning_rates(made, drawn, 0)
    made.step()
    for name, each in get_trainable_parameters(model).items():
        rate = 1e-2 if name.startswith("projector") else 1e-4
        assert torch.allclose(before[name] - each, torch.full_like(each, rate), rtol=1e-2), name
