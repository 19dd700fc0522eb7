"""A base from its parts: numbers equal to those of the real model, and each mistake."""

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
from tests.batching.test_byte_tokenizer import deaf_tokenizer
from tests.cli_runner import dlm
from tests.hub import COMMIT, Hub, Repository, serve
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_document, write_tiny_model

WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}
WAVES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
HUBERT = {"model_type": "hubert", **WAVES}
WAVLM = {"model_type": "wavlm", **WAVES}
LMS = {
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
RESOLVE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from dlm.config.model_schema import parse_base_model
from dlm.errors import DlmError
from dlm.plan.hub import download_model
from dlm.plan.resolve import resolve_model_spec
for asked in map(json.loads, sys.argv[1:]):
    try:
        base = resolve_model_spec(parse_base_model(asked), Path())
        part = base.composition.lm if base.composition else base
        folder = download_model(part.source, part.revision)
        files = sorted(path.name for path in folder.iterdir())
        print(json.dumps({"base": asdict(base), "files": files}))
    except DlmError as error:
        print(error)
"""


def scratch(kind: str, **config: object) -> dict[str, Any]:
    return {"from_scratch": {"model_type": kind, **config}}


def parts(**given: Any) -> ModelSpec:
    """The base of parts, sparrow's where none is given."""
    asked = {"encoder": "sparrow", "projector": "stack", "lm": "sparrow", **given}
    return resolve_model_spec(parse_base_model(asked), Path())


def refusal(**given: Any) -> str:
    with pytest.raises(ModelError) as told:
        parts(**given)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": {"from_scratch": WHISPER}, "projector": "pool", "lm": "sparrow"},
        {"encoder": {"from_scratch": HUBERT, "layer": 1}, "projector": CONV},
        {"encoder": {"from_scratch": WAVLM, "layer": "weighted_sum"}, "projector": "mlp"},
        {"encoder": ["sparrow", {"from_scratch": HUBERT}], "projector": CONV},
        *({"projector": "stack", "lm": scratch(kind, **config)} for kind, config in LMS.items()),
        {"lm": {**scratch("gpt2", n_embd=16, n_layer=1, n_head=2), "tokenizer": "sparrow"}},
        {"projector": "sparrow"},
    ],
    ids=lambda given: str(given)[:60],
)  # fmt: skip
def test_the_plan_counts_what_the_model_holds(given: dict[str, Any]) -> None:
    base = parts(**given)
    model = load_base_model(base)
    counts = {
        name: sum(each.numel() for each in part.parameters())
        for name, part in (("encoder", model.encoder), ("projector", model.projector))
    }
    assert counts == {
        "encoder": base.sizes.encoder.num_parameters,
        "projector": base.sizes.projector,
    }
    assert sum(each.numel() for each in model.parameters()) == base.sizes.num_parameters
    table = model.embed_tokens.get_parameter("weight")
    assert table.shape == (base.sizes.vocab_size, base.sizes.lm.hidden_size)
    assert model.lm.config.num_hidden_layers == base.sizes.lm.num_layers


def test_how_fast_each_encoder_reads() -> None:
    mel = parts(encoder={"from_scratch": {**WHISPER, "max_source_positions": 1500}})
    assert (
        mel.encoder_input,
        mel.num_mel_bins,
        mel.audio_spec.window_seconds,
        mel.audio_spec.pad_mode,
    ) == (
        "mel",
        80,
        30,
        "none",
    )
    assert count_audio_tokens(16_000, mel.audio_spec) == 7  # 50 frames, 8 to a token
    padded = parts(encoder={"from_scratch": WHISPER, "pad": "30s"}, projector="pool")
    assert (
        count_audio_tokens(16_000, padded.audio_spec)
        == 250
        == count_audio_tokens(480_000, padded.audio_spec)
    )
    wave = parts(encoder={"from_scratch": HUBERT}, projector=MLP).audio_spec
    assert (wave.hop_length, wave.encoder_stride, wave.min_samples, len(wave.conv_layers)) == (
        1,
        320,
        400,
        7,
    )
    assert count_audio_tokens(16_000, wave) == 10  # 49 frames
    pair = parts(
        encoder=["sparrow", {"from_scratch": HUBERT}], projector={"kind": "mlp", "stride": 5}
    )
    assert (pair.encoder_input, pair.audio_spec.conv_layers, pair.audio_spec.window_seconds) == (
        "wave",
        (),
        15,
    )
    assert (pair.audio_spec.encoder_stride, pair.audio_spec.min_samples, pair.num_mel_bins) == (
        320,
        400,
        80,
    )
    assert count_audio_tokens(16_000, pair.audio_spec) == 10
    bert = parts(encoder=scratch("wav2vec2-bert", **WAVES)).audio_spec
    assert (bert.encoder_stride, bert.conv_layers, bert.min_samples) == (
        320,
        ((400, 160), (2, 2)),
        560,
    )


def test_what_follows_from_the_parts() -> None:
    base = parts()
    assert (base.key, base.license, base.default_adapter, base.chat_format) == (
        "sparrow+stack+sparrow", "MIT", "projector", "template"
    )  # fmt: skip
    assert (base.default_prompt, base.audio_suffix, base.default_learning_rate) == (
        "Transcribe the audio.",
        "\n",
        1e-3,
    )
    assert parts(projector={"kind": "concat", "hidden": 8}).default_learning_rate == 1e-4
    new = parts(
        lm=scratch("nanochat", **LMS["nanochat"]), prompt="Which tone?", before="<", after=">"
    )
    assert (new.key, new.default_adapter, new.chat_format) == (
        "sparrow+stack+new-nanochat",
        "full",
        "plain",
    )
    assert (new.default_prompt, new.audio_prefix, new.audio_suffix) == ("Which tone?", "<", ">")
    assert (new.sizes.vocab_size, new.composition.tokenizer) == (260, "bytes")
    assert new.composition.lm.config["eos_token_id"] is None  # 1, its class's own, would be a byte
    revisions = {
        base.revision, parts(projector="mlp").revision, parts(chat="plain").revision,
        parts(projector={"kind": "stack", "hidden": 64}).revision, new.revision,
        parts(encoder={"source": "sparrow", "layer": 2}).revision,
    }  # fmt: skip
    assert len(revisions) == 6
    assert parts(prompt="Why?").revision == base.revision == parts().revision


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"encoder": scratch("qwen3")},
         "is a language model (qwen3), not an encoder of sound; name it under lm: the two are"),
        ({"lm": {"from_scratch": WHISPER}},
         "is an encoder (whisper), not a language model; name it under encoder: the two are swap"),
        ({"encoder": scratch("vit")}, "is of a class that is not known to hear (vit); known"),
        ({"lm": scratch("phi3")}, "its config does not tell its num_hidden_layers; add"),
        ({"lm": scratch("nanochat", vocab_size=100)}, "has 100 words, and its tokenizer 260; take"),
        ({"encoder": {"source": "sparrow", "pad": "30s"}}, "sparrow: hears 15 s at once, not 30 s"),
        ({"encoder": {"from_scratch": HUBERT, "pad": "30s"}}, "hears a clip as long as it is, and"),
        ({"encoder": {"source": "sparrow", "layer": 5}},
         "sparrow: has no layer 5; set layer to last, weighted_sum or 1 to 4"),
        ({"encoder": {"from_scratch": WHISPER}, "projector": "sparrow"},
         "sparrow: its projector joins frames 256 wide and a language model 192 wide; here are"
         " frames 32 wide and a language model 192 wide; take source out"),
        ({"projector": {"source": "sparrow", "hidden": 8}}, "leave its options out"),
        ({"projector": "stak"}, "projector: unknown kind 'stak'; did you mean 'stack'?"),
        ({"projector": {"kind": "mlp", "heads": 2}}, "projector: mlp takes no 'heads'"),
        ({"lm": "sparow"}, "unknown base 'sparow'; did you mean sparrow?"),
        ({"encoder": "whisper-qwen3"}, "is stitched from parts as it is loaded; name its parts"),
        ({"lm": {**scratch("gpt2"), "tokenizer": "tests"}}, "tests: holds no tokenizer"),
    ],
    ids=lambda given: str(given)[:40],
)  # fmt: skip
def test_what_cannot_be_joined_is_told(given: dict[str, Any], line: str) -> None:
    assert line in refusal(**given)


@pytest.mark.parametrize("projector", [None, {"hidden": 16, "tokens_per_second": 25}])
def test_a_projector_of_no_kind_is_the_one_that_listens_soonest(projector: dict | None) -> None:
    asked: dict[str, Any] = {"encoder": "sparrow", "lm": "sparrow"}
    asked |= {"projector": projector} if projector else {}
    base = resolve_model_spec(parse_base_model(asked), Path())
    assert base.composition and base.composition.projector["kind"] == "mlp"
    assert base.audio_spec.projector_stride == (2 if projector else 4)


def test_released_parts_in_folders(tmp_path: Path) -> None:
    """What a checkpoint holds besides is not counted, and its tokenizer says how it speaks."""
    whole = WhisperForConditionalGeneration(
        WhisperConfig(**WHISPER, decoder_layers=1, decoder_ffn_dim=64, decoder_attention_heads=2)
    )
    whole.save_pretrained(tmp_path / "whisper")
    HubertForCTC(HubertConfig(**WAVES)).save_pretrained(tmp_path / "hubert")
    (tmp_path / "hubert/preprocessor_config.json").write_text('{"do_normalize": true}')
    lm = language_model(tmp_path / "lm")
    asked = {"encoder": str(tmp_path / "whisper"), "projector": "pool", "lm": str(lm)}
    base = parts(**asked)
    count = sum(each.numel() for each in whole.model.encoder.parameters())
    assert base.sizes.encoder.num_parameters == count
    assert base.sizes.embedding == 300 * 32 == base.sizes.vocab_size * base.sizes.lm.hidden_size
    assert (base.key, base.license, base.context_length) == (
        "whisper+pool+lm",
        "unknown and mit",
        128,
    )
    model = load_base_model(base)
    assert model.audio_token_id == 259  # behind the tokenizer's own
    assert torch.equal(model.encoder.conv1.weight, whole.model.encoder.conv1.weight)
    waves = parts(**{**asked, "encoder": str(tmp_path / "hubert")})
    assert waves.composition.encoders[0].config["do_normalize"] is True
    before = base.revision
    moved = shutil.copytree(lm, tmp_path / "elsewhere/lm")
    assert parts(**{**asked, "lm": str(moved)}).revision == before
    (lm / "chat_template.jinja").unlink()
    assert "lm: has no chat template; set base_model.chat to plain" in refusal(**asked)
    assert parts(**asked, chat="plain").chat_format == "plain"
    assert "whisper: is an encoder (whisper), not a language model" in refusal(
        **{**asked, "lm": str(tmp_path / "whisper")}
    )
    assert "lm: is a language model (qwen3), not an encoder" in refusal(
        **{**asked, "encoder": str(lm)}
    )


@pytest.mark.parametrize("family", ["qwen2_audio", "qwen3_asr"])
def test_what_thinks_and_hears_in_a_released_model(family: str, tmp_path: Path) -> None:
    folder = write_pretrained_twin(family, tmp_path / "ear")
    tensors = load_file(folder / "model.safetensors")
    base = parts(lm=str(folder))
    model = load_base_model(base)
    count = sum(each.numel() for each in model.lm.parameters())
    assert count == base.sizes.lm.num_parameters + base.sizes.embedding
    (own,) = [each for name, each in tensors.items() if "embed_tokens" in name]
    assert torch.equal(model.embed_tokens.weight, own)
    if family == "qwen3_asr":
        told = refusal(encoder=str(folder))
        assert "ear: the encoder of qwen3_asr cannot be taken out of it; known encoders" in told
        return
    base = parts(encoder=str(folder))
    assert (base.audio_spec.encoder_stride, base.num_mel_bins) == (2, 128)
    model = load_base_model(base)
    assert model.encoder.conv1.weight.equal(tensors["audio_tower.conv1.weight"])
    count = sum(each.numel() for each in model.encoder.parameters())
    assert count == base.sizes.encoder.num_parameters


def test_the_projector_of_a_version(tmp_path: Path) -> None:
    learned = load_base_model(parts(projector={"kind": "mlp", "hidden": 8})).projector
    tensors = {f"projector.{name}": each + 1 for name, each in learned.state_dict().items()}
    (tmp_path / "v0001").mkdir()
    save_file(tensors, tmp_path / "v0001/adapter_model.safetensors")
    saved = {"source": str(tmp_path / "v0001"), "kind": "mlp", "hidden": 8}
    model = load_base_model(parts(projector=saved))
    for name, each in model.projector.state_dict().items():
        assert torch.equal(each, tensors[f"projector.{name}"])
    before = parts(projector=saved).revision
    moved = {**saved, "source": str(shutil.copytree(tmp_path / "v0001", tmp_path / "kept"))}
    assert parts(projector=moved).revision == before
    tensors["projector.enter.weight"] += 1
    save_file(tensors, tmp_path / "kept/adapter_model.safetensors")
    assert parts(projector=moved).revision not in (before, parts(projector=MLP).revision)
    told = refusal(projector={**saved, "hidden": 16})
    assert "v0001: its projector has 9,728 numbers, and one between frames 256 wide and" in told


def test_a_base_like_another(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    fresh = resolve_model_spec(
        ComposedModelConfig.model_validate({"like": str(tiny), "projector": "pool"}), Path()
    )
    assert fresh.composition.projector == {"kind": "pool"}
    assert (fresh.default_prompt, fresh.composition.lm.source) == ("Transcribe.", str(tiny))
    form = {"like": "whisper-mistral-openorca", "encoder": "sparrow", "lm": "sparrow"}
    other = resolve_model_spec(
        ComposedModelConfig.model_validate({**form, "projector": {"stride": 3}}), Path()
    )
    assert (other.composition.projector, other.audio_spec.projector_stride) == (
        {"kind": "pool", "stride": 3},
        3,
    )
    assert (other.default_prompt, other.audio_spec.pad_mode) == (
        "Describe the sound of the given file",
        "none",
    )
    with pytest.raises(ModelError, match="has no projector that can be taken; add 'projector"):
        folder = write_pretrained_twin("qwen2_audio", tmp_path / "ear")
        resolve_model_spec(ComposedModelConfig(like=str(folder)), Path())


def test_the_rows_of_the_catalogue_are_what_their_parts_make() -> None:
    large = {**WHISPER, "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20}
    large |= {"encoder_ffn_dim": 5120, "num_mel_bins": 128}
    base = {**WHISPER, "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8}
    qwen = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
    qwen |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_936}
    known = {
        "hf:openai/whisper-large-v3": {"from_scratch": large},
        "hf:openai/whisper-large-v3-turbo": {"from_scratch": large},
        "hf:openai/whisper-base": {"from_scratch": {**base, "encoder_ffn_dim": 2048}},
        "hf:Open-Orca/Mistral-7B-OpenOrca": scratch(
            "mistral", vocab_size=32_002, max_position_embeddings=32_768
        ),
        "hf:Qwen/Qwen3-1.7B": scratch(
            "qwen3", **qwen, max_position_embeddings=40_960, tie_word_embeddings=True
        ),
    }
    for key, form in COMPOSED_MODEL_CONFIGS.items():
        asked = form.model_dump(exclude_unset=True)
        for part in ("encoder", "lm"):
            asked[part] |= known.get(asked[part].pop("source", ""), {})
        made, row = (
            compose_model_spec(ComposedModelConfig.model_validate(asked), Path()),
            MODEL_CATALOG[key],
        )
        assert made.sizes == row.sizes, key
        for fact in (
            *("audio_spec", "num_mel_bins", "default_prompt", "context_length"),
            *("default_learning_rate", "default_epochs"),
        ):
            assert vars(made)[fact] == vars(row)[fact], (key, fact)
        if made.chat_format == row.chat_format:  # what is made from scratch here has no template
            assert made.audio_prefix == row.audio_prefix, key


def test_a_document_in_parts_is_taught_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "tiny")
    form = "\n  encoder: ./tiny\n  projector: {kind: mlp, stride: 4}\n  lm: ./tiny"
    path = write_document(tmp_path, base_model=form, training="  held_out: 0\n")
    done = dlm("check", path)
    assert "tiny+mlp+tiny" in done.out and done.code == 0, done
    done = dlm("check", path, "--set", "base_model.projector.kind=pool")
    assert "tiny+pool+tiny" in done.out, done
    done = dlm("train", path, "--steps", 2, "--set", "base_model.projector.hidden=16")
    assert done.code == 0 and "base_model.projector.hidden = 16" in done.out, done
    done = dlm("prompt", path, "--audio", "clips/0.wav", "--max-tokens", 2, "What?")
    assert done.code == 0, done
    dlm("check", path, "--set", "base_model.lm=hubert").refused("unknown base 'hubert'")


def test_parts_from_the_hub_and_from_modelscope(tmp_path: Path) -> None:
    language_model(tmp_path / "lm")
    write_tiny_model(tmp_path / "whole")
    plain = shutil.copytree(tmp_path / "lm", tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    form = {"encoder": "sparrow", "projector": "stack"}
    with serve() as hub:
        hub.repositories["me/LM"] = Repository(tmp_path / "lm")
        hub.repositories["me/whole"] = Repository(tmp_path / "whole")
        hub.repositories["me/plain"] = Repository(plain)
        hub.repositories["me/gated"] = Repository(tmp_path / "lm", gated=True)
        asked = [{**form, "lm": f"{place}:me/LM"} for place in ("hf", "ms")]
        wrong = [{**form, "lm": f"ms:me/{name}"} for name in ("none", "gated", "LM@v9")]
        wrong += [{**form, "lm": f"{place}:me/plain"} for place in ("hf", "ms")]
        found = resolved(hub, tmp_path / "cache", *asked, "ms:me/whole", *wrong)
        places = {"me/LM": COMMIT, "ms:me/LM": "master"}
        for line, (source, revision) in zip(found[:2], places.items(), strict=True):
            told = json.loads(line)
            assert told["base"]["key"] == "sparrow+stack+lm"
            assert told["base"]["composition"]["lm"]["source"] == source
            assert told["base"]["composition"]["lm"]["revision"] == revision
            assert told["base"]["sizes"]["embedding"] == 300 * 32
            assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(told["files"])
        whole = json.loads(found[2])
        assert (whole["base"]["source"], whole["base"]["key"]) == ("ms:me/whole", "tiny")
        assert "dlm_base.json" in whole["files"]
        missing = "is not on ModelScope, has no such revision, or is private; see https://modelsc"
        assert found[3].startswith(f"ms:me/none: {missing}")
        assert found[4].startswith("ms:me/gated: is given only to those who may read it; set MOD")
        assert found[5].startswith(f"ms:me/LM@v9: {missing}")
        for place, line in zip(("hf", "ms"), found[6:], strict=True):
            assert line.startswith(f"{place}:me/plain: has no chat template; set base_model.chat")
        hub.asked.clear()
        assert resolved(hub, tmp_path / "cache", asked[1])[0] == found[1]
        assert not [line for line in hub.asked if "/repo?" in line or line.endswith("/repo")]


def test_modelscope_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(
        MissingExtra, match=r"modelscope-hub is not.*pip install 'dlm\[modelscope\]'"
    ):
        resolve_model_spec("ms:me/ear", Path())
    assert not is_on_hub(replace(MODEL_CATALOG["qwen2-audio-7b"], source="ms:Qwen/Qwen2-Audio-7B"))


def test_a_recipe_is_written_without_asking_for_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dlm("init", "my.dlm", "--base", "nanochat-omni-d6").code == 0
    assert "adapter: full" in Path("my.dlm").read_text()
    dlm("check", "my.dlm").refused("hf:openai/whisper-base: is not in ", "hf download")


def resolved(hub: Hub, cache: Path, *asked: object) -> list[str]:
    """What a process of its own says of each base, in a line."""
    command = [sys.executable, "-c", RESOLVE, *map(json.dumps, asked)]
    done = subprocess.run(
        command, env=hub.environment(cache), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, done.stderr.count("fetching ")), done
    return done.stdout.splitlines()


def language_model(folder: Path) -> Path:
    """A random Qwen3 with a tokenizer that has a chat template and knows nothing of sound."""
    config = {**LMS["qwen3"], "vocab_size": 300, "max_position_embeddings": 128}
    Qwen3ForCausalLM(Qwen3Config(**config)).save_pretrained(folder)
    deaf_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder
