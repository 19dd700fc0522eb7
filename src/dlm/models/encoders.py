"""Audio encoders of composed models: Whisper and its relatives, wav2vec 2.0 and its relatives.

    log-mel  --> Whisper, and the encoders of audio language models that are built like it
    waveform --> zero mean, unit variance --> wav2vec 2.0, HuBERT, WavLM, UniSpeech, data2vec, ...
             --> fbank, two frames stacked --> w2v-BERT
             --> log-mel --> Whisper beside one of those

Every encoder runs without padding to 30 s, and padding of a batch changes no output: it is masked,
or windows run one by one. Also loads an encoder's tensors out of a checkpoint with more in it:

    conv1.weight                      an encoder by itself
    model.encoder.conv1.weight        Whisper with its decoder
    audio_tower.conv1.weight          Qwen2-Audio, Voxtral, Audio Flamingo 3
    wav2vec2.encoder.layers.0 ...     wav2vec 2.0 under a head
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter
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

MEL_PAD_MULTIPLE = 128  # mel frames: a CPU's library compiles a product for every new length
SAMPLE_RATE = 16_000  # samples per second, of every Whisper and every wav2vec 2.0
WHISPER_HOP_LENGTH = 160  # samples per mel frame
PADDING_MASK_MODEL_TYPES = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")
FBANK_STACK_FRAMES = 2  # of w2v-BERT (Barrault et al. 2023, section 3)
WAVEFORM_VARIANCE_EPS = 1e-7  # of transformers' Wav2Vec2FeatureExtractor
DETERMINISTIC_CONFIG = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}
WHISPER_CONFIG_KEYS = (
    *("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins"),
    *("max_source_positions", "activation_function"),
    *("dropout", "attention_dropout", "activation_dropout"),
)
WEIGHT_NORM_KEY_MAP = {  # names of weight norm before torch 2.0
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def build_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """Build an encoder with random weights, in fp32, from the config of its class.

    Encoders of audio language models become Whisper's, without their pooling. wav2vec 2.0 and its
    relatives drop no layer and mask nothing.

    Raises:
        ModelError: the class is not known (`model.not_an_encoder`), or its config not valid
            (`model.bad_config`).
    """
    model_type = config.get("model_type")
    if model_type not in ENCODER_MODEL_TYPES:
        raise ModelError(
            f"{model_type} is not a supported class of encoder",
            hint=f"set encoder to one of {', '.join(ENCODER_MODEL_TYPES)}",
            code="model.not_an_encoder",
        )
    try:
        if model_type not in WAVEFORM_ENCODER_DEFAULTS:
            return WhisperEncoder(_to_whisper_config(config))
        hf_config = AutoConfig.for_model(**{**config, **DETERMINISTIC_CONFIG})
        encoder: Any = AutoModel.from_config(hf_config, dtype=torch.float32)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"not the config of a {model_type} ({' '.join(str(error).split())})",
            hint="correct encoder",
            code="model.bad_config",
        ) from error
    if model_type != W2V_BERT_MODEL_TYPE:
        encoder.feature_extractor._requires_grad = False  # of the waveform, which none asks for
    built: PreTrainedModel = encoder
    return built


def _to_whisper_config(config: dict[str, Any]) -> WhisperConfig:
    """Whisper's config, or the one that gives its encoder the shape of another's."""
    if config["model_type"] == "whisper":
        return WhisperConfig(**config)
    values = attrgetter(*WHISPER_CONFIG_KEYS)(AutoConfig.for_model(**config))
    return WhisperConfig(**dict(zip(WHISPER_CONFIG_KEYS, values, strict=True)))


def get_encoder_dims(encoder: PreTrainedModel, layer: LayerSelection) -> tuple[int, int]:
    """Return how many hidden states a frame has, and the size of each.

    With `weighted_sum` they are the input of the first layer and the output of each (SUPERB, Yang
    et al. 2021).

    Raises:
        ModelError: the encoder has no such layer (`model.no_such_layer`).
    """
    config = encoder.config
    if isinstance(layer, int) and not 1 <= layer <= config.num_hidden_layers:
        raise ModelError(
            f"this encoder ({config.model_type}) has no layer {layer}",
            hint=f"set layer to last, weighted_sum, or 1 to {config.num_hidden_layers}",
            code="model.no_such_layer",
        )
    return config.num_hidden_layers + 1 if layer == "weighted_sum" else 1, config.hidden_size


def run_encoder(
    encoder: Any,
    input_features: torch.Tensor,
    feature_lengths: torch.Tensor,
    *,
    layer: LayerSelection,
    encoder_input: str,
) -> EncoderOutput:
    """Run an encoder of a composed model; what lies past a window's length is zero.

    Args:
        encoder: as `build_encoder` makes it.
        input_features: log-mels (windows, num_mel_bins, frames), or waveforms (windows, 1,
            samples).
        feature_lengths: (windows,) frames or samples that are not padding.
        layer: the hidden states that are returned; numbers count as transformers' `hidden_states`.
        encoder_input: `mel` or `wave`.
    """
    if not isinstance(encoder, WhisperEncoder):
        return _run_wav2vec2_encoder(encoder, input_features[:, 0], feature_lengths, layer)
    if encoder_input == "wave":
        input_features, feature_lengths = _compute_log_mels(
            encoder, input_features[:, 0], feature_lengths
        )
    hidden = run_whisper_encoder(encoder, input_features, feature_lengths, layer)
    return EncoderOutput(hidden, (feature_lengths + 1) // 2)


def run_whisper_encoder(
    encoder: WhisperEncoder,
    input_features: torch.Tensor,
    feature_lengths: torch.Tensor,
    layer: LayerSelection = "last",
) -> torch.Tensor:
    """Run Whisper's encoder without padding to 30 s; at 30 s it equals `WhisperEncoder.forward`.

    Args:
        encoder: Whisper's.
        input_features: (windows, num_mel_bins, frames).
        feature_lengths: (windows,) frames that are not padding.
        layer: the hidden states that are returned.

    Returns:
        (windows, encoder frames, hidden states * hidden_size), zero past a window's length.
    """
    weight = encoder.conv1.weight
    input_features = input_features.to(device=weight.device, dtype=weight.dtype)
    feature_lengths = feature_lengths.to(weight.device)
    lengths = (feature_lengths + 1) // 2  # conv2 has stride 2 and rounds up
    if (feature_lengths == input_features.shape[-1]).all():
        hidden = _run_whisper_convs(encoder, input_features)
        return _run_whisper_layers(encoder, hidden, None, layer)
    hidden = _zero_padding(input_features, feature_lengths)
    hidden = _zero_padding(nn.functional.gelu(encoder.conv1(hidden)), feature_lengths)
    hidden = _add_positions(encoder, nn.functional.gelu(encoder.conv2(hidden)))
    hidden = _run_whisper_layers(encoder, hidden, _make_attention_mask(lengths, hidden), layer)
    return _zero_padding(hidden.transpose(1, 2), lengths).transpose(1, 2)


def _run_whisper_convs(encoder: Any, input_features: torch.Tensor) -> torch.Tensor:
    """(windows, num_mel_bins, frames) -> (windows, encoder frames, hidden_size)."""
    hidden = nn.functional.gelu(encoder.conv1(input_features))
    return _add_positions(encoder, nn.functional.gelu(encoder.conv2(hidden)))


def _add_positions(encoder: Any, hidden: torch.Tensor) -> torch.Tensor:
    """(windows, hidden_size, encoder frames) -> (windows, encoder frames, hidden_size)."""
    positions: torch.Tensor = encoder.embed_positions.weight[: hidden.shape[2]]
    return hidden.transpose(1, 2) + positions.to(hidden.dtype)


def _run_whisper_layers(
    encoder: WhisperEncoder,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer: LayerSelection,
) -> torch.Tensor:
    """The selected hidden states, concatenated; the last one is normalized."""
    last = len(encoder.layers)
    selected = range(last + 1) if layer == "weighted_sum" else [last if layer == "last" else layer]
    outputs = [hidden_states] if 0 in selected else []
    for index, whisper_layer in enumerate(encoder.layers[: selected[-1]], start=1):
        hidden_states = whisper_layer(hidden_states, attention_mask)
        if index == last:
            hidden_states = encoder.layer_norm(hidden_states)
        if index in selected:
            outputs.append(hidden_states)
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]


def _compute_log_mels(
    encoder: WhisperEncoder, waveforms: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mels (windows, num_mel_bins, frames) of (windows, samples), and their lengths."""
    config = encoder.config
    # samples: Whisper's window of 30 s, which the log-mel of its extractor mirrors at its end
    window_samples = 2 * WHISPER_HOP_LENGTH * config.max_source_positions
    log_mels = [
        compute_log_mel(
            waveform[:length].cpu().numpy(),
            rate=SAMPLE_RATE,
            hop_length=WHISPER_HOP_LENGTH,
            num_mel_bins=config.num_mel_bins,
            reflect_at=window_samples,
        )
        for waveform, length in zip(waveforms, lengths.tolist(), strict=True)
    ]
    frames = torch.tensor([log_mel.shape[1] for log_mel in log_mels], device=lengths.device)
    padded = pad_sequence([log_mel.T for log_mel in log_mels], batch_first=True)
    return padded.transpose(1, 2), frames


def run_qwen2_audio_encoder(
    encoder: Qwen2AudioEncoder, input_features: torch.Tensor, feature_lengths: torch.Tensor
) -> torch.Tensor:
    """Run Qwen2-Audio's encoder without padding to 30 s: equal to its forward with a mask.

    Its convolutions read two frames past a window's length, its attention does not.

    Args:
        encoder: Qwen2-Audio's.
        input_features: (windows, num_mel_bins, frames), two frames more than the longest length.
        feature_lengths: (windows,) frames that are not padding.

    Returns:
        (windows, pooled frames, hidden_size).
    """
    weight = encoder.conv1.weight
    padding = -input_features.shape[-1] % MEL_PAD_MULTIPLE
    input_features = nn.functional.pad(input_features.to(weight.device), (0, padding))
    input_features = input_features[..., : 2 * encoder.max_source_positions]
    hidden = _run_whisper_convs(encoder, input_features.to(weight.dtype))
    mask = _make_attention_mask((feature_lengths.to(weight.device) + 1) // 2, hidden)
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    pooled = encoder.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    normalized: torch.Tensor = encoder.layer_norm(pooled)
    return normalized


def _zero_padding(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero what lies past each window's length; `values` are (windows, channels, frames)."""
    frames = torch.arange(values.shape[-1], device=values.device)
    return values * (frames < lengths[:, None])[:, None, :].to(values.dtype)


def _make_attention_mask(lengths: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of keys: (windows, 1, frames, frames)."""
    num_frames, dtype = hidden_states.shape[1], hidden_states.dtype
    frames = torch.arange(num_frames, device=hidden_states.device)
    is_padding = (frames >= lengths[:, None])[:, None, None, :]
    mask = torch.zeros(is_padding.shape, dtype=dtype, device=hidden_states.device)
    return mask.masked_fill(is_padding, torch.finfo(dtype).min).expand(-1, -1, num_frames, -1)


def _run_wav2vec2_encoder(
    encoder: PreTrainedModel, waveforms: torch.Tensor, lengths: torch.Tensor, layer: LayerSelection
) -> EncoderOutput:
    """Run an encoder on waveforms (windows, samples) of which `lengths` samples are audio."""
    weight = next(encoder.parameters())
    inputs = [
        _prepare_encoder_input(encoder, waveform[:length].float()).to(weight)
        for waveform, length in zip(waveforms, lengths.tolist(), strict=True)
    ]
    if _can_mask_padding(encoder.config):
        outputs = _encode_padded(encoder, inputs, layer)
    else:
        outputs = [_encode_padded(encoder, [values], layer)[0] for values in inputs]
    frames = torch.tensor([len(output) for output in outputs], device=lengths.device)
    return EncoderOutput(pad_sequence(outputs, batch_first=True), frames)


def _prepare_encoder_input(encoder: PreTrainedModel, waveform: torch.Tensor) -> torch.Tensor:
    """What the encoder takes of one waveform (samples,): itself, or its fbank (frames, bins)."""
    config = encoder.config
    if config.model_type == W2V_BERT_MODEL_TYPE:
        extractor = _make_fbank_extractor(config.feature_projection_input_dim // FBANK_STACK_FRAMES)
        features = extractor(
            waveform.cpu().numpy(),
            sampling_rate=SAMPLE_RATE,
            pad_to_multiple_of=None,
            return_tensors="pt",
        )
        fbank: torch.Tensor = features["input_features"][0]
        return fbank
    if not vars(config).get("do_normalize", _get_conv_norm(config) == "layer"):
        return waveform
    variance = waveform.var(correction=0) + WAVEFORM_VARIANCE_EPS
    return (waveform - waveform.mean()) / variance.sqrt()


@lru_cache(maxsize=1)
def _make_fbank_extractor(num_mel_bins: int) -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(
        num_mel_bins, SAMPLE_RATE, num_mel_bins, stride=FBANK_STACK_FRAMES
    )


def _get_conv_norm(config: Any) -> str:
    """What the convolutions normalize over: channels ("layer"), or time ("group")."""
    norm: str = vars(config).get("feat_extract_norm", "layer")
    return norm


def _can_mask_padding(config: Any) -> bool:
    """Whether a mask hides padding; it does not from a norm over time, or over the batch."""
    if config.model_type == W2V_BERT_MODEL_TYPE:
        return True
    over_time = _get_conv_norm(config) == "group" or vars(config).get("conv_pos_batch_norm")
    return config.model_type in PADDING_MASK_MODEL_TYPES and not over_time


def _encode_padded(
    encoder: PreTrainedModel, inputs: list[torch.Tensor], layer: LayerSelection
) -> list[torch.Tensor]:
    """The hidden states of each input, (frames, hidden states * hidden_size), in one forward."""
    lengths = torch.tensor([len(values) for values in inputs])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long().to(inputs[0].device)
    output = encoder(
        pad_sequence(inputs, batch_first=True),
        attention_mask=None if bool(mask.all()) else mask,
        output_hidden_states=layer != "last",
    )
    if layer == "last":
        hidden = output.last_hidden_state
    elif layer == "weighted_sum":
        hidden = torch.cat(output.hidden_states, dim=2)
    else:
        hidden = output.hidden_states[layer]
    frames = [_count_encoder_frames(encoder.config, len(values)) for values in inputs]
    return [states[:count] for states, count in zip(hidden, frames, strict=True)]


def _count_encoder_frames(config: Any, num_inputs: int) -> int:
    """Encoder frames of so many samples, or fbank frames."""
    if config.model_type == W2V_BERT_MODEL_TYPE:
        return num_inputs
    convs = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
    return compute_conv_output_length(num_inputs, convs)


def load_encoder(checkpoint_dir: Path, config: dict[str, Any]) -> PreTrainedModel:
    """Load an encoder out of a checkpoint, in evaluation mode; no other tensor is read.

    Raises:
        ModelError: the checkpoint has no encoder of this class (`model.not_an_encoder`), or its
            tensors are missing, of another shape or not finite (`model.damaged_checkpoint`).
    """
    encoder = build_encoder(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    tensor_index = read_tensor_index(checkpoint_dir)
    keys = [key for tensors in tensor_index.values() for key in tensors]
    prefix = _find_key_prefix(keys, shapes)
    if prefix is None:
        raise ModelError(
            f"holds no encoder of class {config['model_type']}",
            where=str(checkpoint_dir),
            hint="set encoder to a model that has one",
            code="model.not_an_encoder",
        )
    names = {key: _to_encoder_name(key, prefix) for key in keys}
    encoder_index: TensorIndex = {
        file_name: {key: info for key, info in tensors.items() if names[key] in shapes}
        for file_name, tensors in tensor_index.items()
    }
    shapes_in_checkpoint = {
        names[key]: info.shape
        for tensors in encoder_index.values()
        for key, info in tensors.items()
    }
    missing = sorted(prefix + name for name in shapes.keys() - shapes_in_checkpoint.keys())
    misshapen = sorted(
        f"{prefix}{name} ({list(shape)}, not {list(shapes[name])})"
        for name, shape in shapes_in_checkpoint.items()
        if shape != shapes[name]
    )
    if missing or misshapen:
        groups = ((missing, "missing"), (misshapen, "of another shape"))
        problems = [f"{len(some)} {label}, first {some[0]}" for some, label in groups if some]
        what = f"these are not the weights of this encoder: {'; '.join(problems)}"
        raise make_damaged_checkpoint_error(what, checkpoint_dir)
    check_finite_weights(checkpoint_dir, encoder_index)
    tensors = {}
    for file_name, infos in encoder_index.items():
        with safe_open(checkpoint_dir / file_name, framework="pt") as file:
            tensors.update({names[key]: file.get_tensor(key) for key in infos})
    encoder.load_state_dict(tensors)
    encoder.eval()
    return encoder


def _find_key_prefix(keys: Iterable[str], encoder_names: Iterable[str]) -> str | None:
    """The most frequent prefix before the encoder's names in a checkpoint; None without any."""
    known, prefixes = set(encoder_names), Counter[str]()
    for key in keys:
        pieces = _map_weight_norm_key(key).split(".")
        for index in range(len(pieces)):
            if ".".join(pieces[index:]) in known:
                prefixes[".".join([*pieces[:index], ""])] += 1
    return prefixes.most_common(1)[0][0] if prefixes else None


def _to_encoder_name(key: str, prefix: str) -> str:
    """The encoder's name for a tensor of the checkpoint; empty for another component's."""
    key = _map_weight_norm_key(key)
    return key.removeprefix(prefix) if key.startswith(prefix) else ""


def _map_weight_norm_key(key: str) -> str:
    for old, new in WEIGHT_NORM_KEY_MAP.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key
