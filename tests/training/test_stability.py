"""Every field of training.stability, by what it changes."""

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
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def make_setup(
    model_dir: Path, examples: list[Example], steps: int = 2, **fields: object
) -> TrainingSetup:
    return make_training_setup(
        make_tiny_plan(model_dir, len(examples), steps=steps, **{**LORA, **fields}), examples
    )


def train_steps(setup: TrainingSetup) -> list[StepCompleted]:
    return [event for event in setup.iter_events() if isinstance(event, StepCompleted)]


def collect_output_dtypes(
    setup: TrainingSetup, module_class: type[nn.Module], name_part: str
) -> set[torch.dtype]:
    """The dtypes that modules of a class put out in the steps of a run."""
    dtypes = set()
    for name, module in setup.model.named_modules():
        if name_part in name and isinstance(module, module_class):
            module.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    train_steps(setup)
    return dtypes


def test_projector_runs_in_fp32(model_dir: Path, examples: list[Example]) -> None:
    training = {"precision": "bf16", "adapter": "projector"}
    default = make_setup(model_dir, examples, **training)
    in_fp32 = make_setup(model_dir, examples, **training, stability={"projector_fp32": True})
    assert collect_output_dtypes(default, nn.Linear, "projector.") == {torch.bfloat16}
    assert collect_output_dtypes(in_fp32, nn.Linear, "projector.") == {torch.float32}
    assert collect_output_dtypes(in_fp32, nn.Linear, "mlp.up_proj") == {torch.bfloat16}, (
        "the rest is unchanged"
    )


@pytest.mark.parametrize("training", [{}, {"adapter": "qlora"}, {"adapter": "dora"}])
def test_lora_weights_run_in_fp32(model_dir: Path, examples: list[Example], training: dict) -> None:
    setup = make_setup(
        model_dir, examples, precision="bf16", **training, stability={"lora_fp32": True}
    )
    assert collect_output_dtypes(setup, nn.Linear, ".lora_B.") == {torch.float32}
    losses = [
        step.loss
        for step in train_steps(make_setup(model_dir, examples, precision="bf16", **training))
    ]
    in_fp32 = make_setup(
        model_dir, examples, precision="bf16", **training, stability={"lora_fp32": True}
    )
    fp32_losses = [step.loss for step in train_steps(in_fp32)]
    assert fp32_losses == pytest.approx(losses, abs=0.05) and fp32_losses[1] != losses[1]


def test_fp32_options_change_nothing_in_fp32(model_dir: Path, examples: list[Example]) -> None:
    stability = {"projector_fp32": True, "lora_fp32": True}
    default, fp32_modules = (
        make_setup(model_dir, examples),
        make_setup(model_dir, examples, stability=stability),
    )
    assert [step.loss for step in train_steps(default)] == pytest.approx(
        [step.loss for step in train_steps(fp32_modules)], abs=1e-5
    )


def test_lora_init_scale(model_dir: Path, examples: list[Example]) -> None:
    """They add nothing at first all the same; the gradient of B is larger by the scale."""
    default, scaled = (
        make_setup(model_dir, examples),
        make_setup(model_dir, examples, stability={"lora_init_scale": 4.0}),
    )
    parameters, scaled_parameters = (
        get_trainable_parameters(default.model),
        get_trainable_parameters(scaled.model),
    )
    for name, parameter in parameters.items():
        factor = 4.0 if ".lora_A." in name else 1.0
        assert torch.equal(parameter * factor, scaled_parameters[name]), name
    first, second = train_steps(default)[0], train_steps(scaled)[0]
    assert first.loss == pytest.approx(second.loss, abs=1e-6)
    assert second.component_grad_norms["lora"] == pytest.approx(
        4 * first.component_grad_norms["lora"], rel=1e-4
    )


def test_lora_gradients_are_clipped_by_themselves(model_dir: Path, examples: list[Example]) -> None:
    setup = make_setup(
        model_dir, examples, max_grad_norm=1e-2, stability={"lora_max_grad_norm": 1e-3}
    )
    for event in setup.iter_events():
        if isinstance(event, StepCompleted):
            for group, max_norm in (("lora", 1e-3), ("projector", 1e-2)):
                grads = [
                    parameter.grad
                    for name, parameter in get_trainable_parameters(setup.model).items()
                    if get_param_group(name, setup.model) == group
                ]
                assert float(get_total_norm(grads)) == pytest.approx(max_norm, rel=1e-3)
                assert event.component_grad_norms[group] > max_norm, (
                    "the norm before clipping is reported"
                )


def test_early_steps_have_smaller_learning_rates(model_dir: Path, examples: list[Example]) -> None:
    training = {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0}
    stability = {"early_lr_steps": 2, "early_lr_factor": 0.25}
    steps = train_steps(make_setup(model_dir, examples, 4, **training, stability=stability))
    assert [step.learning_rates["lora"] for step in steps] == pytest.approx(
        [2.5e-4, 2.5e-4, 1e-3, 1e-3]
    )


def test_projector_is_frozen_in_the_first_steps(model_dir: Path, examples: list[Example]) -> None:
    setup = make_setup(model_dir, examples, 4, stability={"freeze_projector_steps": 2})
    before = {
        name: parameter.detach().clone()
        for name, parameter in get_trainable_parameters(setup.model).items()
    }
    for event in setup.iter_events():
        if isinstance(event, StepCompleted):
            is_frozen = event.step <= 2
            after = get_trainable_parameters(setup.model)
            changed = {
                get_param_group(name, setup.model)
                for name in after
                if not after[name].equal(before[name])
            }
            assert changed == ({"lora"} if is_frozen else {"lora", "projector"})
            assert ("projector" in event.component_grad_norms) != is_frozen
    with pytest.raises(PlanError, match="nothing would be trained while the projector is frozen"):
        make_setup(
            model_dir, examples, adapter="projector", stability={"freeze_projector_steps": 2}
        )


def test_encoder_stays_on_the_cpu(model_dir: Path, examples: list[Example]) -> None:
    """Where all runs on the CPU, nothing changes; elsewhere the LM decides the model's device."""
    default, encoder_on_cpu = (
        make_setup(model_dir, examples),
        make_setup(model_dir, examples, stability={"encoder_device": "cpu"}),
    )
    assert [step.loss for step in train_steps(default)] == [
        step.loss for step in train_steps(encoder_on_cpu)
    ]
    assert encoder_on_cpu.plan.model.encoder_device == "cpu"
    encoder_on_cpu.model.encoder.to("meta")
    assert (encoder_on_cpu.model.device.type, encoder_on_cpu.model.encoder_device.type) == (
        "cpu",
        "meta",
    )


def test_encoder_device_of_a_pretrained_model_is_refused() -> None:
    spec = MODEL_CATALOG["voxtral-mini-3b"]
    training = {"precision": "bf16", "stability": {"encoder_device": "cpu"}}
    fields = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": spec.key, "training": training}
    document = Document(Path("my.dlm"), DlmConfig(**fields), (), "", "0" * 64)
    with pytest.raises(PlanError, match="encoder_device needs a composed base"):
        make_plan(document.config.training, spec, TrainSetInfo(4), LAPTOP)


def test_encoder_on_the_cpu_takes_no_gpu_memory(model_dir: Path, examples: list[Example]) -> None:
    model = make_tiny_plan(model_dir, 4, **LORA).model
    on_gpu = replace(model, device="cuda", weights_dtype="bf16")
    with_encoder_on_cpu = replace(on_gpu, encoder_device="cpu")
    encoder = model.spec.sizes.encoder.num_parameters
    assert estimate_frozen_bytes(on_gpu) - estimate_frozen_bytes(with_encoder_on_cpu) == 2 * encoder
    assert estimate_frozen_bytes(replace(model, encoder_device="cpu")) == estimate_frozen_bytes(
        model
    )


def test_qlora_loss_falls_on_a_composed_model(model_dir: Path, examples: list[Example]) -> None:
    for bits in (4, 8):
        setup = make_setup(model_dir, examples, 8, adapter="qlora", bits=bits, learning_rate=1e-2)
        losses = [step.loss for step in train_steps(setup)]
        assert losses[-1] < losses[0] - 0.3
        assert any(isinstance(step, LoraLayer) for step in setup.model.modules())


def test_example_without_labels_is_refused_by_its_location(
    model_dir: Path, examples: list[Example]
) -> None:
    unlabeled = Example((Message("assistant", ("",)),), "my.dlm:7", "text")
    with pytest.raises(DataError, match=r"my\.dlm:7: none of its tokens carries loss"):
        make_setup(model_dir, [*examples, unlabeled])


def test_norms_and_update_ratios_by_parameter_group(
    model_dir: Path, examples: list[Example]
) -> None:
    setup = make_setup(model_dir, examples, 12, learning_rate=1e-3)
    before, steps = {}, []
    for event in setup.iter_events():
        after = {
            name: step.detach().clone()
            for name, step in get_trainable_parameters(setup.model).items()
        }
        if isinstance(event, StepCompleted):
            steps.append(event)
            assert event.component_grad_norms.keys() == {"lora", "projector"}
            norm = sum(norm**2 for norm in event.component_grad_norms.values()) ** 0.5
            assert event.grad_norm == pytest.approx(norm)
            for group, update_ratio in event.update_ratios.items():
                names = [name for name in after if get_param_group(name, setup.model) == group]
                update = get_total_norm([after[name] - before[name] for name in names])
                assert update_ratio == pytest.approx(
                    float(update / get_total_norm([after[name] for name in names])), rel=1e-3
                )
        before = after
    assert [bool(step.update_ratios) for step in steps] == [True, *[False] * 9, True, False]
