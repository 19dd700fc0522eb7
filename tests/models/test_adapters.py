"""What an adapter trains and freezes, and adapters as files."""

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

WEIGHTS_FILE = "adapter_model.safetensors"
LM_LAYERS = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
}
ENCODER_LAYERS = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *("fc1", "fc2"),
}
PROJECTOR_PARAMETERS = {"enter.weight", "enter.bias", "leave.weight", "leave.bias", "norm.weight"}


def make_adapted_model(
    model_dir: Path, adapter_spec: AdapterSpec, *, seed: int = 0
) -> ComposedAudioLM:
    model = load_composed_model(model_dir)
    apply_adapter(model, adapter_spec, seed=seed)
    return model


def get_lora_layers(model: ComposedAudioLM) -> set[str]:
    """The layers with low-rank weights: `lm.mlp.up_proj`."""
    return {
        name.replace("model.layers.0.", "").replace("layers.0.", "").split(".lora_")[0]
        for name in get_trainable_parameters(model)
        if ".lora_" in name
    }


def get_other_parameters(model: ComposedAudioLM) -> set[str]:
    return {name for name in get_trainable_parameters(model) if ".lora_" not in name}


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    "components", [("lm",), ("encoder",), ("lm", "projector"), ("lm", "projector", "encoder")]
)
def test_exactly_the_named_components_are_trained(
    model_dir: Path, kind: str, components: tuple[str, ...]
) -> None:
    model = make_adapted_model(model_dir, make_adapter_spec(kind, *components))
    expected = {f"lm.{name}" for name in LM_LAYERS if "lm" in components}
    expected |= {f"encoder.{name}" for name in ENCODER_LAYERS if "encoder" in components}
    assert get_lora_layers(model) == expected
    projector_names = (
        {f"projector.{name}" for name in PROJECTOR_PARAMETERS}
        if "projector" in components
        else set()
    )
    assert get_other_parameters(model) == projector_names
    tensors_per_layer = 3 if kind == "dora" else 2
    assert len(get_trainable_parameters(model)) == tensors_per_layer * len(expected) + len(
        projector_names
    )


@pytest.mark.parametrize("kind", ["projector", "lora"])
def test_the_projector_alone_is_trained(model_dir: Path, kind: str) -> None:
    model = make_adapted_model(model_dir, make_adapter_spec(kind, "projector"))
    assert set(get_trainable_parameters(model)) == {
        f"projector.{name}" for name in PROJECTOR_PARAMETERS
    }


def test_full_training_leaves_out_the_fixed_positions(model_dir: Path) -> None:
    model = make_adapted_model(model_dir, make_adapter_spec("full", "encoder", "projector", "lm"))
    frozen = {name for name, _ in model.named_parameters()} - set(get_trainable_parameters(model))
    assert frozen == {"encoder.embed_positions.weight"}


@pytest.mark.parametrize(
    ("targets", "components", "expected"),
    [
        (("q_proj",), ("lm",), {"lm.self_attn.q_proj"}),
        (("q_proj",), ("lm", "encoder"), {"lm.self_attn.q_proj", "encoder.self_attn.q_proj"}),
        (("mlp.up_proj", "fc1"), ("lm", "encoder"), {"lm.mlp.up_proj", "encoder.fc1"}),
        (("lm.model.layers.0.mlp.up_proj",), ("lm",), {"lm.mlp.up_proj"}),
    ],
)
def test_target_modules_match_by_the_end_of_their_name(
    model_dir: Path, targets: tuple[str, ...], components: tuple[str, ...], expected: set[str]
) -> None:
    assert (
        get_lora_layers(
            make_adapted_model(model_dir, make_adapter_spec("lora", *components, targets=targets))
        )
        == expected
    )


@pytest.mark.parametrize(
    "targets", [("qproj",), ("q_proj", "qproj"), ("proj",), ("q.proj", "qproj")]
)
def test_a_target_that_matches_no_layer_is_refused(
    model_dir: Path, targets: tuple[str, ...]
) -> None:
    with pytest.raises(PlanError) as caught:
        make_adapted_model(model_dir, make_adapter_spec("lora", "lm", targets=targets))
    assert caught.value.code == "plan.no_such_target"
    assert targets[-1] in str(caught.value) and "down_proj" in str(caught.value)
    assert "q_proj, " not in str(caught.value).split(";")[0]


def test_a_target_in_another_component_is_refused(model_dir: Path) -> None:
    with pytest.raises(PlanError, match="fc1"):
        make_adapted_model(model_dir, make_adapter_spec("lora", "lm", targets=("fc1",)))


def test_parameters_belong_to_the_group_of_their_component(model_dir: Path) -> None:
    model = make_adapted_model(model_dir, make_adapter_spec("lora", "lm", "projector", "encoder"))
    roles = {get_param_group(name, model) for name in get_trainable_parameters(model)}
    assert roles == {"lora", "projector"}
    full = make_adapted_model(model_dir, make_adapter_spec("full", "encoder", "projector", "lm"))
    assert all(
        name.startswith(get_param_group(name, full)) for name in get_trainable_parameters(full)
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_new_adapter_changes_no_logit(
    model_dir: Path, model: ComposedAudioLM, examples: list[Example], kind: str
) -> None:
    adapted_model = make_adapted_model(
        model_dir, make_adapter_spec(kind, "lm", "encoder", dropout=0.1)
    ).eval()
    batch = make_batch(model, examples)
    assert torch.allclose(
        compute_all_logits(adapted_model, batch), compute_all_logits(model, batch), atol=1e-5
    )


def test_the_seed_decides_the_initial_weights(model_dir: Path) -> None:
    first, second, other = (
        get_trainable_parameters(
            make_adapted_model(model_dir, make_adapter_spec("lora", "lm"), seed=seed)
        )
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_adding_an_adapter_leaves_the_global_generator_alone(model_dir: Path) -> None:
    model = load_composed_model(model_dir)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    apply_adapter(model, make_adapter_spec("lora", "lm"), seed=1)
    assert torch.equal(torch.rand(3), expected)


ADAPTER_SPECS = [
    make_adapter_spec("lora", "lm"),
    make_adapter_spec("lora", "lm", "projector", "encoder", targets=("q_proj", "fc1")),
    make_adapter_spec("dora", "lm"),
    make_adapter_spec("projector", "projector"),
    make_adapter_spec("full", "encoder", "projector", "lm"),
]


@pytest.mark.parametrize(
    "adapter_spec",
    ADAPTER_SPECS,
    ids=lambda adapter_spec: f"{adapter_spec.kind}-{len(adapter_spec.components)}",
)
def test_a_saved_adapter_is_loaded_as_it_was(
    model_dir: Path,
    model: ComposedAudioLM,
    examples: list[Example],
    tmp_path: Path,
    adapter_spec: AdapterSpec,
) -> None:
    trained = change_parameters(make_adapted_model(model_dir, adapter_spec))
    save_adapter(trained, adapter_spec, tmp_path)
    spec = read_model_spec(model_dir)
    assert read_adapter_spec(tmp_path, spec) == adapter_spec
    assert set(load_file(tmp_path / WEIGHTS_FILE)) == set(get_trainable_parameters(trained))
    loaded = load_version(spec, tmp_path, device="cpu")
    batch = make_batch(model, examples)
    assert torch.equal(compute_all_logits(loaded, batch), compute_all_logits(trained.eval(), batch))
    assert not torch.allclose(
        compute_all_logits(loaded, batch), compute_all_logits(model, batch), atol=1e-3
    )


def test_without_a_version_the_base_model_is_loaded(
    model_dir: Path, model: ComposedAudioLM, examples: list[Example]
) -> None:
    base_model = load_version(read_model_spec(model_dir), None, device="cpu")
    batch = make_batch(model, examples)
    assert torch.equal(compute_all_logits(base_model, batch), compute_all_logits(model, batch))
    assert not get_trainable_parameters(base_model) and not base_model.training


@pytest.mark.parametrize("changes", [{"key": "other"}, {"revision": "2"}])
def test_an_adapter_of_another_base_is_refused(
    model_dir: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    adapter_spec = make_adapter_spec("lora", "lm")
    save_adapter(make_adapted_model(model_dir, adapter_spec), adapter_spec, tmp_path)
    with pytest.raises(ModelError, match=r"made for tiny \(test\), not for") as caught:
        load_version(replace(read_model_spec(model_dir), **changes), tmp_path, device="cpu")
    assert caught.value.code == "model.other_base"


@pytest.mark.parametrize("damage", ["gone", "half", "missing", "extra", "misshapen", "broadcast"])
def test_a_damaged_adapter_is_refused(model_dir: Path, tmp_path: Path, damage: str) -> None:
    adapter_spec = make_adapter_spec("projector", "projector")
    save_adapter(make_adapted_model(model_dir, adapter_spec), adapter_spec, tmp_path)
    path, name = tmp_path / WEIGHTS_FILE, "projector.norm.weight"
    tensors = load_file(path)
    match damage:
        case "gone":
            path.unlink()
        case "half":
            path.write_bytes(path.read_bytes()[:100])
        case "missing":
            save_file(
                {key: tensor for key, tensor in tensors.items() if key != name},
                path,
            )
        case "extra":
            save_file({**tensors, "odd": torch.ones(1)}, path)
        case "misshapen":
            save_file({**tensors, name: torch.ones(31)}, path)
        case "broadcast":
            save_file({**tensors, name: torch.ones(1)}, path)
    with pytest.raises(ModelError) as caught:
        load_version(read_model_spec(model_dir), tmp_path, device="cpu")
    unreadable = damage in ("gone", "half")
    assert caught.value.code == ("model.bad_adapter" if unreadable else "model.other_base")
    assert str(caught.value).startswith(str(path))
    named = {"missing": name, "extra": "odd", "misshapen": name, "broadcast": name}
    assert named.get(damage, "") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{half", "{}", "[]", '{"base": "tiny", "revision": "test"}'])
def test_a_damaged_config_is_refused(model_dir: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="not an adapter") as caught:
        read_adapter_spec(tmp_path, read_model_spec(model_dir))
    assert caught.value.code == "model.bad_adapter"


def test_weights_that_do_not_fit_change_nothing(model_dir: Path, tmp_path: Path) -> None:
    adapter_spec = make_adapter_spec("projector", "projector")
    model = make_adapted_model(model_dir, adapter_spec)
    save_adapter(
        change_parameters(make_adapted_model(model_dir, adapter_spec)), adapter_spec, tmp_path
    )
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    save_file({**tensors, "odd": torch.ones(1)}, tmp_path / WEIGHTS_FILE)
    before = {
        name: parameter.detach().clone()
        for name, parameter in get_trainable_parameters(model).items()
    }
    with pytest.raises(ModelError):
        load_adapter_weights(model, tmp_path)
    assert all(
        torch.equal(parameter, before[name])
        for name, parameter in get_trainable_parameters(model).items()
    )


def test_the_adapter_config_is_json(model_dir: Path, tmp_path: Path) -> None:
    adapter_spec = make_adapter_spec("lora", "lm", "projector", targets=("q_proj",))
    save_adapter(make_adapted_model(model_dir, adapter_spec), adapter_spec, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base"], config["revision"], config["kind"]) == ("tiny", "test", "lora")
    assert (config["components"], config["target_modules"]) == (["lm", "projector"], ["q_proj"])


def test_a_plan_is_loaded_with_a_fresh_adapter_in_fp32(model_dir: Path, tmp_path: Path) -> None:
    spec = replace(
        read_model_spec(model_dir), source=str(shutil.copytree(model_dir, tmp_path / "moved"))
    )
    plan = ModelPlan(spec, make_adapter_spec("lora", "lm"), "cpu", "fp32", "fp32", 7)
    first, other = (
        load_model(plan),
        make_adapted_model(model_dir, make_adapter_spec("lora", "lm"), seed=7),
    )
    parameters, expected = get_trainable_parameters(first), get_trainable_parameters(other)
    assert parameters.keys() == expected.keys()
    assert all(torch.equal(parameters[name], expected[name]) for name in parameters)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


@pytest.fixture(scope="module")
def pretrained_spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A tiny Qwen2-Audio of transformers."""
    return resolve_model_spec(
        str(write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("native"))), Path()
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("components", [("lm",), ("encoder", "lm"), ("lm", "projector", "encoder")])
def test_training_changes_exactly_the_named_components_of_a_pretrained_model(
    pretrained_spec: ModelSpec, kind: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    """After two steps those tensors have changed, each of them, and no others."""
    adapter_spec = make_adapter_spec(kind, *components)
    model = load_model(ModelPlan(pretrained_spec, adapter_spec, "cpu", "fp32", "fp32", 0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = make_batch(model, write_examples(tmp_path)[1:4])
    optimizer = torch.optim.SGD(get_trainable_parameters(model).values(), lr=1.0)
    for _ in range(2):  # B is zero at first, so A changes in the second
        optimizer.zero_grad()
        (compute_all_logits.__wrapped__(model.train(), batch).logsumexp(-1).sum()).backward()
        optimizer.step()
    changed_names = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert changed_names == set(get_trainable_parameters(model))
    module_paths = {"lm": "model.language_model", "encoder": "model.audio_tower"}
    for component, path_prefix in module_paths.items():
        lora_names = {
            name
            for name in changed_names
            if name.startswith(f"whole.{path_prefix}.") and ".lora_" in name
        }
        assert bool(lora_names) == (component in components)
        assert all(
            name in lora_names for name in changed_names if name.startswith(f"whole.{path_prefix}.")
        )
    assert not [name for name in changed_names if "lm_head" in name or "embed_tokens" in name]
    projector = {name for name in changed_names if "multi_modal_projector" in name}
    assert len(projector) == (2 if "projector" in components else 0)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_saved_adapter_of_a_pretrained_model_is_loaded_as_it_was(
    pretrained_spec: ModelSpec, kind: str, tmp_path: Path
) -> None:
    adapter_spec = make_adapter_spec(kind, "lm", "projector", "encoder", targets=("q_proj", "fc2"))
    trained = change_parameters(
        load_model(ModelPlan(pretrained_spec, adapter_spec, "cpu", "fp32", "fp32", 0))
    )
    save_adapter(trained, adapter_spec, tmp_path)
    assert read_adapter_spec(tmp_path, pretrained_spec) == adapter_spec
    loaded = load_version(pretrained_spec, tmp_path, device="cpu")
    (tmp_path / "clips").mkdir()
    batch = make_batch(loaded, write_examples(tmp_path / "clips")[1:4])
    assert torch.equal(compute_all_logits(loaded, batch), compute_all_logits(trained.eval(), batch))


def test_training_parameters_outside_the_components_is_refused(model_dir: Path) -> None:
    """peft matches the end of names, and another module may have one that ends alike."""
    model = load_composed_model(model_dir)
    model.add_module("spare", nn.ModuleDict({"lm": copy.deepcopy(model.lm)}))
    with pytest.raises(
        PlanError, match=r"14 tensors outside lm would be trained, first spare\.lm"
    ) as caught:
        apply_adapter(model, make_adapter_spec("lora", "lm"), seed=0)
    assert caught.value.code == "plan.trains_too_much"


class ModelWithoutProjectorWeights(ComposedAudioLM):
    """A model whose projector has no weights."""

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """Return prefixes that no parameter has."""
        return {**super().param_prefixes, "projector": ("pooling.",)}


def test_an_adapter_that_trains_nothing_is_refused(model_dir: Path) -> None:
    model = load_composed_model(model_dir)
    model.__class__ = ModelWithoutProjectorWeights
    with pytest.raises(PlanError, match="nothing would be trained; set") as caught:
        apply_adapter(model, make_adapter_spec("projector", "projector"), seed=0)
    assert caught.value.code == "plan.nothing_to_train"


def change_parameters(model: ComposedAudioLM) -> ComposedAudioLM:
    """Change every trainable parameter."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in get_trainable_parameters(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return model
