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


def taught(folder: Path, *, base: dict | None = None, **training: object) -> TrainingSetup:
    if training.get("adapter") != "projector":
        training = {"lora": {"where": ["lm", "projector"]}, **training}
    checked = run_preflight(
        write_composed_document(folder, base or make_base_model_field(), num_clips=3, **training)
    )
    return make_training_setup(checked.require_plan(), list(checked.train_examples))


def test_loading_freezes_what_the_plan_says(tmp_path: Path) -> None:
    run = taught(tmp_path, adapter="projector", learning_rate=0.1)
    frozen = [*run.model.encoder.parameters(), *run.model.lm.parameters()]
    assert frozen and not any(each.requires_grad for each in frozen)
    before = {name: each.detach().clone() for name, each in run.model.named_parameters()}
    list(run.iter_events())
    after = dict(run.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(get_trainable_parameters(run.model))
    assert {name.split(".")[0] for name in moved} == {"projector"}


def test_a_new_projector_is_not_left_random(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"projector is new.*set training.lora.where: \[lm, proj"):
        taught(tmp_path, adapter="lora", lora={"where": ["lm"]})


@pytest.mark.parametrize("lm", LMS)
def test_the_last_layers_learn_as_they_are(tmp_path: Path, lm: str) -> None:
    run = taught(tmp_path, base=make_base_model_field(lm=lm), adapter="projector", top_layers=1)
    names = {name for name in get_trainable_parameters(run.model) if name.startswith("lm.")}
    stack = next(
        each for each in run.model.decoder.modules() if isinstance(each, torch.nn.ModuleList)
    )
    assert len(stack) == 2
    assert {id(each) for each in stack[1].parameters()} == {
        id(get_trainable_parameters(run.model)[name]) for name in names
    }
    before = {
        name: each.detach().clone() for name, each in get_trainable_parameters(run.model).items()
    }
    list(run.iter_events())
    now = get_trainable_parameters(run.model)
    assert any(not torch.equal(before[name], now[name]) for name in names)


def test_low_rank_weights_stay_below_them(tmp_path: Path) -> None:
    run = taught(tmp_path, adapter="lora", top_layers=1, lora={"where": ["lm", "projector"]})
    names = set(get_trainable_parameters(run.model))
    low = {name for name in names if ".lora_" in name}
    assert low and all(name.startswith("lm.model.layers.0.") for name in low)
    rest = {name for name in names - low if not name.startswith("projector.")}
    assert rest and all(name.startswith("lm.model.layers.1.") for name in rest)
    alone = taught(tmp_path, adapter="lora", top_layers=2)
    assert not any(".lora_" in name for name in get_trainable_parameters(alone.model))


def test_the_encoder_learns_as_it_is(tmp_path: Path) -> None:
    run = taught(tmp_path, adapter="lora", train_encoder=True)
    names = set(get_trainable_parameters(run.model))
    own = {f"encoder.{name}" for name, _ in run.model.encoder.named_parameters()}
    assert {name for name in names if name.startswith("encoder.")} == {
        name for name in own if not name.endswith("embed_positions.weight")
    }
    assert {name.split(".")[0] for name in names} == {"encoder", "projector", "lm"}
    assert not run.plan.batches.use_cached_features


@pytest.mark.parametrize(
    "asked",
    [
        {"adapter": "projector", "top_layers": 1},
        {"adapter": "lora", "top_layers": 1, "lora": {"where": ["lm", "projector"]}},
        {"adapter": "lora", "top_layers": 2},
        {"adapter": "dora", "train_encoder": True},
        {"adapter": "projector", "train_encoder": True, "top_layers": 2},
    ],
)
def test_memory_counts_what_learns(tmp_path: Path, asked: dict) -> None:
    run = taught(tmp_path, **asked)
    real = sum(each.numel() for each in get_trainable_parameters(run.model).values())
    if asked.get("train_encoder"):  # told with its positions, which stay as they are
        real += run.model.encoder.embed_positions.weight.numel()
    last_norm = run.model.lm.config.hidden_size  # told as a part of the layers before it
    assert real <= count_trainable_parameters(run.plan.model) <= real + last_norm


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_version_holds_them(tmp_path: Path, precision: str) -> None:
    """What is scored at the end of training is what the version says when it is loaded."""
    asked = {"adapter": "lora", "top_layers": 1, "train_encoder": True, "precision": precision}
    asked |= {"lora": {"where": ["lm", "projector"]}}
    path = write_composed_document(
        tmp_path, make_base_model_field(), num_clips=3, learning_rate=3e-3, **asked
    )
    path.write_text(path.read_text().replace("held_out: 0", "held_out: 1"))
    found = list(dlm.train(path, steps=4))
    assert isinstance(found[-1], Version)
    losses = [each.loss for each in found if isinstance(each, StepCompleted)]
    assert losses[-1] < losses[0]
    scores = next(each.scores for each in found if isinstance(each, Evaluated))
    again = dlm.evaluate(path).scores
    assert again["loss"] == pytest.approx(scores["loss"], abs=1e-4 if precision == "fp32" else 0.1)


def test_packed_weights_learn_on_a_recipe(tmp_path: Path) -> None:
    asked = {"adapter": "qlora", "lora": {"where": ["lm", "projector"]}, "learning_rate": 1e-2}
    path = write_composed_document(tmp_path, make_base_model_field(), num_clips=3, **asked)
    losses = [each.loss for each in dlm.train(path, steps=8) if isinstance(each, StepCompleted)]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"freeze_encoder": True, "train_encoder": True}, "exclude each other"),
        ({"train_encoder": True, "lora": {"where": ["encoder"]}}, "both train the encoder"),
        ({"top_layers": 1, "adapter": "full"}, "adapter: full trains every layer"),
        ({"top_layers": 1, "adapter": "qlora"}, "adapter: qlora quantizes"),
        ({"top_layers": 3}, "training.top_layers is 3, and .* has 2"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused(
    tmp_path: Path, asked: dict, words: str
) -> None:
    path = write_composed_document(
        tmp_path, make_base_model_field(), **{"adapter": "lora", **asked}
    )
    with pytest.raises(PlanError, match=words):
        run_preflight(path).require_plan()


def test_the_last_layers_of_a_released_model(tmp_path: Path) -> None:
    base = resolve_model_spec(str(write_pretrained_twin("qwen2_audio", tmp_path)), Path())
    model = load_base_model(base)
    apply_adapter(
        model, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None, top_layers=1), seed=0
    )
    names = {name for name in get_trainable_parameters(model) if "projector" not in name}
    layers = len(model.decoder.layers)
    start = f"whole.model.language_model.layers.{layers - 1}."
    assert names == {name for name, _ in model.named_parameters() if name.startswith(start)}


def test_the_plan_says_it(tmp_path: Path) -> None:
    asked = {"adapter": "projector", "top_layers": 1, "train_encoder": True}
    plan: Plan = run_preflight(
        write_composed_document(tmp_path, make_base_model_field(), **asked)
    ).require_plan()
    (line,) = [each for each in summarize_plan(plan) if each.name == "learns"]
    assert line.value == "projector on projector, the encoder itself, the last layer of lm"
