"""Gradient checkpointing gives the same losses and weights; what runs twice."""

from pathlib import Path

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from dlm.models.adapters import get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.training.events import StepCompleted
from tests.tiny_models import (
    make_tiny_config,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def full_mlp_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose last MLP runs on all positions, as it does with gradient checkpointing."""
    lm = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 260,
        "max_position_embeddings": 512,
        "dropout": 0.1,
    }
    return write_tiny_model(
        tmp_path_factory.mktemp("whole"), config={**make_tiny_config(), "lm": lm}
    )


def train_losses(
    model_dir: Path, examples: list, **training: object
) -> tuple[AudioLanguageModel, list[float]]:
    plan = make_tiny_plan(model_dir, len(examples), steps=4, **training)
    setup = make_training_setup(plan, examples)
    return setup.model, [
        event.loss for event in setup.iter_events() if isinstance(event, StepCompleted)
    ]


@pytest.mark.parametrize(
    "training",
    [
        {"adapter": "lora", "lora_dropout": 0.2},
        {"adapter": "lora", "lora": {"where": ["lm", "projector", "encoder"]}},
        {"adapter": "full"},
        {"adapter": "projector"},
    ],
    ids=lambda training: "-".join(map(str, training.values())),
)
def test_gradient_checkpointing_gives_the_same_weights(
    full_mlp_model_dir: Path, tmp_path: Path, training: dict
) -> None:
    examples = write_tone_examples(tmp_path, 4)
    (model, losses), (checkpointed_model, checkpointed_losses) = (
        train_losses(full_mlp_model_dir, examples, gradient_checkpointing=checkpointing, **training)
        for checkpointing in (False, True)
    )
    assert losses == checkpointed_losses
    parameters, checkpointed_parameters = (
        get_trainable_parameters(model),
        get_trainable_parameters(checkpointed_model),
    )
    assert parameters.keys() == checkpointed_parameters.keys()
    assert all(torch.equal(parameters[name], checkpointed_parameters[name]) for name in parameters)


def test_last_mlp_at_label_positions_gives_almost_the_same_losses(
    model_dir: Path, tmp_path: Path
) -> None:
    examples = write_tone_examples(tmp_path, 4)
    (_, losses), (_, checkpointed_losses) = (
        train_losses(model_dir, examples, gradient_checkpointing=checkpointing, adapter="full")
        for checkpointing in (False, True)
    )
    assert losses == pytest.approx(checkpointed_losses, abs=1e-3)


@pytest.mark.parametrize("components", [["lm"], ["lm", "encoder"]])
def test_trained_layers_run_twice_a_step(
    model_dir: Path, tmp_path: Path, components: list[str]
) -> None:
    """Once in the forward and once in the backward pass; a frozen encoder runs once an example."""
    counts: dict[str, int] = {}
    plan = make_tiny_plan(
        model_dir,
        3,
        steps=1,
        adapter="lora",
        lora={"where": components},
        gradient_checkpointing=True,
    )
    setup = make_training_setup(plan, write_tone_examples(tmp_path, 3))
    for name, module in setup.model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            linear = next(
                submodule
                for submodule in module.modules()
                if isinstance(submodule, torch.nn.Linear)
            )
            linear.register_forward_hook(
                lambda *args, name=name: counts.update({name: counts.get(name, 0) + 1})
            )
    list(setup.iter_events())
    lm = {count for name, count in counts.items() if name.startswith("lm.")}
    encoder = {count for name, count in counts.items() if name.startswith("encoder.")}
    assert lm == {2}
    assert encoder == ({2} if "encoder" in components else {3}), (
        "a frozen encoder runs once for each of three examples"
    )


def test_layers_run_once_in_evaluation_mode(model_dir: Path, tmp_path: Path) -> None:
    model, _ = train_losses(
        model_dir, write_tone_examples(tmp_path, 2), adapter="lora", gradient_checkpointing=True
    )
    calls = []
    model.decoder.layers[0].self_attn.register_forward_hook(lambda *args: calls.append(1))
    model.eval()
    embeddings = torch.zeros(1, 3, 32, requires_grad=True)
    model.forward_lm(embeddings, torch.ones(1, 3, dtype=torch.long)).sum().backward()
    assert len(calls) == 1
