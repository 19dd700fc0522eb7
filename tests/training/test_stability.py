"""The stability kit: every field, by what it changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils import get_total_norm

from dlm.config.parser import Document
from dlm.config.schema import DlmConfig
from dlm.data.types import Example, Message
from dlm.errors import DataError, PlanError
from dlm.models.adapters import get_param_group, get_trainable_parameters
from dlm.plan.memory import estimate_frozen_bytes
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.planner import make_plan
from dlm.plan.types import TrainSetInfo
from dlm.training.events import StepCompleted
from tests.tiny_models import (
    LAPTOP,
    TrainingSetup,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

LORA = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}, "lora_dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def taught(folder: Path, clips: list[Example], steps: int = 2, **asked: object) -> TrainingSetup:
    return make_training_setup(
        make_tiny_plan(folder, len(clips), steps=steps, **{**LORA, **asked}), clips
    )


def steps_of(run: TrainingSetup) -> list[StepCompleted]:
    return [event for event in run.iter_events() if isinstance(event, StepCompleted)]


def formats(run: TrainingSetup, kind: type[nn.Module], place: str) -> set[torch.dtype]:
    """The formats of what modules of a kind say in the steps of a run."""
    found = set()
    for name, module in run.model.named_modules():
        if place in name and isinstance(module, kind):
            module.register_forward_hook(lambda module, given, said: found.add(said.dtype))
    steps_of(run)
    return found


def test_the_projector_is_computed_in_fp32(folder: Path, clips: list[Example]) -> None:
    asked = {"precision": "bf16", "adapter": "projector"}
    plain = taught(folder, clips, **asked)
    exact = taught(folder, clips, **asked, stability={"projector_fp32": True})
    assert formats(plain, nn.Linear, "projector.") == {torch.bfloat16}
    assert formats(exact, nn.Linear, "projector.") == {torch.float32}
    assert formats(exact, nn.Linear, "mlp.up_proj") == {torch.bfloat16}, "the rest is as it was"


@pytest.mark.parametrize("asked", [{}, {"adapter": "qlora"}, {"adapter": "dora"}])
def test_low_rank_weights_are_computed_in_fp32(
    folder: Path, clips: list[Example], asked: dict
) -> None:
    run = taught(folder, clips, precision="bf16", **asked, stability={"lora_fp32": True})
    assert formats(run, nn.Linear, ".lora_B.") == {torch.float32}
    losses = [each.loss for each in steps_of(taught(folder, clips, precision="bf16", **asked))]
    exact = taught(folder, clips, precision="bf16", **asked, stability={"lora_fp32": True})
    found = [each.loss for each in steps_of(exact)]
    assert found == pytest.approx(losses, abs=0.05) and found[1] != losses[1]


def test_in_fp32_the_exact_parts_are_what_they_were(folder: Path, clips: list[Example]) -> None:
    both = {"projector_fp32": True, "lora_fp32": True}
    one, other = taught(folder, clips), taught(folder, clips, stability=both)
    assert [each.loss for each in steps_of(one)] == pytest.approx(
        [each.loss for each in steps_of(other)], abs=1e-5
    )


def test_low_rank_weights_begin_larger(folder: Path, clips: list[Example]) -> None:
    """What they add is nothing at first all the same; what B is told is so many times as much."""
    one, other = taught(folder, clips), taught(folder, clips, stability={"lora_init_scale": 4.0})
    ours, theirs = get_trainable_parameters(one.model), get_trainable_parameters(other.model)
    for name, each in ours.items():
        factor = 4.0 if ".lora_A." in name else 1.0
        assert torch.equal(each * factor, theirs[name]), name
    first, second = steps_of(one)[0], steps_of(other)[0]
    assert first.loss == pytest.approx(second.loss, abs=1e-6)
    assert second.component_grad_norms["lora"] == pytest.approx(
        4 * first.component_grad_norms["lora"], rel=1e-4
    )


def test_gradients_of_low_rank_weights_are_cut_on_their_own(
    folder: Path, clips: list[Example]
) -> None:
    run = taught(folder, clips, max_grad_norm=1e-2, stability={"lora_max_grad_norm": 1e-3})
    for event in run.iter_events():
        if isinstance(event, StepCompleted):
            for role, limit in (("lora", 1e-3), ("projector", 1e-2)):
                grads = [
                    each.grad
                    for name, each in get_trainable_parameters(run.model).items()
                    if get_param_group(name, run.model) == role
                ]
                assert float(get_total_norm(grads)) == pytest.approx(limit, rel=1e-3)
                assert event.component_grad_norms[role] > limit, (
                    "what is told is the length before the cut"
                )


def test_rates_are_small_in_the_early_steps(folder: Path, clips: list[Example]) -> None:
    asked = {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0}
    early = {"early_lr_steps": 2, "early_lr_factor": 0.25}
    told = steps_of(taught(folder, clips, 4, **asked, stability=early))
    assert [each.learning_rates["lora"] for each in told] == pytest.approx(
        [2.5e-4, 2.5e-4, 1e-3, 1e-3]
    )


def test_the_projector_waits(folder: Path, clips: list[Example]) -> None:
    run = taught(folder, clips, 4, stability={"freeze_projector_steps": 2})
    before = {
        name: each.detach().clone() for name, each in get_trainable_parameters(run.model).items()
    }
    for event in run.iter_events():
        if isinstance(event, StepCompleted):
            waits = event.step <= 2
            now = get_trainable_parameters(run.model)
            moved = {
                get_param_group(name, run.model)
                for name in now
                if not now[name].equal(before[name])
            }
            assert moved == ({"lora"} if waits else {"lora", "projector"})
            assert ("projector" in event.component_grad_norms) != waits
    with pytest.raises(PlanError, match="nothing would be trained while the projector is frozen"):
        taught(folder, clips, adapter="projector", stability={"freeze_projector_steps": 2})


def test_the_encoder_stays_on_the_processor(folder: Path, clips: list[Example]) -> None:
    """Where all runs there, it is the same run; elsewhere the words say where the model thinks."""
    one, other = taught(folder, clips), taught(folder, clips, stability={"encoder_device": "cpu"})
    assert [each.loss for each in steps_of(one)] == [each.loss for each in steps_of(other)]
    assert other.plan.model.encoder_device == "cpu"
    other.model.encoder.to("meta")
    assert (other.model.device.type, other.model.encoder_device.type) == ("cpu", "meta")


def test_a_released_model_is_not_parted() -> None:
    base = MODEL_CATALOG["voxtral-mini-3b"]
    asked = {"precision": "bf16", "stability": {"encoder_device": "cpu"}}
    known = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": base.key, "training": asked}
    document = Document(Path("my.dlm"), DlmConfig(**known), (), "", "0" * 64)
    with pytest.raises(PlanError, match="encoder_device is for a composed base"):
        make_plan(document.config.training, base, TrainSetInfo(4), LAPTOP)


def test_an_encoder_elsewhere_takes_no_memory_of_the_accelerator(
    folder: Path, clips: list[Example]
) -> None:
    model = make_tiny_plan(folder, 4, **LORA).model
    here = replace(model, device="cuda", weights_dtype="bf16")
    there = replace(here, encoder_device="cpu")
    encoder = model.spec.sizes.encoder.num_parameters
    assert estimate_frozen_bytes(here) - estimate_frozen_bytes(there) == 2 * encoder
    assert estimate_frozen_bytes(replace(model, encoder_device="cpu")) == estimate_frozen_bytes(
        model
    )


def test_packed_language_models_learn_on_a_stitched_base(
    folder: Path, clips: list[Example]
) -> None:
    for bits in (4, 8):
        run = taught(folder, clips, 8, adapter="qlora", bits=bits, learning_rate=1e-2)
        losses = [each.loss for each in steps_of(run)]
        assert losses[-1] < losses[0] - 0.3
        assert any(isinstance(each, LoraLayer) for each in run.model.modules())


def test_a_row_without_labels_is_an_error_with_its_place(
    folder: Path, clips: list[Example]
) -> None:
    silent = Example((Message("assistant", ("",)),), "my.dlm:7", "text")
    with pytest.raises(DataError, match=r"my\.dlm:7: none of its tokens carries loss"):
        taught(folder, [*clips, silent])


def test_norms_and_changes_are_told_by_role(folder: Path, clips: list[Example]) -> None:
    run = taught(folder, clips, 12, learning_rate=1e-3)
    last, told = {}, []
    for event in run.iter_events():
        now = {
            name: each.detach().clone()
            for name, each in get_trainable_parameters(run.model).items()
        }
        if isinstance(event, StepCompleted):
            told.append(event)
            assert event.component_grad_norms.keys() == {"lora", "projector"}
            whole = sum(norm**2 for norm in event.component_grad_norms.values()) ** 0.5
            assert event.grad_norm == pytest.approx(whole)
            for role, share in event.update_ratios.items():
                names = [name for name in now if get_param_group(name, run.model) == role]
                moved = get_total_norm([now[name] - last[name] for name in names])
                assert share == pytest.approx(
                    float(moved / get_total_norm([now[name] for name in names])), rel=1e-3
                )
        last = now
    assert [bool(each.update_ratios) for each in told] == [True, *[False] * 9, True, False]
