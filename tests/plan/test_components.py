"""Composed models: sizes equal to those of the real model, and a code for each that cannot be."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertForCTC,
    Qwen3Config,
    Qwen3ForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from dlm.config.model_schema import ComposedModelConfig, parse_base_model
from dlm.errors import MissingExtra, ModelError
from dlm.exporters.manifest import is_on_hub
from dlm.models.load import load_base_model
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.components import compose_model_spec
from dlm.plan.model_spec import COMPOSED_MODEL_CONFIGS, MODEL_CATALOG, ModelSpec
from dlm.plan.resolve import resolve_model_spec
from tests.batching.test_byte_tokenizer import make_text_tokenizer
from tests.cli_runner import dlm
from tests.fake_hub import COMMIT, FakeHub, Repository, serve_hub
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_document, write_tiny_model

WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}
WAVEFORM_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
HUBERT = {"model_type": "hubert", **WAVEFORM_ENCODER}
WAVLM = {"model_type": "wavlm", **WAVEFORM_ENCODER}
LM_CONFIGS = {
    "nanochat": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "qwen3": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    },
    "qwen2": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    },
    "llama": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 2},
    },
}
CONV = {"kind": "conv", "hidden": 8}
MLP = {"kind": "mlp", "stride": 5}
RESOLVE_AND_DOWNLOAD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from dlm.config.model_schema import parse_base_model
from dlm.errors import DlmError
from dlm.plan.hub import download_model
from dlm.plan.resolve import resolve_model_spec
for base_model in map(json.loads, sys.argv[1:]):
    try:
        spec = resolve_model_spec(parse_base_model(base_model), Path())
        component = spec.composition.lm if spec.composition else spec
        folder = download_model(component.source, component.revision)
        files = sorted(path.name for path in folder.iterdir())
        print(json.dumps({"spec": asdict(spec), "files": files}))
    except DlmError as error:
        print(json.dumps({"code": error.code, "message": str(error)}))
"""


def from_scratch(model_type: str, **config: object) -> dict[str, Any]:
    return {"from_scratch": {"model_type": model_type, **config}}


def compose(**components: Any) -> ModelSpec:
    """The spec of a composed model, with sparrow's components where none are given."""
    base_model = {"encoder": "sparrow", "projector": "stack", "lm": "sparrow", **components}
    return resolve_model_spec(parse_base_model(base_model), Path())


def refusal(**components: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        compose(**components)
    assert "\n" not in str(caught.value)
    return caught.value


def count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "components",
    [
        {"encoder": {"from_scratch": WHISPER}, "projector": "pool", "lm": "sparrow"},
        {"encoder": {"from_scratch": HUBERT, "layer": 1}, "projector": CONV},
        {"encoder": {"from_scratch": WAVLM, "layer": "weighted_sum"}, "projector": "mlp"},
        {"encoder": ["sparrow", {"from_scratch": HUBERT}], "projector": CONV},
        *({"lm": from_scratch(kind, **config)} for kind, config in LM_CONFIGS.items()),
        {"lm": {**from_scratch("gpt2", n_embd=16, n_layer=1, n_head=2), "tokenizer": "sparrow"}},
        {"projector": "sparrow"},
    ],
    ids=lambda components: str(components)[:60],
)
def test_the_spec_counts_the_parameters_of_the_model(components: dict[str, Any]) -> None:
    spec = compose(**components)
    model = load_base_model(spec)
    assert count_parameters(model.encoder) == spec.sizes.encoder.num_parameters
    assert count_parameters(model.projector) == spec.sizes.projector
    assert count_parameters(model) == spec.sizes.num_parameters
    embeddings = model.embed_tokens.get_parameter("weight")
    assert embeddings.shape == (spec.sizes.vocab_size, spec.sizes.lm.hidden_size)
    assert model.lm.config.num_hidden_layers == spec.sizes.lm.num_layers


def test_rates_of_a_mel_encoder() -> None:
    spec = compose(encoder={"from_scratch": {**WHISPER, "max_source_positions": 1500}})
    audio_spec = spec.audio_spec
    assert (spec.encoder_input, spec.num_mel_bins) == ("mel", 80)
    assert (audio_spec.window_seconds, audio_spec.pad_mode) == (30, "none")
    assert count_audio_tokens(16_000, audio_spec) == 7  # 50 frames, 8 per token
    padded = compose(encoder={"from_scratch": WHISPER, "pad": "30s"}, projector="pool").audio_spec
    assert [count_audio_tokens(samples, padded) for samples in (16_000, 480_000)] == [250, 250]


def test_rates_of_waveform_encoders() -> None:
    hubert = compose(encoder={"from_scratch": HUBERT}, projector=MLP).audio_spec
    assert (hubert.hop_length, hubert.encoder_stride, hubert.min_samples) == (1, 320, 400)
    assert len(hubert.conv_layers) == 7
    assert count_audio_tokens(16_000, hubert) == 10  # 49 frames
    w2v_bert = compose(encoder=from_scratch("wav2vec2-bert", **WAVEFORM_ENCODER)).audio_spec
    assert (w2v_bert.encoder_stride, w2v_bert.min_samples) == (320, 560)
    assert w2v_bert.conv_layers == ((400, 160), (2, 2))


def test_two_encoders_have_the_rate_of_the_first() -> None:
    spec = compose(encoder=["sparrow", {"from_scratch": HUBERT}], projector=MLP)
    audio_spec = spec.audio_spec
    assert (spec.encoder_input, spec.num_mel_bins) == ("wave", 80)
    assert (audio_spec.conv_layers, audio_spec.window_seconds) == ((), 30)
    assert (audio_spec.encoder_stride, audio_spec.min_samples) == (320, 400)
    assert count_audio_tokens(16_000, audio_spec) == 10


def test_texts_and_defaults_follow_from_the_language_model() -> None:
    spec = compose()
    assert (spec.key, spec.license, spec.default_adapter, spec.chat_format) == (
        "sparrow+stack+sparrow", "MIT", "projector", "template"
    )  # fmt: skip
    assert (spec.default_prompt, spec.audio_suffix) == ("Transcribe the audio.", "\n")
    assert spec.default_learning_rate == 1e-3
    assert compose(projector={"kind": "concat", "hidden": 8}).default_learning_rate == 1e-4
    nanochat = from_scratch("nanochat", **LM_CONFIGS["nanochat"])
    new = compose(lm=nanochat, prompt="Which tone?", before="<", after=">")
    assert (new.key, new.default_adapter, new.chat_format) == (
        "sparrow+stack+new-nanochat", "full", "plain"
    )  # fmt: skip
    assert (new.default_prompt, new.audio_prefix, new.audio_suffix) == ("Which tone?", "<", ">")
    assert (new.sizes.vocab_size, new.composition.tokenizer) == (260, "bytes")
    eos = new.composition.lm.config["eos_token_id"]
    assert eos is None, "1, the default of its class, would be a byte"


def test_the_revision_changes_with_every_component_but_not_with_the_prompt() -> None:
    spec = compose()
    nanochat = from_scratch("nanochat", **LM_CONFIGS["nanochat"])
    revisions = {
        spec.revision,
        compose(lm=nanochat).revision,
        compose(projector="mlp").revision,
        compose(projector={"kind": "stack", "hidden": 64}).revision,
        compose(chat="plain").revision,
        compose(encoder={"source": "sparrow", "layer": 2}).revision,
    }
    assert len(revisions) == 6
    assert compose(prompt="Why?").revision == spec.revision == compose().revision


@pytest.mark.parametrize(
    ("components", "code", "words"),
    [
        ({"encoder": from_scratch("qwen3")}, "model.not_an_encoder", "name it under lm"),
        ({"lm": {"from_scratch": WHISPER}}, "model.not_a_language_model", "name it under encoder"),
        ({"encoder": from_scratch("vit")}, "model.unsupported_class", "whisper, "),
        ({"lm": from_scratch("phi3")}, "model.incomplete_config", "num_hidden_layers"),
        ({"lm": from_scratch("nanochat", vocab_size=100)},
         "model.vocab_mismatch", "has 100 tokens, and its tokenizer 260"),
        ({"encoder": {"from_scratch": {**WHISPER, "max_source_positions": 750}, "pad": "30s"}},
         "model.bad_pad", "15 s"),
        ({"encoder": {"from_scratch": HUBERT, "pad": "30s"}}, "model.bad_pad", "its own length"),
        ({"encoder": {"source": "sparrow", "layer": 5}}, "model.no_such_layer", "1 to 4"),
        ({"encoder": {"from_scratch": {**HUBERT, "conv_stride": [2, 2]}}},
         "model.bad_config", "conv_stride"),
        ({"encoder": {"from_scratch": {**HUBERT, "conv_stride": [0] * 7}}},
         "model.bad_config", "conv_stride"),
        ({"encoder": {"from_scratch": {**HUBERT, "conv_kernel": "10"}}},
         "model.bad_config", "conv_kernel"),
        ({"encoder": {"from_scratch": WHISPER}, "projector": "sparrow"},
         "model.projector_mismatch", "frames 384 wide and a language model 192 wide; here are"
         " frames 32 wide and a language model 192 wide; take source out"),
        ({"projector": {"source": "sparrow", "hidden": 8}},
         "model.projector_mismatch", "leave its options out"),
        ({"projector": "stak"}, "model.bad_projector", "did you mean 'stack'?"),
        ({"projector": {"kind": "mlp", "heads": 2}}, "model.bad_projector", "'heads'"),
        ({"lm": "sparow"}, "model.unknown", "did you mean sparrow?"),
        ({"encoder": "whisper-qwen3"}, "model.composed", "like: whisper-qwen3"),
        ({"lm": {**from_scratch("gpt2"), "tokenizer": "tests"}}, "model.no_tokenizer", "tests: "),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_components_that_do_not_fit_are_refused(
    components: dict[str, Any], code: str, words: str
) -> None:
    error = refusal(**components)
    assert error.code == code and words in str(error)


@pytest.mark.parametrize(
    ("component", "config"),
    [
        *(("encoder", WHISPER), ("encoder", HUBERT), ("encoder", WAVLM)),
        *(("lm", {"model_type": kind, **config}) for kind, config in LM_CONFIGS.items()),
    ],
    ids=lambda value: str(value)[:30],
)
def test_any_value_in_a_config_gives_a_spec_or_an_error_with_a_code(
    component: str, config: dict[str, Any]
) -> None:
    values = [None, True, 0, -1, 3, 10**30, 1.5, "x", "", [], [1], ["a"], {}, {"a": 1}]
    for name in config.keys() - {"model_type"}:
        for value in values:
            try:
                compose(**{component: {"from_scratch": {**config, name: value}}})
            except ModelError as error:
                assert error.code and "\n" not in str(error), (name, value)


@pytest.mark.parametrize("projector", [None, {"hidden": 16, "tokens_per_second": 25}])
def test_a_projector_without_a_kind_is_an_mlp(projector: dict | None) -> None:
    base_model: dict[str, Any] = {"encoder": "sparrow", "lm": "sparrow"}
    base_model |= {"projector": projector} if projector else {}
    spec = resolve_model_spec(parse_base_model(base_model), Path())
    assert spec.composition and spec.composition.projector["kind"] == "mlp"
    assert spec.audio_spec.projector_stride == (2 if projector else 4)


def test_components_from_folders(tmp_path: Path) -> None:
    """A Whisper's decoder is not counted; the tokenizer gives the chat format."""
    whisper = WhisperForConditionalGeneration(
        WhisperConfig(**WHISPER, decoder_layers=1, decoder_ffn_dim=64, decoder_attention_heads=2)
    )
    whisper.save_pretrained(tmp_path / "whisper")
    HubertForCTC(HubertConfig(**WAVEFORM_ENCODER)).save_pretrained(tmp_path / "hubert")
    (tmp_path / "hubert/preprocessor_config.json").write_text('{"do_normalize": true}')
    lm_folder = save_language_model(tmp_path / "lm")
    components = {
        "encoder": str(tmp_path / "whisper"),
        "projector": "pool",
        "lm": str(lm_folder),
    }
    spec = compose(**components)
    assert spec.sizes.encoder.num_parameters == count_parameters(whisper.model.encoder)
    assert spec.sizes.embedding == 300 * 32 == spec.sizes.vocab_size * spec.sizes.lm.hidden_size
    assert (spec.key, spec.license, spec.context_length) == (
        "whisper+pool+lm", "unknown and mit", 128
    )  # fmt: skip
    model = load_base_model(spec)
    assert model.audio_token_id == 259  # after the tokens of its tokenizer
    assert torch.equal(model.encoder.conv1.weight, whisper.model.encoder.conv1.weight)
    hubert = compose(**{**components, "encoder": str(tmp_path / "hubert")})
    assert hubert.composition.encoders[0].config["do_normalize"] is True
    moved = shutil.copytree(lm_folder, tmp_path / "elsewhere/lm")
    assert compose(**{**components, "lm": str(moved)}).revision == spec.revision
    (lm_folder / "chat_template.jinja").unlink()
    error = refusal(**components, chat="template")
    assert (error.code, error.where) == ("model.no_chat_template", str(lm_folder))
    assert compose(**components).chat_format == "plain"
    error = refusal(**{**components, "lm": str(tmp_path / "whisper")})
    assert error.code == "model.not_a_language_model"
    error = refusal(**{**components, "encoder": str(lm_folder)})
    assert error.code == "model.not_an_encoder"


@pytest.mark.parametrize("damage", ['{"model": {"vocab": {"a": "b"}}}', '{"added_tokens": [1]}'])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "tokenizer.json").write_text(damage)
    error = refusal(lm={**from_scratch("gpt2"), "tokenizer": str(tmp_path)})
    assert error.code == "model.damaged_checkpoint"


@pytest.mark.parametrize("encoders", [[], "whisper", [{}], [{"config": 3, "layer": "last"}]])
def test_a_damaged_config_of_a_composed_model_is_refused(tmp_path: Path, encoders: object) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoders": encoders}))
    for component in ("encoder", "projector", "lm"):
        error = refusal(**{component: str(folder)})
        assert error.code == "model.damaged_checkpoint", component
    config["encoders"][0]["config"]["model_type"] = "vit"
    (folder / "config.json").write_text(json.dumps(config))
    assert refusal(encoder=str(folder)).code == "model.unsupported_class"
    assert refusal(projector=str(folder)).code == "model.unsupported_class"


@pytest.mark.parametrize("family", ["qwen2_audio", "qwen3_asr"])
def test_components_of_an_audio_language_model(family: str, tmp_path: Path) -> None:
    folder = write_pretrained_twin(family, tmp_path / "audio-model")
    tensors = load_file(folder / "model.safetensors")
    spec = compose(lm=str(folder))
    model = load_base_model(spec)
    assert count_parameters(model.lm) == spec.sizes.lm.num_parameters + spec.sizes.embedding
    (embeddings,) = [tensor for name, tensor in tensors.items() if "embed_tokens" in name]
    assert torch.equal(model.embed_tokens.weight, embeddings)
    if family == "qwen3_asr":
        error = refusal(encoder=str(folder))
        assert error.code == "model.unsupported_class" and "encoder of qwen3_asr" in error.what
        return
    spec = compose(encoder=str(folder))
    assert (spec.audio_spec.encoder_stride, spec.num_mel_bins) == (2, 128)
    model = load_base_model(spec)
    assert model.encoder.conv1.weight.equal(tensors["audio_tower.conv1.weight"])
    assert count_parameters(model.encoder) == spec.sizes.encoder.num_parameters


def test_the_projector_of_a_version_is_loaded_and_identified(tmp_path: Path) -> None:
    trained = load_base_model(compose(projector={"kind": "mlp", "hidden": 8})).projector
    tensors = {f"projector.{name}": value + 1 for name, value in trained.state_dict().items()}
    (tmp_path / "v0001").mkdir()
    save_file(tensors, tmp_path / "v0001/adapter_model.safetensors")
    projector = {"source": str(tmp_path / "v0001"), "kind": "mlp", "hidden": 8}
    spec = compose(projector=projector)
    for name, value in load_base_model(spec).projector.state_dict().items():
        assert torch.equal(value, tensors[f"projector.{name}"])
    copy = shutil.copytree(tmp_path / "v0001", tmp_path / "copy")
    moved = {**projector, "source": str(copy)}
    assert compose(projector=moved).revision == spec.revision
    tensors["projector.enter.weight"] += 1
    save_file(tensors, copy / "adapter_model.safetensors")
    assert compose(projector=moved).revision not in (
        spec.revision, compose(projector=MLP).revision
    )  # fmt: skip
    error = refusal(projector={**projector, "hidden": 16})
    assert error.code == "model.projector_mismatch"
    assert "13,824 numbers, and one between frames 384 wide" in error.what


def test_like_inherits_the_components_that_are_not_given(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    new_projector = {"like": str(tiny), "projector": "pool"}
    spec = resolve_model_spec(ComposedModelConfig.model_validate(new_projector), Path())
    assert spec.composition.projector == {"kind": "pool"}
    assert (spec.default_prompt, spec.composition.lm.source) == ("Transcribe.", str(tiny))
    config = {"like": "whisper-mistral-openorca", "encoder": "sparrow", "lm": "sparrow"}
    config["projector"] = {"stride": 3}
    spec = resolve_model_spec(ComposedModelConfig.model_validate(config), Path())
    assert spec.composition.projector == {"kind": "pool", "stride": 3}
    assert (spec.audio_spec.projector_stride, spec.audio_spec.pad_mode) == (3, "none")
    assert spec.default_prompt == "Describe the sound of the given file"
    folder = write_pretrained_twin("qwen2_audio", tmp_path / "audio-model")
    with pytest.raises(ModelError) as caught:
        resolve_model_spec(ComposedModelConfig(like=str(folder)), Path())
    assert caught.value.code == "model.no_projector"


def test_the_catalog_has_the_numbers_that_its_components_give() -> None:
    large = {**WHISPER, "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20}
    large |= {"encoder_ffn_dim": 5120, "num_mel_bins": 128}
    base = {**WHISPER, "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8}
    qwen = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
    qwen |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_936}
    configs = {
        "hf:openai/whisper-large-v3": {"from_scratch": large},
        "hf:openai/whisper-large-v3-turbo": {"from_scratch": large},
        "hf:openai/whisper-base": {"from_scratch": {**base, "encoder_ffn_dim": 2048}},
        "hf:Open-Orca/Mistral-7B-OpenOrca": from_scratch(
            "mistral", vocab_size=32_002, max_position_embeddings=32_768
        ),
        "hf:Qwen/Qwen3-1.7B": from_scratch(
            "qwen3", **qwen, max_position_embeddings=40_960, tie_word_embeddings=True
        ),
    }
    for key, config in COMPOSED_MODEL_CONFIGS.items():
        fields = config.model_dump(exclude_unset=True)
        for component in ("encoder", "lm"):
            fields[component] |= configs.get(fields[component].pop("source", ""), {})
        spec = compose_model_spec(ComposedModelConfig.model_validate(fields), Path())
        catalog_spec = MODEL_CATALOG[key]
        assert spec.sizes == catalog_spec.sizes, key
        for name in (
            *("audio_spec", "num_mel_bins", "default_prompt", "context_length"),
            *("default_learning_rate", "default_epochs"),
        ):
            assert vars(spec)[name] == vars(catalog_spec)[name], (key, name)
        if spec.chat_format == catalog_spec.chat_format:  # random weights here have no template
            assert spec.audio_prefix == catalog_spec.audio_prefix, key


def test_a_document_with_components_is_checked_trained_and_prompted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "tiny")
    components = "\n  encoder: ./tiny\n  projector: {kind: mlp, stride: 4}\n  lm: ./tiny"
    path = write_document(tmp_path, base_model=components, training="  held_out: 0\n")
    result = dlm("check", path)
    assert "tiny+mlp+tiny" in result.out and result.code == 0, result
    result = dlm("check", path, "--set", "base_model.projector.kind=pool")
    assert "tiny+pool+tiny" in result.out, result
    result = dlm("train", path, "--steps", 2, "--set", "base_model.projector.hidden=16")
    assert result.code == 0 and "base_model.projector.hidden = 16" in result.out, result
    result = dlm("prompt", path, "--audio", "clips/0.wav", "--max-tokens", 2, "What?")
    assert result.code == 0, result
    dlm("check", path, "--set", "base_model.lm=hubert").refused("hubert", error="model.unknown")


def test_components_from_hugging_face_and_modelscope(tmp_path: Path) -> None:
    save_language_model(tmp_path / "lm")
    write_tiny_model(tmp_path / "whole")
    no_template = shutil.copytree(tmp_path / "lm", tmp_path / "no-template")
    (no_template / "chat_template.jinja").unlink()
    with serve_hub() as hub:
        hub.repositories |= {
            "me/LM": Repository(tmp_path / "lm", listed_files=("../outside.json", "sub/a.json")),
            "me/whole": Repository(tmp_path / "whole"),
            "me/no-template": Repository(no_template),
            "me/gated": Repository(tmp_path / "lm", gated=True),
        }
        with_lm = [{"encoder": "sparrow", "projector": "stack", "lm": name} for name in
                   ("hf:me/LM", "ms:me/LM", "ms:me/none", "ms:me/gated", "ms:me/LM@v9",
                    "ms:me/LM@../../v9", "hf:me/no-template", "ms:me/no-template")]  # fmt: skip
        for field in with_lm[6:]:
            field["chat"] = "template"
        results = resolve_in_process(hub, tmp_path / "cache", *with_lm, "ms:me/whole")
        sources = {"me/LM": COMMIT, "ms:me/LM": "master"}
        for result, (source, revision) in zip(results[:2], sources.items(), strict=True):
            lm = result["spec"]["composition"]["lm"]
            assert result["spec"]["key"] == "sparrow+stack+lm"
            assert (lm["source"], lm["revision"]) == (source, revision)
            assert result["spec"]["sizes"]["embedding"] == 300 * 32
            assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(result["files"])
            assert "sub" not in result["files"]
        assert not list(tmp_path.rglob("outside.json")), "a name leads out of the cache"
        errors = [(result["code"], result["message"].split(": ")[0]) for result in results[2:8]]
        assert errors == [
            ("hub.not_found", "ms:me/none"),
            ("hub.unauthorized", "ms:me/gated"),
            ("hub.not_found", "ms:me/LM@v9"),
            ("hub.bad_name", "ms:me/LM@../../v9"),
            ("model.no_chat_template", "hf:me/no-template"),
            ("model.no_chat_template", "ms:me/no-template"),
        ]
        whole = results[8]
        assert (whole["spec"]["source"], whole["spec"]["key"]) == ("ms:me/whole", "tiny")
        assert "dlm_base.json" in whole["files"]
        hub.requests.clear()
        assert resolve_in_process(hub, tmp_path / "cache", with_lm[1]) == [results[1]]
        assert not [request for request in hub.requests if request.endswith("/repo")]


def test_modelscope_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingExtra) as caught:
        resolve_model_spec("ms:me/audio-model", Path())
    assert caught.value.hint == "pip install 'dlm[modelscope]'"
    spec = MODEL_CATALOG["qwen2-audio-7b"]
    assert not is_on_hub(replace(spec, source="ms:Qwen/Qwen2-Audio-7B"))


def test_init_does_not_resolve_the_components_of_a_catalog_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dlm("init", "my.dlm", "--base", "nanochat-omni-d6").code == 0
    assert "adapter: full" in Path("my.dlm").read_text()
    dlm("check", "my.dlm").refused("hf:openai/whisper-base", "hf download", error="hub.offline")


def resolve_in_process(hub: FakeHub, cache: Path, *base_models: object) -> list[dict[str, Any]]:
    """Resolve each in another process: ModelScope's library reads the environment at import."""
    completed = subprocess.run(
        [sys.executable, "-c", RESOLVE_AND_DOWNLOAD, *map(json.dumps, base_models)],
        env=hub.make_environment(cache),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed
    assert completed.stderr.count("\n") == completed.stderr.count("fetching "), completed
    return [json.loads(line) for line in completed.stdout.splitlines()]


def save_language_model(folder: Path) -> Path:
    """Save a random Qwen3 with a tokenizer that has a chat template and no audio token."""
    config = {**LM_CONFIGS["qwen3"], "vocab_size": 300, "max_position_embeddings": 128}
    Qwen3ForCausalLM(Qwen3Config(**config)).save_pretrained(folder)
    make_text_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder
