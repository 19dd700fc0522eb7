"""An encoder out of a released checkpoint: under any head, only its own tensors, all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCTC,
    AutoModelForPreTraining,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

from dlm.errors import ModelError
from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import align_and_concat
from dlm.models.encoders import load_encoder, run_encoder
from tests.tiny_models import make_tiny_config
from tests.waveform_encoders import make_waveform_config

WEIGHTS = "model.safetensors"
WHISPER = make_tiny_config()["encoders"][0]["config"] | {
    "decoder_layers": 3,  # more than those of the encoder, and of the same names
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "max_target_positions": 16,
    "vocab_size": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
HEADS = [
    ("wav2vec2", AutoModelForCTC),
    ("wav2vec2_group", AutoModelForPreTraining),
    ("hubert", AutoModelForCTC),
    ("wavlm", AutoModel),
    ("data2vec-audio", AutoModelForCTC),
    ("wav2vec2-bert", AutoModelForCTC),
]


def saved(folder: Path, head: Any, config: dict[str, Any], **how: Any) -> PreTrainedModel:
    """A random model, written as it would be released."""
    torch.manual_seed(0)
    model: PreTrainedModel = head.from_config(AutoConfig.for_model(**config)).eval()
    model.save_pretrained(folder, **how)
    return model


def change(path: Path, name: str, value: torch.Tensor | None, *, to: str | None = None) -> None:
    """Replace, rename or take out a tensor of a file."""
    tensors = load_file(path)
    old = tensors.pop(name)
    if value is not None or to is not None:
        tensors[to or name] = old if value is None else value
    save_file(tensors, path, metadata={"format": "pt"})


@torch.no_grad()
@pytest.mark.parametrize(("family", "head"), HEADS)
def test_a_released_encoder_is_found_under_its_head(tmp_path: Path, family: str, head: Any) -> None:
    whole = saved(tmp_path, head, make_waveform_config(family) | {"vocab_size": 32})
    own = whole.base_model.state_dict()
    encoder = load_encoder(tmp_path, make_waveform_config(family))
    found = encoder.state_dict()
    assert own.keys() - found.keys() <= {"masked_spec_embed"}
    assert all(torch.equal(own[name], value) for name, value in found.items())
    assert not encoder.training


@pytest.mark.parametrize("shard", ["1GB", "20KB"], ids=["whole", "in_parts"])
def test_a_whisper_is_taken_without_its_decoder(tmp_path: Path, shard: str) -> None:
    whole = saved(tmp_path, AutoModelForSpeechSeq2Seq, WHISPER, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) is (shard == "20KB")
    found = load_encoder(tmp_path, WHISPER).state_dict()
    own = whole.model.encoder.state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], value) for name, value in found.items())


def test_the_tower_of_a_model_that_hears_is_taken(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    audio = {
        "model_type": "voxtral_encoder",
        "hidden_size": 32,
        "max_source_positions": 50,
        **layers,
    }
    text = {"model_type": "llama", "hidden_size": 16, "vocab_size": 40, **layers}
    config = VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=5)
    whole = VoxtralForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    own, found = whole.model.audio_tower.state_dict(), load_encoder(tmp_path, audio).state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], value) for name, value in found.items())


def test_older_names_of_weight_norms_are_known(tmp_path: Path) -> None:
    saved(tmp_path, AutoModelForCTC, make_waveform_config("wav2vec2"))
    want = load_encoder(tmp_path, make_waveform_config("wav2vec2")).state_dict()
    begin = "wav2vec2.encoder.pos_conv_embed.conv"
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = f"{begin}.parametrizations.weight.{new}"
        change(tmp_path / WEIGHTS, name, None, to=f"{begin}.{old}")
    found = load_encoder(tmp_path, make_waveform_config("wav2vec2")).state_dict()
    assert all(torch.equal(want[name], value) for name, value in found.items())


def test_half_precision_is_read_in_full(tmp_path: Path) -> None:
    saved(tmp_path, AutoModel, make_waveform_config("wavlm"))
    config, path = make_waveform_config("wavlm") | {"torch_dtype": "float16"}, tmp_path / WEIGHTS
    halves = {name: value.half() for name, value in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    encoder = load_encoder(tmp_path, config)
    assert {each.dtype for each in encoder.parameters()} == {torch.float32}


def test_what_is_missing_misshapen_or_not_finite_is_named(tmp_path: Path) -> None:
    config, path = make_waveform_config("hubert"), tmp_path / WEIGHTS
    name = "hubert.encoder.layers.1.attention.k_proj.weight"
    saved(tmp_path, AutoModelForCTC, config)
    good = load_file(path)[name]
    broken = good.clone()
    broken[3, 5] = torch.nan
    for value, told in (
        (broken, rf"{WEIGHTS}: {name} holds numbers that are not finite"),
        (good[:4].clone(), rf"1 of another shape, first {name} \(\[4, 16\], not \[16, 16\]\)"),
        (None, rf"not the weights of this encoder: 1 missing, first {name}"),
    ):
        change(path, name, value)
        with pytest.raises(ModelError, match=told) as found:
            load_encoder(tmp_path, config)
        assert "\n" not in str(found.value)


def test_what_is_broken_elsewhere_is_not_ours(tmp_path: Path) -> None:
    saved(tmp_path, AutoModelForCTC, make_waveform_config("hubert"))
    change(tmp_path / WEIGHTS, "lm_head.bias", torch.full((32,), torch.inf))
    load_encoder(tmp_path, make_waveform_config("hubert"))


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="holds no encoder of class wavlm"):
        load_encoder(tmp_path, make_waveform_config("wavlm"))


@torch.no_grad()
def test_two_encoders_are_joined_frame_by_frame(tmp_path: Path) -> None:
    """Whisper sets the rate; each of its frames takes the nearest of the other's."""
    saved(tmp_path / "one", AutoModelForSpeechSeq2Seq, WHISPER)
    saved(tmp_path / "two", AutoModelForCTC, make_waveform_config("wavlm"))
    ears = [
        load_encoder(tmp_path / "one", WHISPER),
        load_encoder(tmp_path / "two", make_waveform_config("wavlm")),
    ]
    lengths = torch.tensor([5000, 8000, 640])
    waves = torch.randn(3, 1, 8000)
    heard = [run_encoder(ear, waves, lengths, layer="last", encoder_input="wave") for ear in ears]
    both = align_and_concat(heard)
    assert both.hidden_states.shape == (3, 25, 32 + 16)
    assert both.lengths.tolist() == [16, 25, 2]
    assert torch.equal(both.hidden_states[..., :32], heard[0].hidden_states)
    for row in range(3):
        one, two = int(heard[0].lengths[row]), int(heard[1].lengths[row])
        nearest = [min(step * two // one, two - 1) for step in range(one)]
        assert torch.equal(both.hidden_states[row, :one, 32:], heard[1].hidden_states[row, nearest])
        alone = [
            EncoderOutput(each.hidden_states[row : row + 1], each.lengths[row : row + 1])
            for each in heard
        ]
        assert torch.equal(
            align_and_concat(alone).hidden_states[0, :one],
            both.hidden_states[row, :one],
        )
