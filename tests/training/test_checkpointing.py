"""Gradient checkpointing: the same numbers, to the bit, from less memory."""

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose last feed-forward part is told every position, as one that recomputes is."""
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


def taught(folder: Path, clips: list, **training: object) -> tuple[AudioLanguageModel, list[float]]:
    drawn = make_tiny_plan(folder, len(clips), steps=4, **training)
    run = make_training_setup(drawn, clips)
    return run.model, [
        event.loss for event in run.iter_events() if isinstance(event, StepCompleted)
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
def test_a_run_learns_the_same_to_the_bit(whole: Path, tmp_path: Path, training: dict) -> None:
    clips = write_tone_examples(tmp_path, 4)
    (plain, losses), (again, others) = (
        taught(whole, clips, gradient_checkpointing=way, **training) for way in (False, True)
    )
    assert losses == others
    one, other = get_trainable_parameters(plain), get_trainable_parameters(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_last_part_at_labels_alone_learns_the_same(folder: Path, tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 4)
    (_, losses), (_, others) = (
        taught(folder, clips, gradient_checkpointing=way, adapter="full") for way in (False, True)
    )
    assert losses == pytest.approx(others, abs=1e-3)


@pytest.mark.parametrize("where", [["lm"], ["lm", "encoder"]])
def test_layers_that_learn_are_thought_through_again(
    folder: Path, tmp_path: Path, where: list[str]
) -> None:
    """Forward once to learn and once more on the way back; a frozen encoder is not."""
    counts: dict[str, int] = {}
    drawn = make_tiny_plan(
        folder, 3, steps=1, adapter="lora", lora={"where": where}, gradient_checkpointing=True
    )
    run = make_training_setup(drawn, write_tone_examples(tmp_path, 3))
    for name, module in run.model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            inner = next(each for each in module.modules() if isinstance(each, torch.nn.Linear))
            inner.register_forward_hook(
                lambda *given, name=name: counts.update({name: counts.get(name, 0) + 1})
            )
    list(run.iter_events())
    lm = {count for name, count in counts.items() if name.startswith("lm.")}
    ear = {count for name, count in counts.items() if name.startswith("encoder.")}
    assert lm == {2}
    assert ear == ({2} if "encoder" in where else {3}), "frozen, it hears each of three clips once"


def test_answers_are_thought_through_once(folder: Path, tmp_path: Path) -> None:
    model, _ = taught(
        folder, write_tone_examples(tmp_path, 2), adapter="lora", gradient_checkpointing=True
    )
    calls = []
    model.decoder.layers[0].self_attn.register_forward_hook(lambda *given: calls.append(1))
    model.eval()
    embedded = torch.zeros(1, 3, 32, requires_grad=True)
    model.forward_lm(embedded, torch.ones(1, 3, dtype=torch.long)).sum().backward()
    assert len(calls) == 1
