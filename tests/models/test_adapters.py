"""What learns, what stays, and the adapter as a file."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dlm.data.types import Example
from dlm.errors import ModelError, PlanError
from dlm.models.adapters import (
    apply_adapter,
    get_param_group,
    get_trainable_parameters,
    load_adapter_weights,
    read_adapter_spec,
    save_adapter,
)
from dlm.models.composed import ComposedAudioLM, load_composed_model
from dlm.models.load import load_model, load_version
from dlm.plan.model_spec import ComponentName, ModelSpec, read_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec, ModelPlan
from tests.models.batches import compute_all_logits, make_adapter_spec, make_batch, write_examples
from tests.pretrained_twins import write_pretrained_twin

WEIGHTS = "adapter_model.safetensors"
LM = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
}
ENCODER = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *("fc1", "fc2"),
}
PROJECTOR = {"enter.weight", "enter.bias", "leave.weight", "leave.bias", "norm.weight"}


def adapted(folder: Path, what: AdapterSpec, *, seed: int = 0) -> ComposedAudioLM:
    model = load_composed_model(folder)
    apply_adapter(model, what, seed=seed)
    return model


def layers(model: ComposedAudioLM) -> set[str]:
    """Where low-rank weights sit: `lm.mlp.up_proj`."""
    return {
        name.replace("model.layers.0.", "").replace("layers.0.", "").split(".lora_")[0]
        for name in get_trainable_parameters(model)
        if ".lora_" in name
    }


def others(model: ComposedAudioLM) -> set[str]:
    return {name for name in get_trainable_parameters(model) if ".lora_" not in name}


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    "where", [("lm",), ("encoder",), ("lm", "projector"), ("lm", "projector", "encoder")]
)
def test_exactly_the_named_parts_learn(folder: Path, kind: str, where: tuple[str, ...]) -> None:
    model = adapted(folder, make_adapter_spec(kind, *where))
    expected = {f"lm.{name}" for name in LM if "lm" in where}
    expected |= {f"encoder.{name}" for name in ENCODER if "encoder" in where}
    assert layers(model) == expected
    whole = {f"projector.{name}" for name in PROJECTOR} if "projector" in where else set()
    assert others(model) == whole
    each = 3 if kind == "dora" else 2
    assert len(get_trainable_parameters(model)) == each * len(expected) + len(whole)


@pytest.mark.parametrize("kind", ["projector", "lora"])
def test_the_projector_alone_learns(folder: Path, kind: str) -> None:
    model = adapted(folder, make_adapter_spec(kind, "projector"))
    assert set(get_trainable_parameters(model)) == {f"projector.{name}" for name in PROJECTOR}


def test_all_learns_but_the_fixed_positions(folder: Path) -> None:
    model = adapted(folder, make_adapter_spec("full", "encoder", "projector", "lm"))
    frozen = {name for name, _ in model.named_parameters()} - set(get_trainable_parameters(model))
    assert frozen == {"encoder.embed_positions.weight"}


@pytest.mark.parametrize(
    ("targets", "where", "expected"),
    [
        (("q_proj",), ("lm",), {"lm.self_attn.q_proj"}),
        (("q_proj",), ("lm", "encoder"), {"lm.self_attn.q_proj", "encoder.self_attn.q_proj"}),
        (("mlp.up_proj", "fc1"), ("lm", "encoder"), {"lm.mlp.up_proj", "encoder.fc1"}),
        (("lm.model.layers.0.mlp.up_proj",), ("lm",), {"lm.mlp.up_proj"}),
    ],
)
def test_targets_are_found_by_name(
    folder: Path, targets: tuple[str, ...], where: tuple[str, ...], expected: set[str]
) -> None:
    assert layers(adapted(folder, make_adapter_spec("lora", *where, targets=targets))) == expected


@pytest.mark.parametrize(
    "targets", [("qproj",), ("q_proj", "qproj"), ("proj",), ("q.proj", "qproj")]
)
def test_a_name_that_matches_nothing_is_an_error(folder: Path, targets: tuple[str, ...]) -> None:
    with pytest.raises(PlanError) as told:
        adapted(folder, make_adapter_spec("lora", "lm", targets=targets))
    assert targets[-1] in str(told.value) and "down_proj" in str(told.value)
    assert "q_proj, " not in str(told.value).split(";")[0]


def test_a_name_in_a_part_that_does_not_learn_is_an_error(folder: Path) -> None:
    with pytest.raises(PlanError, match="fc1"):
        adapted(folder, make_adapter_spec("lora", "lm", targets=("fc1",)))


def test_roles(folder: Path) -> None:
    model = adapted(folder, make_adapter_spec("lora", "lm", "projector", "encoder"))
    roles = {get_param_group(name, model) for name in get_trainable_parameters(model)}
    assert roles == {"lora", "projector"}
    full = adapted(folder, make_adapter_spec("full", "encoder", "projector", "lm"))
    assert all(
        name.startswith(get_param_group(name, full)) for name in get_trainable_parameters(full)
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_low_rank_starts_as_the_base(
    folder: Path, model: ComposedAudioLM, clips: list[Example], kind: str
) -> None:
    fresh = adapted(folder, make_adapter_spec(kind, "lm", "encoder", dropout=0.1)).eval()
    batch = make_batch(model, clips)
    assert torch.allclose(
        compute_all_logits(fresh, batch), compute_all_logits(model, batch), atol=1e-5
    )


def test_the_seed_makes_the_start(folder: Path) -> None:
    one, same, other = (
        get_trainable_parameters(adapted(folder, make_adapter_spec("lora", "lm"), seed=seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_seed_of_others_is_left_alone(folder: Path) -> None:
    model = load_composed_model(folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    apply_adapter(model, make_adapter_spec("lora", "lm"), seed=1)
    assert torch.equal(torch.rand(3), expected)


KINDS = [
    make_adapter_spec("lora", "lm"),
    make_adapter_spec("lora", "lm", "projector", "encoder", targets=("q_proj", "fc1")),
    make_adapter_spec("dora", "lm"),
    make_adapter_spec("projector", "projector"),
    make_adapter_spec("full", "encoder", "projector", "lm"),
]


@pytest.mark.parametrize("what", KINDS, ids=lambda what: f"{what.kind}-{len(what.components)}")
def test_an_adapter_makes_the_round_trip(
    folder: Path, model: ComposedAudioLM, clips: list[Example], tmp_path: Path, what: AdapterSpec
) -> None:
    taught = changed(adapted(folder, what))
    save_adapter(taught, what, tmp_path)
    base = read_model_spec(folder)
    assert read_adapter_spec(tmp_path, base) == what
    assert set(load_file(tmp_path / WEIGHTS)) == set(get_trainable_parameters(taught))
    again = load_version(base, tmp_path, device="cpu")
    batch = make_batch(model, clips)
    assert torch.equal(compute_all_logits(again, batch), compute_all_logits(taught.eval(), batch))
    assert not torch.allclose(
        compute_all_logits(again, batch), compute_all_logits(model, batch), atol=1e-3
    )


def test_without_a_version_it_is_the_bare_base(
    folder: Path, model: ComposedAudioLM, clips: list[Example]
) -> None:
    bare = load_version(read_model_spec(folder), None, device="cpu")
    batch = make_batch(model, clips)
    assert torch.equal(compute_all_logits(bare, batch), compute_all_logits(model, batch))
    assert not get_trainable_parameters(bare) and not bare.training


@pytest.mark.parametrize("changes", [{"key": "other"}, {"revision": "2"}])
def test_an_adapter_of_another_base_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    what = make_adapter_spec("lora", "lm")
    save_adapter(adapted(folder, what), what, tmp_path)
    with pytest.raises(ModelError, match=r"made for tiny \(test\), not for"):
        load_version(replace(read_model_spec(folder), **changes), tmp_path, device="cpu")


@pytest.mark.parametrize("damage", ["gone", "half", "missing", "extra", "misshapen", "broadcast"])
def test_a_damaged_adapter_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    what = make_adapter_spec("projector", "projector")
    save_adapter(adapted(folder, what), what, tmp_path)
    path, name = tmp_path / WEIGHTS, "projector.norm.weight"
    tensors = load_file(path)
    match damage:
        case "gone":
            path.unlink()
        case "half":
            path.write_bytes(path.read_bytes()[:100])
        case "missing":
            save_file({each: value for each, value in tensors.items() if each != name}, path)
        case "extra":
            save_file({**tensors, "odd": torch.ones(1)}, path)
        case "misshapen":
            save_file({**tensors, name: torch.ones(31)}, path)
        case "broadcast":
            save_file({**tensors, name: torch.ones(1)}, path)
    with pytest.raises(ModelError) as told:
        load_version(read_model_spec(folder), tmp_path, device="cpu")
    assert str(told.value).startswith(str(path))
    named = {"missing": name, "extra": "odd", "misshapen": name, "broadcast": name}
    assert named.get(damage, "") in str(told.value)


@pytest.mark.parametrize("text", ["", "{half", "{}", "[]", '{"base": "tiny", "revision": "test"}'])
def test_a_damaged_config_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="not an adapter"):
        read_adapter_spec(tmp_path, read_model_spec(folder))


def test_placing_changes_nothing_when_it_fails(folder: Path, tmp_path: Path) -> None:
    what = make_adapter_spec("projector", "projector")
    model = adapted(folder, what)
    save_adapter(changed(adapted(folder, what)), what, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, "odd": torch.ones(1)}, tmp_path / WEIGHTS)
    before = {name: each.detach().clone() for name, each in get_trainable_parameters(model).items()}
    with pytest.raises(ModelError):
        load_adapter_weights(model, tmp_path)
    assert all(
        torch.equal(each, before[name]) for name, each in get_trainable_parameters(model).items()
    )


def test_the_config_is_plain_json(folder: Path, tmp_path: Path) -> None:
    what = make_adapter_spec("lora", "lm", "projector", targets=("q_proj",))
    save_adapter(adapted(folder, what), what, tmp_path)
    facts = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (facts["base"], facts["revision"], facts["kind"]) == ("tiny", "test", "lora")
    assert (facts["components"], facts["target_modules"]) == (["lm", "projector"], ["q_proj"])


def test_a_plan_is_loaded_ready_to_learn(folder: Path, tmp_path: Path) -> None:
    base = replace(read_model_spec(folder), source=str(shutil.copytree(folder, tmp_path / "moved")))
    plan = ModelPlan(base, make_adapter_spec("lora", "lm"), "cpu", "fp32", "fp32", 7)
    one, other = load_model(plan), adapted(folder, make_adapter_spec("lora", "lm"), seed=7)
    mine, theirs = get_trainable_parameters(one), get_trainable_parameters(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {each.dtype for each in mine.values()} == {torch.float32}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A released model in small, by its own class."""
    return resolve_model_spec(
        str(write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("native"))), Path()
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("where", [("lm",), ("encoder", "lm"), ("lm", "projector", "encoder")])
def test_exactly_the_named_parts_of_a_released_model_learn(
    native: ModelSpec, kind: str, where: tuple[str, ...], tmp_path: Path
) -> None:
    """Seen after a step of training: those tensors changed, each of them, and no others."""
    adapted_to = make_adapter_spec(kind, *where)
    model = load_model(ModelPlan(native, adapted_to, "cpu", "fp32", "fp32", 0))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    batch = make_batch(model, write_examples(tmp_path)[1:4])
    optimizer = torch.optim.SGD(get_trainable_parameters(model).values(), lr=1.0)
    for _ in range(2):  # low-rank weights begin at zero: one of each pair moves in the second
        optimizer.zero_grad()
        (compute_all_logits.__wrapped__(model.train(), batch).logsumexp(-1).sum()).backward()
        optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == set(get_trainable_parameters(model))
    places = {"lm": "model.language_model", "encoder": "model.audio_tower"}
    for role, place in places.items():
        low = {name for name in moved if name.startswith(f"whole.{place}.") and ".lora_" in name}
        assert bool(low) == (role in where)
        assert all(name in low for name in moved if name.startswith(f"whole.{place}."))
    assert not [name for name in moved if "lm_head" in name or "embed_tokens" in name]
    projector = {name for name in moved if "multi_modal_projector" in name}
    assert len(projector) == (2 if "projector" in where else 0)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_a_released_model_makes_the_round_trip(
    native: ModelSpec, kind: str, tmp_path: Path
) -> None:
    what = make_adapter_spec(kind, "lm", "projector", "encoder", targets=("q_proj", "fc2"))
    taught = changed(load_model(ModelPlan(native, what, "cpu", "fp32", "fp32", 0)))
    save_adapter(taught, what, tmp_path)
    assert read_adapter_spec(tmp_path, native) == what
    back = load_version(native, tmp_path, device="cpu")
    (tmp_path / "clips").mkdir()
    batch = make_batch(back, write_examples(tmp_path / "clips")[1:4])
    assert torch.equal(compute_all_logits(back, batch), compute_all_logits(taught.eval(), batch))


def test_more_than_was_asked_for_is_refused(folder: Path) -> None:
    """peft goes by the ends of names, and another part may hold one that ends alike."""
    model = load_composed_model(folder)
    model.add_module("spare", nn.ModuleDict({"lm": copy.deepcopy(model.lm)}))
    with pytest.raises(PlanError, match=r"14 tensors outside lm would be trained, first spare\.lm"):
        apply_adapter(model, make_adapter_spec("lora", "lm"), seed=0)


class Weightless(ComposedAudioLM):
    """A model whose projector has no weights."""

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """As of one that pools alone."""
        return {**super().param_prefixes, "projector": ("pooling.",)}


def test_nothing_to_learn_is_refused(folder: Path) -> None:
    model = load_composed_model(folder)
    model.__class__ = Weightless
    with pytest.raises(PlanError, match="nothing would be trained; set training.lora.where"):
        apply_adapter(model, make_adapter_spec("projector", "projector"), seed=0)


def changed(model: ComposedAudioLM) -> ComposedAudioLM:
    """Every parameter that learns, moved."""
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in get_trainable_parameters(model).values():
            each.add_(0.3 * torch.randn(each.shape, generator=chance))
    return model
