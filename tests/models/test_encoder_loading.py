"""An encoder is loaded out of a checkpoint under any head: all of its tensors, and no others."""

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

WEIGHTS_FILE = "model.safetensors"
WHISPER_CONFIG = make_tiny_config()["encoders"][0]["config"] | {
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


def save_random_model(
    folder: Path, auto_class: Any, config: dict[str, Any], **save_kwargs: Any
) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = auto_class.from_config(AutoConfig.for_model(**config)).eval()
    model.save_pretrained(folder, **save_kwargs)
    return model


def change_tensor(
    path: Path, name: str, tensor: torch.Tensor | None, *, new_name: str | None = None
) -> None:
    """Replace, rename or remove a tensor of a file."""
    tensors = load_file(path)
    old = tensors.pop(name)
    if tensor is not None or new_name is not None:
        tensors[new_name or name] = old if tensor is None else tensor
    save_file(tensors, path, metadata={"format": "pt"})


@torch.no_grad()
@pytest.mark.parametrize(("family", "auto_class"), HEADS)
def test_an_encoder_is_found_under_its_head(tmp_path: Path, family: str, auto_class: Any) -> None:
    config = make_waveform_config(family)
    model = save_random_model(tmp_path, auto_class, config | {"vocab_size": 32})
    expected = model.base_model.state_dict()
    encoder = load_encoder(tmp_path, config)
    assert expected.keys() - encoder.state_dict().keys() <= {"masked_spec_embed"}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(expected[name], tensor), name
    assert not encoder.training


@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"], ids=["one_file", "shards"])
def test_whisper_is_loaded_without_its_decoder(tmp_path: Path, max_shard_size: str) -> None:
    model = save_random_model(
        tmp_path, AutoModelForSpeechSeq2Seq, WHISPER_CONFIG, max_shard_size=max_shard_size
    )
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) is (max_shard_size == "20KB")
    tensors = load_encoder(tmp_path, WHISPER_CONFIG).state_dict()
    expected = model.model.encoder.state_dict()
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in tensors.items())


def test_the_encoder_of_an_audio_language_model_is_loaded(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    audio_config = {
        "model_type": "voxtral_encoder",
        "hidden_size": 32,
        "max_source_positions": 50,
        **layers,
    }
    text_config = {"model_type": "llama", "hidden_size": 16, "vocab_size": 40, **layers}
    config = VoxtralConfig(audio_config=audio_config, text_config=text_config, audio_token_id=5)
    model = VoxtralForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    expected = model.model.audio_tower.state_dict()
    tensors = load_encoder(tmp_path, audio_config).state_dict()
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in tensors.items())


def test_older_names_of_weight_norm_are_known(tmp_path: Path) -> None:
    config = make_waveform_config("wav2vec2")
    save_random_model(tmp_path, AutoModelForCTC, config)
    expected = load_encoder(tmp_path, config).state_dict()
    prefix = "wav2vec2.encoder.pos_conv_embed.conv"
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = f"{prefix}.parametrizations.weight.{new}"
        change_tensor(tmp_path / WEIGHTS_FILE, name, None, new_name=f"{prefix}.{old}")
    tensors = load_encoder(tmp_path, config).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in tensors.items())


def test_half_precision_weights_are_loaded_as_fp32(tmp_path: Path) -> None:
    save_random_model(tmp_path, AutoModel, make_waveform_config("wavlm"))
    path = tmp_path / WEIGHTS_FILE
    halves = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    encoder = load_encoder(tmp_path, make_waveform_config("wavlm") | {"torch_dtype": "float16"})
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_missing_misshapen_and_non_finite_tensors_are_named(tmp_path: Path) -> None:
    config, path = make_waveform_config("hubert"), tmp_path / WEIGHTS_FILE
    name = "hubert.encoder.layers.1.attention.k_proj.weight"
    save_random_model(tmp_path, AutoModelForCTC, config)
    tensor = load_file(path)[name]
    with_nan = tensor.clone()
    with_nan[3, 5] = torch.nan
    for changed, message in (
        (with_nan, rf"{WEIGHTS_FILE}: {name} holds values that are not finite"),
        (tensor[:4].clone(), rf"1 of another shape, first {name} \(\[4, 16\], not \[16, 16\]\)"),
        (None, rf"not the weights of this encoder: 1 missing, first {name}"),
    ):
        change_tensor(path, name, changed)
        with pytest.raises(ModelError, match=message) as caught:
            load_encoder(tmp_path, config)
        assert caught.value.code == "model.damaged_checkpoint"
        assert "\n" not in str(caught.value)


def test_non_finite_tensors_of_other_components_do_not_matter(tmp_path: Path) -> None:
    config = make_waveform_config("hubert")
    save_random_model(tmp_path, AutoModelForCTC, config)
    change_tensor(tmp_path / WEIGHTS_FILE, "lm_head.bias", torch.full((32,), torch.inf))
    load_encoder(tmp_path, config)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="holds no encoder of class wavlm") as caught:
        load_encoder(tmp_path, make_waveform_config("wavlm"))
    assert caught.value.code == "model.not_an_encoder"


@torch.no_grad()
def test_two_encoders_are_concatenated_frame_by_frame(tmp_path: Path) -> None:
    """Whisper sets the frame rate; each of its frames takes the nearest of the other encoder."""
    configs = [WHISPER_CONFIG, make_waveform_config("wavlm")]
    classes = [AutoModelForSpeechSeq2Seq, AutoModelForCTC]
    encoders = []
    for name, auto_class, config in zip("ab", classes, configs, strict=True):
        save_random_model(tmp_path / name, auto_class, config)
        encoders.append(load_encoder(tmp_path / name, config))
    waveforms, lengths = torch.randn(3, 1, 8000), torch.tensor([5000, 8000, 640])
    outputs = [
        run_encoder(encoder, waveforms, lengths, layer="last", encoder_input="wave")
        for encoder in encoders
    ]
    first, second = outputs
    both = align_and_concat(outputs)
    assert both.hidden_states.shape == (3, 25, 32 + 16)
    assert both.lengths.tolist() == [16, 25, 2]
    assert torch.equal(both.hidden_states[..., :32], first.hidden_states)
    for index in range(3):
        num_frames, num_others = int(first.lengths[index]), int(second.lengths[index])
        nearest = [
            min(frame * num_others // num_frames, num_others - 1) for frame in range(num_frames)
        ]
        window = both.hidden_states[index, :num_frames]
        assert torch.equal(window[:, 32:], second.hidden_states[index, nearest])
        single = [
            EncoderOutput(
                output.hidden_states[index : index + 1], output.lengths[index : index + 1]
            )
            for output in outputs
        ]
        assert torch.equal(align_and_concat(single).hidden_states[0, :num_frames], window)
