"""Encoders run at a clip's true length, padding masked: a batch hears what one clip hears.

mel   --> Whisper, and the towers that are built like it
wave  --> wav2vec 2.0 and its kin (model/waves.py), and Whisper by a mel of its own

What encoders that take waves hear: wav2vec 2.0 and its kin, and w2v-BERT.

    wave --zero mean, unit variance--> convolutions --> layers    wav2vec 2.0, HuBERT, WavLM, ...
    wave --fbank, two frames side by side--> layers               w2v-BERT

Where padding would be heard, clips are heard one by one; elsewhere it is masked.

An encoder out of a released checkpoint: its own tensors, and nothing else of the folder.

    conv1.weight                      an encoder by itself
    model.encoder.conv1.weight        Whisper with its decoder
    audio_tower.conv1.weight          Qwen2-Audio, Voxtral, Audio Flamingo 3
    wav2vec2.encoder.layers.0 ...     wav2vec 2.0 under a head, and its kin

Whatever else lies in the files is not read.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, PreTrainedModel, SeamlessM4TFeatureExtractor
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.errors import ModelError
from dlm.features.log_mel import compute_log_mel
from dlm.models.audio_lm import EncoderOutput
from dlm.models.inspect_checkpoint import check_finite_weights
from dlm.plan.audio_lengths import compute_conv_output_length
from dlm.plan.encoder_lm_specs import (
    ENCODER_MODEL_TYPES,
    W2V_BERT_MODEL_TYPE,
    WAVEFORM_ENCODER_DEFAULTS,
)
from dlm.plan.model_spec import LayerSelection
from dlm.plan.safetensors_index import TensorIndex, make_damaged_checkpoint_error, read_tensor_index

MEL_PAD_MULTIPLE = (
    128  # mel frames: a processor compiles its products anew for every length it meets
)
WHISPER_SAMPLE_RATE, WHISPER_HOP_LENGTH = (
    16_000,
    160,
)  # samples per second, and per mel frame, of every Whisper


def build_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder with random weights, in fp32, from the config of its class.

    The towers of models that hear are Whisper's without their pooling. Raises BaseError for a class
    that is not known, or numbers that it cannot have.
    """
    kind = config.get("model_type")
    if kind not in ENCODER_MODEL_TYPES:
        what = f"{kind} is not the class of an encoder that is known"
        raise ModelError(what, hint=f"set encoder to one of {', '.join(ENCODER_MODEL_TYPES)}")
    try:
        return (
            build_wav2vec2_encoder(config)
            if kind in WAVEFORM_ENCODER_DEFAULTS
            else WhisperEncoder(_to_whisper_config(config))
        )
    except (TypeError, ValueError, StrictDataclassError) as reason:
        told = " ".join(str(reason).split())
        raise ModelError(f"not the config of a {kind} ({told})", hint="mend encoder") from reason


def get_encoder_dims(encoder: PreTrainedModel, layer: LayerSelection) -> tuple[int, int]:
    """How many hidden states of a frame are heard, and the width of each.

    With weighted_sum that is what goes into the first layer, and what leaves each (SUPERB, Yang et
    al. 2021). Raises BaseError for a layer that the encoder does not have.
    """
    config = encoder.config
    if isinstance(layer, int) and not 1 <= layer <= config.num_hidden_layers:
        what = f"this encoder ({config.model_type}) has no layer {layer}"
        mend = f"set layer to last, weighted_sum, or 1 to {config.num_hidden_layers}"
        raise ModelError(what, hint=mend)
    return config.num_hidden_layers + 1 if layer == "weighted_sum" else 1, config.hidden_size


def run_encoder(
    encoder: Any,
    input_features: torch.Tensor,
    feature_lengths: torch.Tensor,
    *,
    layer: LayerSelection,
    encoder_input: str,
) -> EncoderOutput:
    """What an encoder hears at true length: (clips, encoder frames, layers x width).

    `sounds` are mels (clips, bins, frames), or waves (clips, 1, samples) where it `takes` those;
    `frames` (clips,) is the true length of each. Layers are counted as transformers counts
    its hidden states; what lies past a clip's length is zero.
    """
    if not isinstance(encoder, WhisperEncoder):
        return run_wav2vec2_encoder(encoder, input_features[:, 0], feature_lengths, layer)
    if encoder_input == "wave":
        input_features, feature_lengths = _compute_log_mels(
            encoder, input_features[:, 0], feature_lengths
        )
    return EncoderOutput(
        run_whisper_encoder(encoder, input_features, feature_lengths, layer),
        (feature_lengths + 1) // 2,
    )


def run_whisper_encoder(
    encoder: WhisperEncoder,
    input_features: torch.Tensor,
    feature_lengths: torch.Tensor,
    layer: LayerSelection = "last",
) -> torch.Tensor:
    """Whisper's encoder without the 30 s pad.

    `mel` is (clips, bins, frames) and `frames` (clips,) the true number of mel frames of each.
    Returns (clips, encoder frames, layers x width); rows past a clip's length are zero. At full
    length it equals `WhisperEncoder.forward`.
    """
    weights = encoder.conv1.weight
    input_features = input_features.to(device=weights.device, dtype=weights.dtype)
    feature_lengths = feature_lengths.to(weights.device)
    heard = (feature_lengths + 1) // 2  # conv2 has stride 2 and rounds up
    ragged = bool((feature_lengths != input_features.shape[-1]).any())

    hidden = nn.functional.gelu(
        encoder.conv1(_zero_padding(input_features, feature_lengths) if ragged else input_features)
    )
    hidden = nn.functional.gelu(
        encoder.conv2(_zero_padding(hidden, feature_lengths) if ragged else hidden)
    )
    hidden = hidden.transpose(1, 2)  # (clips, encoder frames, width)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]].to(hidden.dtype)
    hidden = _run_whisper_layers(
        encoder, hidden, _make_attention_mask(heard, hidden) if ragged else None, layer
    )
    return _zero_padding(hidden.transpose(1, 2), heard).transpose(1, 2) if ragged else hidden


def _run_whisper_layers(
    encoder: WhisperEncoder,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer: LayerSelection,
) -> torch.Tensor:
    """The hidden states that are heard, side by side; the last of them is normed."""
    last = len(encoder.layers)
    wanted = range(last + 1) if layer == "weighted_sum" else (last if layer == "last" else layer,)
    kept = [hidden_states] if 0 in wanted else []
    for number, each in enumerate(encoder.layers[: wanted[-1]], start=1):
        hidden_states = each(hidden_states, attention_mask)
        if number == last:
            hidden_states = encoder.layer_norm(hidden_states)
        if number in wanted:
            kept.append(hidden_states)
    return torch.cat(kept, dim=2) if len(kept) > 1 else kept[0]


def _compute_log_mels(
    encoder: WhisperEncoder, waveforms: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mels (clips, bins, frames) of `waves` (clips, samples), and how long each is."""
    config = encoder.config
    edge = (
        2 * WHISPER_HOP_LENGTH * config.max_source_positions
    )  # samples: its window ends as in a mirror
    mels = [
        compute_log_mel(
            wave[:length].cpu().numpy(),
            rate=WHISPER_SAMPLE_RATE,
            hop_length=WHISPER_HOP_LENGTH,
            num_mel_bins=config.num_mel_bins,
            reflect_at=edge,
        )
        for wave, length in zip(waveforms, lengths.tolist(), strict=True)
    ]
    frames = torch.tensor([mel.shape[1] for mel in mels], device=lengths.device)
    return pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2), frames


def run_qwen2_audio_encoder(
    encoder: Qwen2AudioEncoder, input_features: torch.Tensor, feature_lengths: torch.Tensor
) -> torch.Tensor:
    """Qwen2-Audio's encoder without the 30 s pad: equal to its own forward with a feature mask.

    Its convolutions look two frames past a clip's end, its attention does not: `mel` holds those
    two frames, `frames` does not count them. Returns (clips, pooled frames, width).
    """
    weights = encoder.conv1.weight
    feature_lengths = feature_lengths.to(weights.device)
    input_features = nn.functional.pad(
        input_features.to(weights.device), (0, -input_features.shape[-1] % MEL_PAD_MULTIPLE)
    )
    input_features = input_features[..., : 2 * encoder.max_source_positions]
    heard = (feature_lengths + 1) // 2
    hidden = nn.functional.gelu(encoder.conv1(input_features.to(weights.dtype)))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    mask = _make_attention_mask(heard, hidden)
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    pooled = encoder.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    normed: torch.Tensor = encoder.layer_norm(pooled)
    return normed


def _zero_padding(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero what lies past each row's length; `wide` is (rows, channels, steps)."""
    steps = torch.arange(values.shape[-1], device=values.device)
    return values * (steps < lengths[:, None])[:, None, :].to(values.dtype)


def _make_attention_mask(lengths: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Which keys may be attended to, as (rows, 1, steps, steps), added to the scores."""
    steps = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    padded = (steps >= lengths[:, None])[:, None, None, :]
    mask = torch.zeros(padded.shape, dtype=hidden_states.dtype, device=hidden_states.device)
    mask = mask.masked_fill(padded, torch.finfo(hidden_states.dtype).min)
    return mask.expand(-1, -1, hidden_states.shape[1], -1)


def _to_whisper_config(config: dict[str, Any]) -> WhisperConfig:
    """Whisper's config, or the one that gives its encoder a tower's shape."""
    if config["model_type"] == "whisper":
        return WhisperConfig(**config)
    tower: Any = AutoConfig.for_model(**config)
    return WhisperConfig(
        d_model=tower.d_model,
        encoder_layers=tower.encoder_layers,
        encoder_attention_heads=tower.encoder_attention_heads,
        encoder_ffn_dim=tower.encoder_ffn_dim,
        num_mel_bins=tower.num_mel_bins,
        max_source_positions=tower.max_source_positions,
        activation_function=tower.activation_function,
        dropout=tower.dropout,
        attention_dropout=tower.attention_dropout,
        activation_dropout=tower.activation_dropout,
    )


PADDING_MASK_MODEL_TYPES = (
    "wav2vec2",
    "hubert",
    "unispeech",
    "unispeech-sat",
)  # which hear no padding behind it
WAV2VEC2_SAMPLE_RATE = 16_000  # samples per second, of all of them
FBANK_STACK_FRAMES = (
    2  # fbank frames that w2v-BERT takes side by side (Barrault et al. 2023, section 3)
)
WAVEFORM_VARIANCE_EPS = 1e-7  # transformers' Wav2Vec2FeatureExtractor
DETERMINISTIC_CONFIG = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}


def build_wav2vec2_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder with random weights that drops no layer, masks nothing and skips no frame."""
    plain = AutoConfig.for_model(**{**config, **DETERMINISTIC_CONFIG})
    encoder: Any = AutoModel.from_config(plain, dtype=torch.float32)
    if config["model_type"] != W2V_BERT_MODEL_TYPE:
        encoder.feature_extractor._requires_grad = False  # of the wave, which nobody asks for
    built: PreTrainedModel = encoder
    return built


def run_wav2vec2_encoder(
    encoder: PreTrainedModel, waveforms: torch.Tensor, lengths: torch.Tensor, layer: LayerSelection
) -> EncoderOutput:
    """What is heard in `waves` (clips, samples), each as long as `samples` (clips,) says."""
    weights = next(encoder.parameters())
    clips = [
        _prepare_encoder_input(encoder, wave[:length].float())
        for wave, length in zip(waveforms, lengths.tolist(), strict=True)
    ]
    clips = [clip.to(weights) for clip in clips]
    together = _is_padding_masked(encoder.config) or len(clips) == 1
    rows = (
        _encode_padded(encoder, clips, layer)
        if together
        else _encode_one_by_one(encoder, clips, layer)
    )
    frames = torch.tensor([len(row) for row in rows], device=lengths.device)
    return EncoderOutput(pad_sequence(rows, batch_first=True), frames)


def _prepare_encoder_input(encoder: PreTrainedModel, waveform: torch.Tensor) -> torch.Tensor:
    """What the encoder takes of one wave (samples,): itself, or its fbank (frames, values)."""
    config = encoder.config
    if config.model_type == W2V_BERT_MODEL_TYPE:
        fbank = _make_fbank_extractor(config.feature_projection_input_dim // FBANK_STACK_FRAMES)
        taken = fbank(
            waveform.cpu().numpy(),
            sampling_rate=WAV2VEC2_SAMPLE_RATE,
            pad_to_multiple_of=None,
            return_tensors="pt",
        )
        features: torch.Tensor = taken["input_features"][0]
        return features
    if not vars(config).get("do_normalize", _get_conv_norm(config) == "layer"):
        return waveform
    return (waveform - waveform.mean()) / (
        waveform.var(correction=0) + WAVEFORM_VARIANCE_EPS
    ).sqrt()


@lru_cache(maxsize=1)
def _make_fbank_extractor(num_mel_bins: int) -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(
        num_mel_bins, WAV2VEC2_SAMPLE_RATE, num_mel_bins, stride=FBANK_STACK_FRAMES
    )


def _get_conv_norm(config: Any) -> str:
    """Over what the convolutions norm: the channels, or with "group" the time of a clip."""
    norm: str = vars(config).get("feat_extract_norm", "layer")
    return norm


def _is_padding_masked(config: Any) -> bool:
    """Whether masks hide padding: a norm over time, or of padding itself, lets it be heard."""
    if config.model_type == W2V_BERT_MODEL_TYPE:
        return True
    over_time = _get_conv_norm(config) == "group" or vars(config).get("conv_pos_batch_norm")
    return config.model_type in PADDING_MASK_MODEL_TYPES and not over_time


def _encode_one_by_one(
    encoder: PreTrainedModel, inputs: list[torch.Tensor], layer: LayerSelection
) -> list[torch.Tensor]:
    return [_encode_padded(encoder, [clip], layer)[0] for clip in inputs]


def _encode_padded(
    encoder: PreTrainedModel, inputs: list[torch.Tensor], layer: LayerSelection
) -> list[torch.Tensor]:
    """What is heard in each clip, (frames, layers x width), all of them at once."""
    lengths = torch.tensor([len(clip) for clip in inputs])
    steps = torch.arange(int(lengths.max()))
    mask = (steps < lengths[:, None]).long().to(inputs[0].device)
    heard = encoder(
        pad_sequence(inputs, batch_first=True),
        attention_mask=None if bool(mask.all()) else mask,
        output_hidden_states=layer != "last",
    )
    if layer == "last":
        hidden = heard.last_hidden_state
    elif layer == "weighted_sum":
        hidden = torch.cat(heard.hidden_states, dim=2)
    else:
        hidden = heard.hidden_states[layer]
    frames = [_count_encoder_frames(encoder.config, len(clip)) for clip in inputs]
    return [row[:count] for row, count in zip(hidden, frames, strict=True)]


def _count_encoder_frames(config: Any, num_steps: int) -> int:
    """Encoder frames of a clip of so many samples, or fbank frames."""
    if config.model_type == W2V_BERT_MODEL_TYPE:
        return num_steps
    return compute_conv_output_length(
        num_steps, tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
    )


WEIGHT_NORM_KEY_MAP = {  # what weight norms were called before torch 2.0
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def load_encoder(checkpoint_dir: Path, config: dict[str, Any]) -> PreTrainedModel:
    """The encoder that `config` describes with its weights from `folder`, in evaluation mode.

    Raises BaseError naming the first tensor that is missing, misshapen or not finite.
    """
    encoder = build_encoder(config)
    shapes = {name: tuple(each.shape) for name, each in encoder.state_dict().items()}
    weights = read_tensor_index(checkpoint_dir)
    beginning = _find_key_prefix((key for keys in weights.values() for key in keys), shapes)
    if beginning is None:
        what = f"holds no encoder of class {config['model_type']}"
        raise ModelError(
            what, where=str(checkpoint_dir), hint="set encoder to a model that has one"
        )
    own: TensorIndex = {
        file: {key: each for key, each in keys.items() if _to_encoder_key(key, beginning) in shapes}
        for file, keys in weights.items()
    }
    _check_encoder_shapes(checkpoint_dir, own, beginning, shapes)
    check_finite_weights(checkpoint_dir, own)
    encoder.load_state_dict(_read_encoder_tensors(checkpoint_dir, own, beginning))
    encoder.eval()
    return encoder


def _find_key_prefix(keys: Iterable[str], encoder_keys: Iterable[str]) -> str | None:
    """What stands before an encoder's names in a checkpoint, if any of them is there."""
    wanted, found = set(encoder_keys), Counter[str]()
    for key in keys:
        words = _map_weight_norm_key(key).split(".")
        for at in range(len(words)):
            if ".".join(words[at:]) in wanted:
                found[".".join([*words[:at], ""])] += 1
    return found.most_common(1)[0][0] if found else None


def _map_weight_norm_key(key: str) -> str:
    for old, new in WEIGHT_NORM_KEY_MAP.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _to_encoder_key(key: str, prefix: str) -> str | None:
    """The encoder's name for a tensor of the checkpoint, None for what is another part's."""
    return _map_weight_norm_key(key).removeprefix(prefix) if key.startswith(prefix) else None


def _check_encoder_shapes(
    checkpoint_dir: Path,
    tensor_index: TensorIndex,
    prefix: str,
    expected_shapes: dict[str, tuple[int, ...]],
) -> None:
    """Refuse a checkpoint in which a tensor is missing or of another shape."""
    found = {
        _to_encoder_key(key, prefix): each.shape
        for keys in tensor_index.values()
        for key, each in keys.items()
    }
    missing = sorted(prefix + name for name in expected_shapes.keys() - found.keys())
    odd = sorted(
        f"{prefix}{name} ({list(found[name])}, not {list(shape)})"
        for name, shape in expected_shapes.items()
        if name in found and found[name] != shape
    )
    faults = {"missing": missing, "of another shape": odd}
    told = [f"{len(names)} {fault}, first {names[0]}" for fault, names in faults.items() if names]
    if told:
        raise make_damaged_checkpoint_error(
            f"these are not the weights of this encoder: {'; '.join(told)}", checkpoint_dir
        )


def _read_encoder_tensors(
    checkpoint_dir: Path, tensor_index: TensorIndex, prefix: str
) -> dict[str, torch.Tensor]:
    """The tensors, by the encoder's names for them."""
    tensors = {}
    for file, keys in tensor_index.items():
        with safe_open(checkpoint_dir / file, framework="pt") as opened:
            for key in keys:
                tensors[str(_to_encoder_key(key, prefix))] = opened.get_tensor(key)
    return tensors
