"""A `base_model` that is a folder or a name of a hub: its spec, and the error where it has none."""

import json
import os
import shutil
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dlm.errors import HubError, ModelError
from dlm.plan.model_ref import derive_spec_from_checkpoint, find_catalog_spec, read_license
from dlm.plan.model_spec import ModelSpec, write_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.safetensors_index import TensorInfo, read_tensor_index
from tests.cli_runner import dlm
from tests.fake_hub import COMMIT, Repository, serve_hub, use_hub
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import make_tiny_config, make_tiny_spec, write_tiny_model

MODEL_CARD = "---\nlicense: cc-by-4.0\n---\n# An audio model\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio with a model card."""
    folder = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("models") / "audio-model")
    (folder / "README.md").write_text(MODEL_CARD)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy for a test to damage."""
    return shutil.copytree(checkpoint, tmp_path / "audio-model")


def resolve(name: Path | str) -> ModelSpec:
    return resolve_model_spec(str(name), Path())


def refusal(name: Path | str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return caught.value


def change_config(folder: Path, **changes: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, change in changes.items():
        config[name] |= change
    (folder / "config.json").write_text(json.dumps(config))


def test_the_spec_of_a_folder_is_that_of_its_files(checkpoint: Path) -> None:
    spec = resolve_model_spec("audio-model", checkpoint.parent)
    catalog_spec = find_catalog_spec("qwen2-audio-7b-instruct")
    tensors = load_file(checkpoint / "model.safetensors")
    assert (spec.key, spec.source) == ("audio-model", str(checkpoint))
    assert (spec.license, spec.family, spec.placeholder) == (
        "cc-by-4.0", "qwen2_audio", "<|AUDIO|>"
    )  # fmt: skip
    assert spec.audio_spec == catalog_spec.audio_spec
    assert spec.sizes.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert spec.sizes.embedding == 2 * 32 * spec.sizes.vocab_size
    assert spec.sizes.projector == 32 * 32 + 32
    lm, encoder = spec.sizes.lm, spec.sizes.encoder
    assert (lm.num_layers, lm.hidden_size, lm.intermediate_size) == (2, 32, 64)
    assert (encoder.num_heads, encoder.num_kv_heads) == (2, 2)
    assert spec.megabytes == 1


def test_an_encoder_of_fewer_positions_has_a_shorter_window(copy: Path) -> None:
    change_config(copy, audio_config={"max_source_positions": 100, "num_mel_bins": 80})
    spec = resolve(copy)
    assert (spec.audio_spec.window_seconds, spec.num_mel_bins) == (2.0, 80)


def test_what_a_config_leaves_out_is_as_in_the_released_model() -> None:
    """The released config leaves out defaults of the class, most of its language model."""
    catalog_spec = find_catalog_spec("qwen2-audio-7b-instruct")
    config = {"model_type": "qwen2_audio", "text_config": {"max_position_embeddings": 8192}}
    tensor_index = {"model.safetensors": {"lm.weight": TensorInfo((2, 3), 0, 12, "BF16")}}
    spec = derive_spec_from_checkpoint(catalog_spec, config, tensor_index)
    assert spec.sizes.lm == replace(catalog_spec.sizes.lm, num_parameters=6)
    assert spec.sizes.vocab_size == 156_032
    assert (spec.audio_spec, spec.context_length) == (catalog_spec.audio_spec, 8192)


def test_tensors_are_counted_by_component() -> None:
    components = {
        "thinker.audio_tower.layers.0.fc1.weight": "encoder",
        "thinker.audio_tower.proj1.weight": "projector",
        "multi_modal_projector.linear.weight": "projector",
        "language_model.model.embed_tokens.weight": "embedding",
        "language_model.lm_head.weight": "embedding",
        "model.layers.0.self_attn.q_proj.weight": "lm",
        "talker.model.layers.0.mlp.up_proj.weight": "not loaded",
    }
    tensors = {
        name: TensorInfo((10**power,), 0, 1, "BF16") for power, name in enumerate(components)
    }
    expected = dict.fromkeys(components.values(), 0)
    for name, component in components.items():
        expected[component] += tensors[name].num_elements
    voxtral = find_catalog_spec("voxtral-mini-3b")
    sizes = derive_spec_from_checkpoint(voxtral, {}, {"a": tensors}).sizes
    assert sizes.encoder.num_parameters == expected["encoder"]
    assert (sizes.projector, sizes.embedding) == (expected["projector"], expected["embedding"])
    assert sizes.lm.num_parameters == expected["lm"]


def test_the_revision_of_a_folder_changes_with_weights_and_config(copy: Path) -> None:
    """One number that differs is enough: what was trained on the old weights is then refused."""
    before = resolve(copy).revision
    assert resolve(copy).revision == before
    tensors = load_file(copy / "model.safetensors")
    tensors["multi_modal_projector.linear.bias"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    after = resolve(copy).revision
    assert after != before
    change_config(copy, audio_config={"dropout": 0.5})
    assert resolve(copy).revision not in (before, after)


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
         "model.text_only", "is a text model (llama); pick --base qwen2-audio-7b-instruct"),
        ({"model_type": "bark", "architectures": ["BarkModel"]},
         "model.unsupported_class", "(bark, BarkModel)"),
        ({}, "model.unsupported_class", "(unknown, no class)"),
        ([], "model.damaged_checkpoint", "config.json"),
        ({"quantization_config": {}}, "model.quantized", "config.json"),
        (None, "model.no_config", "no config.json"),
        ("{half", "model.damaged_checkpoint", "config.json"),
        ("[" * 100_000, "model.damaged_checkpoint", "config.json"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_folder_without_a_supported_model_is_refused(
    copy: Path, config: object, code: str, words: str
) -> None:
    if config is None:
        (copy / "config.json").unlink()
    else:
        text = config if isinstance(config, str) else json.dumps(config)
        (copy / "config.json").write_text(text)
    error = refusal(copy)
    assert error.code == code and words in str(error)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    error = refusal(copy)
    assert error.code == "model.no_safetensors" and "pytorch_model.bin" in error.what
    (copy / "pytorch_model.bin").unlink()
    assert refusal(copy).code == "model.no_safetensors"


@pytest.mark.parametrize("change", [0, 7, 8, 100, -1, "one byte more"])
def test_a_weight_file_of_another_length_is_refused(copy: Path, change: int | str) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:change] if isinstance(change, int) else data + b"\0")
    error = refusal(copy)
    assert (error.code, error.where) == ("model.damaged_checkpoint", str(path))


@pytest.mark.parametrize(
    "header",
    [
        *(b"{half", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"[" * 100_000),
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    ],
    ids=lambda header: str(header[:60]),
)
def test_a_damaged_safetensors_header_is_refused(copy: Path, header: bytes) -> None:
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert refusal(copy).code == "model.damaged_checkpoint"


NESTED_HEADER = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("model.safetensors", None, "model.no_safetensors"),
        (
            "model.safetensors",
            len(NESTED_HEADER).to_bytes(8, "little") + NESTED_HEADER,
            "model.damaged_checkpoint",
        ),
        ("config.json", None, "model.damaged_checkpoint"),
        ("config.json", b"[" * 100_000, "model.damaged_checkpoint"),
        ("tokenizer_config.json", None, "model.damaged_checkpoint"),
        (
            "tokenizer_config.json",
            b'{"eos_token": {"content": "<|audio|>"}}',
            "model.no_placeholder",
        ),
        ("dlm_base.json", None, "model.bad_spec_file"),
        ("dlm_base.json", b"[" * 100_000, "model.bad_spec_file"),
    ],
)
def test_a_hostile_file_of_a_composed_base_is_refused_before_it_is_loaded(
    tmp_path: Path, name: str, content: bytes | None, code: str
) -> None:
    """Of the kind: a base folder of a stranger that hangs or ends in a traceback. Neighbours: a
    pipe for each file, JSON that is nested too deep, audio that ends a turn."""
    path = write_tiny_model(tmp_path / "base") / name
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    assert refusal(tmp_path / "base").code == code


def test_a_header_that_claims_terabytes_is_not_read(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 42) + b"{}")
    assert refusal(copy).code == "model.damaged_checkpoint"


def test_every_shard_of_the_index_is_read(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, shard_names in shards.items():
        shard_tensors = {name: tensors[name] for name in shard_names}
        save_file(shard_tensors, copy / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, shard_names in shards.items() for name in shard_names}
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert len(read_tensor_index(copy)) == 2
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    assert resolve(copy).sizes.num_parameters == num_parameters
    (copy / "model-00002-of-00002.safetensors").unlink()
    error = refusal(copy)
    assert error.code == "model.damaged_checkpoint" and "00002-of-00002" in error.what


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hosts", "..", 3])
def test_an_index_names_only_files_beside_it(copy: Path, name: object) -> None:
    (copy / "model.safetensors").rename(copy.parent / "outside.safetensors")
    index = copy / "model.safetensors.index.json"
    for weight_map in ({"a": name}, [name]):
        index.write_text(json.dumps({"weight_map": weight_map}))
        error = refusal(copy)
        assert (error.code, error.where) == ("model.damaged_checkpoint", str(index))


@pytest.mark.parametrize(
    ("model_card", "license_name"),
    [
        (MODEL_CARD, "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("# no front matter", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("---\n{half", "unknown"),
        ("---", "unknown"),
    ],
)
def test_the_licence_is_that_of_the_model_card(
    tmp_path: Path, model_card: str, license_name: str
) -> None:
    (tmp_path / "README.md").write_text(model_card)
    assert read_license(tmp_path) == license_name


def test_a_hub_model_is_resolved_without_its_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sizes come from the headers of files; afterwards no network is needed."""
    names = ("hf:me/audio-model", f"hf:me/audio-model@{COMMIT}", "hf:me/audio-model@main")
    with serve_hub() as hub:
        hub.repositories["me/audio-model"] = Repository(checkpoint)
        use_hub(monkeypatch, hub, tmp_path)
        specs = [resolve(name) for name in names]
        assert hub.downloaded_files() == {"config.json", "README.md", "model.safetensors"}
    spec = specs[0]
    assert specs == [spec, spec, spec]
    assert (spec.key, spec.source, spec.revision) == ("audio-model", "me/audio-model", COMMIT)
    assert (spec.license, spec.family) == ("cc-by-4.0", "qwen2_audio")
    assert spec.sizes == resolve(checkpoint).sizes
    assert not list((tmp_path / "hub").rglob("*.safetensors")), "only the header is downloaded"


def test_each_refusal_of_the_hub_has_a_code_and_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_model, no_config = tmp_path / "text-model", tmp_path / "no-config"
    text_model.mkdir()
    (text_model / "config.json").write_text(
        '{"model_type": "llama", "architectures": ["XForCausalLM"]}'
    )
    no_config.mkdir()
    pickled = shutil.copytree(checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cache = tmp_path / "cache" / "hub"
    refusals = {
        "hf:me/gated": (
            "hub.gated",
            "needs its licence accepted; accept it at https://huggingface.co/me/gated, then"
            " `hf auth login`",
        ),
        "hf:me/none": ("hub.not_found", "is not on the hub, or is private; check the name, or"),
        "hf:me/audio-model@nope": (
            "hub.no_such_revision",
            "has no such revision; see https://huggingface.co/me/audio-model/commits/main",
        ),
        "hf:a/b/c": ("hub.bad_name", "is not a name of the hub; write hf:org/name, or"),
        "hf:me/no-config": ("model.no_config", "has no config.json; name a model that"),
        "hf:me/text-model": ("model.text_only", "is a text model (llama); pick --base qwen2-audio"),
        "hf:me/pickled": ("model.no_safetensors", "has no safetensors, and pickles are not read"),
        "hf:me/error-418": (
            "hub.http_error",
            f"is not in {cache} and cannot be fetched: the hub answers 418; try again later",
        ),
        "hf:me/denied": (
            "hub.unauthorized",
            f"is not in {cache} and cannot be fetched: the hub answers 403; `hf auth login` with"
            " a token that may read it",
        ),
    }
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve_hub() as hub:
        hub.repositories |= {
            "me/audio-model": Repository(checkpoint),
            "me/gated": Repository(checkpoint, gated=True),
            "me/text-model": Repository(text_model),
            "me/no-config": Repository(no_config),
            "me/pickled": Repository(pickled),
            "me/error-418": Repository(checkpoint, status=418),
            "me/denied": Repository(checkpoint, status=403),
        }
        use_hub(monkeypatch, hub, tmp_path / "cache")
        for name, (code, line) in refusals.items():
            error = refusal(name)
            assert error.code == code, name
            assert str(error).startswith(f"{name}: {line}")
            assert "hf_secret" not in str(error)
        assert "Bearer hf_secret" in hub.tokens


def test_without_a_network_the_error_names_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub() as hub:
        use_hub(monkeypatch, hub, tmp_path)  # its port is closed when `with` ends
    started = time.monotonic()
    error = refusal("hf:me/audio-model")
    assert time.monotonic() - started < 10, "it waits for a network that is not there"
    assert error.code == "hub.unreachable"
    assert str(error) == (
        f"hf:me/audio-model: is not in {tmp_path / 'hub'} and cannot be fetched: there is no"
        " connection, or it was lost; run it again where there is a network (downloads resume),"
        " or use base_model: sparrow"
    )
    use_hub(monkeypatch, None, tmp_path)
    error = refusal("hf:me/audio-model")
    assert (error.code, error.hint) == (
        "hub.offline", "`hf download me/audio-model` where there is a network"
    )  # fmt: skip


def test_a_composed_model_on_the_hub_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_spec(make_tiny_spec(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(make_tiny_config()))
    with serve_hub() as hub:
        hub.repositories["me/tiny"] = Repository(tmp_path)
        use_hub(monkeypatch, hub, tmp_path / "cache")
        spec = resolve("hf:me/tiny")
    assert spec == replace(make_tiny_spec(), source="me/tiny", revision=COMMIT)


def test_a_key_of_the_catalog_has_the_sizes_of_the_cached_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, None, tmp_path)
    catalog_spec = find_catalog_spec("qwen2-audio-7b-instruct")
    repository = tmp_path / "hub" / f"models--{catalog_spec.source.replace('/', '--')}"
    snapshot = repository / "snapshots" / str(catalog_spec.revision)
    shutil.copytree(checkpoint, snapshot)
    spec = resolve(catalog_spec.key)
    assert (spec.revision, spec.license) == (catalog_spec.revision, "Apache-2.0")
    assert spec.sizes == resolve(checkpoint).sizes
    assert f"{tmp_path / 'hub'}: {catalog_spec.key}\n" in dlm("doctor").out
    (snapshot / "model.safetensors").unlink()
    assert resolve(catalog_spec.key) == catalog_spec
    assert f"{tmp_path / 'hub'}: no base of the catalog" in dlm("doctor").out


def test_a_name_like_one_of_the_hub_is_refused_with_its_prefix() -> None:
    error = refusal("me/audio-model")
    assert (error.code, error.hint) == ("model.unknown", "did you mean hf:me/audio-model?")


@pytest.mark.parametrize(
    "name", ["../../x", "a b/c", "a/b/c", "a", "/a", "a/", "-a/b", "./a", "a/..", "a/b\nc", "ä/b"]
)
def test_a_bad_name_of_modelscope_is_refused_without_a_network(name: str) -> None:
    with pytest.raises(HubError) as caught:
        resolve_model_spec(f"ms:{name}", Path())
    assert caught.value.code == "hub.bad_name"
