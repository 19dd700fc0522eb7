"""What learns of a stitched base, and that nothing else does: layers, encoder, projector."""

from pathlib import Path

import pytest
import torch

import dlm
from dlm.commands.preflight import run_preflight
from dlm.errors import PlanError
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.load import load_base_model
from dlm.plan.memory import count_trainable_parameters
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.summary import summarize_plan
from dlm.plan.types import AdapterSpec, Plan
from dlm.store.records import Version
from dlm.training.events import Evaluated, StepCompleted
from tests.composed_models import LMS, make_base_model_field, write_composed_document
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import TrainingSetup, make_training_setup


def make_setup(
    model_dir: Path, *, base_model: dict | None = None, **training: object
) -> TrainingSetup:
    if training.get("adapter") != "projector":
        training = {"lora": {"where": ["lm", "projector"]}, **training}
    preflight = run_preflight(
        write_composed_document(
            model_dir, base_model or make_base_model_field(), num_clips=3, **training
        )
    )
    return make_training_setup(preflight.require_plan(), list(preflight.train_examples))


def test_only_trainable_parameters_change(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, adapter="projector", learning_rate=0.1)
    frozen = [*setup.model.encoder.parameters(), *setup.model.lm.parameters()]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)
    before = {
        name: parameter.detach().clone() for name, parameter in setup.model.named_parameters()
    }
    list(setup.iter_events())
    after = dict(setup.model.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(get_trainable_parameters(setup.model))
    assert {name.split(".")[0] for name in changed} == {"projector"}


def test_untrained_new_projector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"projector is new.*set training.lora.where: \[lm, proj"):
        make_setup(tmp_path, adapter="lora", lora={"where": ["lm"]})


@pytest.mark.parametrize("lm", LMS)
def test_top_layers_are_trained(tmp_path: Path, lm: str) -> None:
    setup = make_setup(
        tmp_path, base_model=make_base_model_field(lm=lm), adapter="projector", top_layers=1
    )
    names = {name for name in get_trainable_parameters(setup.model) if name.startswith("lm.")}
    layers = next(
        parameter
        for parameter in setup.model.decoder.modules()
        if isinstance(parameter, torch.nn.ModuleList)
    )
    assert len(layers) == 2
    assert {id(parameter) for parameter in layers[1].parameters()} == {
        id(get_trainable_parameters(setup.model)[name]) for name in names
    }
    before = {
        name: parameter.detach().clone()
        for name, parameter in get_trainable_parameters(setup.model).items()
    }
    list(setup.iter_events())
    after = get_trainable_parameters(setup.model)
    assert any(not torch.equal(before[name], after[name]) for name in names)


def test_lora_weights_are_below_the_top_layers(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, adapter="lora", top_layers=1, lora={"where": ["lm", "projector"]})
    names = set(get_trainable_parameters(setup.model))
    lora_names = {name for name in names if ".lora_" in name}
    assert lora_names and all(name.startswith("lm.model.layers.0.") for name in lora_names)
    other_names = {name for name in names - lora_names if not name.startswith("projector.")}
    assert other_names and all(name.startswith("lm.model.layers.1.") for name in other_names)
    alone = make_setup(tmp_path, adapter="lora", top_layers=2)
    assert not any(".lora_" in name for name in get_trainable_parameters(alone.model))


def test_encoder_is_trained(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, adapter="lora", train_encoder=True)
    names = set(get_trainable_parameters(setup.model))
    encoder_names = {f"encoder.{name}" for name, _ in setup.model.encoder.named_parameters()}
    assert {name for name in names if name.startswith("encoder.")} == {
        name for name in encoder_names if not name.endswith("embed_positions.weight")
    }
    assert {name.split(".")[0] for name in names} == {"encoder", "projector", "lm"}
    assert not setup.plan.batches.use_cached_features


@pytest.mark.parametrize(
    "fields",
    [
        {"adapter": "projector", "top_layers": 1},
        {"adapter": "lora", "top_layers": 1, "lora": {"where": ["lm", "projector"]}},
        {"adapter": "lora", "top_layers": 2},
        {"adapter": "dora", "train_encoder": True},
        {"adapter": "projector", "train_encoder": True, "top_layers": 2},
    ],
)
def test_trainable_parameters_are_counted(tmp_path: Path, fields: dict) -> None:
    setup = make_setup(tmp_path, **fields)
    num_trainable = sum(
        parameter.numel() for parameter in get_trainable_parameters(setup.model).values()
    )
    if fields.get("train_encoder"):  # counted with its positions, which stay frozen
        num_trainable += setup.model.encoder.embed_positions.weight.numel()
    last_norm = setup.model.lm.config.hidden_size  # counted as a part of the layers before it
    assert (
        num_trainable <= count_trainable_parameters(setup.plan.model) <= num_trainable + last_norm
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_version_scores_as_at_the_end_of_training(tmp_path: Path, precision: str) -> None:
    fields = {"adapter": "lora", "top_layers": 1, "train_encoder": True, "precision": precision}
    fields |= {"lora": {"where": ["lm", "projector"]}}
    path = write_composed_document(
        tmp_path, make_base_model_field(), num_clips=3, learning_rate=3e-3, **fields
    )
    path.write_text(path.read_text().replace("held_out: 0", "held_out: 1"))
    events = list(dlm.train(path, steps=4))
    assert isinstance(events[-1], Version)
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    assert losses[-1] < losses[0]
    scores = next(event.scores for event in events if isinstance(event, Evaluated))
    reloaded_scores = dlm.evaluate(path).scores
    assert reloaded_scores["loss"] == pytest.approx(
        scores["loss"], abs=1e-4 if precision == "fp32" else 0.1
    )


def test_qlora_loss_falls_on_a_composed_model(tmp_path: Path) -> None:
    fields = {"adapter": "qlora", "lora": {"where": ["lm", "projector"]}, "learning_rate": 1e-2}
    path = write_composed_document(tmp_path, make_base_model_field(), num_clips=3, **fields)
    losses = [event.loss for event in dlm.train(path, steps=8) if isinstance(event, StepCompleted)]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"freeze_encoder": True, "train_encoder": True}, "exclude each other"),
        ({"train_encoder": True, "lora": {"where": ["encoder"]}}, "both train the encoder"),
        ({"top_layers": 1, "adapter": "full"}, "adapter: full trains every layer"),
        ({"top_layers": 1, "adapter": "qlora"}, "adapter: qlora quantizes"),
        ({"top_layers": 3}, "training.top_layers is 3, and .* has 2"),
    ],
)
def test_contradicting_fields_are_refused(tmp_path: Path, fields: dict, words: str) -> None:
    path = write_composed_document(
        tmp_path, make_base_model_field(), **{"adapter": "lora", **fields}
    )
    with pytest.raises(PlanError, match=words):
        run_preflight(path).require_plan()


def test_top_layers_of_a_pretrained_model(tmp_path: Path) -> None:
    spec = resolve_model_spec(str(write_pretrained_twin("qwen2_audio", tmp_path)), Path())
    model = load_base_model(spec)
    apply_adapter(
        model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None, top_layers=1), seed=0
    )
    names = {name for name in get_trainable_parameters(model) if "projector" not in name}
    num_layers = len(model.decoder.layers)
    prefix = f"whole.model.language_model.layers.{num_layers - 1}."
    assert names == {name for name, _ in model.named_parameters() if name.startswith(prefix)}


def test_summary_names_what_is_trained(tmp_path: Path) -> None:
    fields = {"adapter": "projector", "top_layers": 1, "train_encoder": True}
    plan: Plan = run_preflight(
        write_composed_document(tmp_path, make_base_model_field(), **fields)
    ).require_plan()
    (line,) = [line for line in summarize_plan(plan) if line.name == "learns"]
    assert line.value == "projector on projector, the encoder itself, the last layer of lm"
