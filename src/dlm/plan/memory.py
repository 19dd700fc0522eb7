"""How many bytes hearing takes, by what an encoder takes: a mel, or the wave itself.

    features     what a frozen encoder leaves for the projector
    kept         what an encoder that learns leaves behind before its layers, and between frames
    working      what a frozen encoder holds while it hears one window, of one clip or of each

A wave costs more than a mel: seven convolutions make 64, then 32, ... then one step of each frame.

How long the rows of a document are, told before a tokenizer counts them.

    sound    exact, by plan/frames.py
    text     from above: a token is at least two bytes long

A short clip is given as much room as half a minute and its words, so that the next clip of a
document does not change its batches.

How many bytes a run holds: the arithmetic behind every "it fits", and what fits instead.

    weights       what stays as it is, in its own format
    learning      what learns: fp32, with its gradient and Adam's two moments
    passing       what a batch leaves behind on the way forward, for the way back
    runtime       what the device's own library takes

The first two are exact. The third counts what each layer keeps for its gradients, as transformers
and peft write them: a little more than real models are seen to take, and never less.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from dlm.data.types import Example, Message
from dlm.plan.audio_lengths import (
    ceil_div,
    count_audio_tokens,
    count_encoder_frames,
    count_window_tokens,
)
from dlm.plan.encoder_lm_specs import (
    MEL_ENCODER_DEFAULTS,
    MEL_ENCODER_STRIDE,
    W2V_BERT_MODEL_TYPE,
    WAVEFORM_ENCODER_DEFAULTS,
)
from dlm.plan.model_spec import ComponentName, ModelSpec, TransformerShape
from dlm.plan.types import AdapterSpec, Bits, ModelPlan, compute_stretched_length

CONV_CHANNELS = 512  # of each convolution (wav2vec 2.0, Baevski et al. 2020, section 4.2)
MAX_CONV_KERNEL = 3  # the longest of those that are as wide on both sides
FIRST_CONV_STEPS_PER_FRAME = 64  # steps per frame after the first convolution, and the most
TOTAL_CONV_STEPS_PER_FRAME = 127  # after all seven
WAVEFORM_COPIES = 8  # of the samples of a frame: in fp32, normed, padded, and their gradients
TENSORS_PER_CONV = 3  # a convolution keeps its input, its norm's and its activation's
PAIRWISE_ATTENTION_TYPES = {
    "wavlm",
    "wav2vec2-conformer",
    W2V_BERT_MODEL_TYPE,
}  # whose attention holds every pair
FP32_BYTES = 4  # bytes: hearing is exact


def tokens_to_encoder_frames(spec: ModelSpec, num_tokens: int) -> int:
    """Encoder frames that became so many tokens."""
    return ceil_div(num_tokens * spec.audio_spec.projector_stride, spec.audio_spec.num_queries)


def tokens_to_windows(spec: ModelSpec, num_tokens: int) -> int:
    """How many windows became so many tokens."""
    return ceil_div(
        num_tokens, max(count_window_tokens(spec.audio_spec.window_samples, spec.audio_spec), 1)
    )


def estimate_feature_bytes(spec: ModelSpec, num_frames: int) -> int:
    """What is heard of a row: all hidden states, where the projector weighs them."""
    encoders = spec.composition.encoders if spec.composition else ()
    states = [
        spec.sizes.encoder.num_layers + 1 if part.layer == "weighted_sum" else 1
        for part in encoders
    ]
    return num_frames * max(sum(states), 1) * spec.sizes.encoder.hidden_size * FP32_BYTES


def estimate_frontend_activation_bytes(spec: ModelSpec, num_frames: int, *, num_layers: int) -> int:
    """What is kept of a row before the layers, and of pairs of frames in so many `layers`."""
    mel = spec.num_mel_bins + 2 * spec.sizes.encoder.hidden_size
    if spec.encoder_input == "mel":
        return 2 * num_frames * spec.audio_spec.encoder_stride * mel * FP32_BYTES
    width = _get_conv_channels(spec)
    wave = (
        TENSORS_PER_CONV * TOTAL_CONV_STEPS_PER_FRAME * width
        + WAVEFORM_COPIES * spec.audio_spec.encoder_stride
    )
    pairs = (
        min(num_frames, count_encoder_frames(spec.audio_spec.window_samples, spec.audio_spec))
        * _count_attention_pair_values(spec)
        * num_layers
    )
    gradient = (
        MAX_CONV_KERNEL * width * width
    )  # of one convolution, before it is added to the others
    return (num_frames * (wave + 2 * MEL_ENCODER_STRIDE * mel + pairs) + gradient) * FP32_BYTES


def estimate_encoder_workspace_bytes(spec: ModelSpec, bytes_per_value: int) -> int:
    """The frozen encoder at work on one window, layer by layer, in numbers of `each` bytes."""
    tower, samples = spec.sizes.encoder, compute_typical_samples(spec)
    frames = count_encoder_frames(samples, spec.audio_spec)
    layer = (
        frames
        * (
            6 * tower.hidden_size
            + 2 * tower.intermediate_size
            + frames * (1 + _count_attention_pair_values(spec))
        )
        * bytes_per_value
    )
    if spec.encoder_input == "mel":
        return layer
    steps = ceil_div(samples, spec.audio_spec.encoder_stride) * FIRST_CONV_STEPS_PER_FRAME
    wave = WAVEFORM_COPIES * samples * FP32_BYTES
    return wave + max(2 * steps * _get_conv_channels(spec) * bytes_per_value, layer)


def _list_encoder_types(spec: ModelSpec) -> Iterable[str]:
    """The classes of its encoders; any, where they are not told."""
    return (
        [part.config["model_type"] for part in spec.composition.encoders]
        if spec.composition
        else WAVEFORM_ENCODER_DEFAULTS
    )


def _get_conv_channels(spec: ModelSpec) -> int:
    """Channels of its convolutions; w2v-BERT and Whisper take a spectrum, which is small."""
    return (
        0
        if set(_list_encoder_types(spec)) <= {W2V_BERT_MODEL_TYPE, *MEL_ENCODER_DEFAULTS}
        else CONV_CHANNELS
    )


def _count_attention_pair_values(spec: ModelSpec) -> int:
    """Numbers for each pair of frames: scores, and where positions are relative, their vectors."""
    tower = spec.sizes.encoder
    if spec.encoder_input == "mel" or not set(_list_encoder_types(spec)) & PAIRWISE_ATTENTION_TYPES:
        return 0
    return tower.hidden_size // tower.num_heads + 5 * tower.num_heads


TYPICAL_SECONDS = 30
TYPICAL_TEXT_TOKENS = 256  # a question and a transcript
CHAT_TEMPLATE_TOKENS = 64  # that a chat form writes around them
MIN_BYTES_PER_TOKEN = 2


@dataclass(frozen=True)
class SequenceLengths:
    """A row in tokens, those of sound and those that carry loss among them."""

    num_tokens: int
    num_audio_tokens: int
    num_labels: int


def estimate_sequence_lengths(
    spec: ModelSpec,
    max_tokens: int,
    examples: Iterable[Example] = (),
    durations: Mapping[str, tuple[float, ...]] | None = None,
    *,
    min_speed_percent: int = 100,
) -> SequenceLengths:
    """The row to make room for, at most `longest` tokens.

    `lasting` are the seconds of each sound, by the place of its clip; they may be played as slowly
    as `slowest_percent` of their speed.
    """
    usual = count_audio_tokens(compute_typical_samples(spec), spec.audio_spec)
    rows = [SequenceLengths(usual + TYPICAL_TEXT_TOKENS, usual, TYPICAL_TEXT_TOKENS)]
    rows += [
        _estimate_example_lengths(
            spec, clip, (durations or {}).get(clip.location, ()), min_speed_percent
        )
        for clip in examples
    ]
    most = min(max_tokens, spec.context_length)
    return SequenceLengths(
        num_tokens=min(max(row.num_tokens for row in rows), most),
        num_audio_tokens=min(max(row.num_audio_tokens for row in rows), most),
        num_labels=min(max(row.num_labels for row in rows), most),
    )


def compute_typical_samples(spec: ModelSpec) -> int:
    """Samples of half a minute, or of the longest span heard at once if that is less."""
    return min(spec.audio_spec.window_samples, TYPICAL_SECONDS * spec.audio_spec.sample_rate)


def _estimate_example_lengths(
    spec: ModelSpec, example: Example, durations: tuple[float, ...], speed_percent: int
) -> SequenceLengths:
    strides = spec.audio_spec
    samples = (round(seconds * strides.sample_rate) for seconds in durations)
    sound = sum(
        count_audio_tokens(
            compute_stretched_length(each, speed_percent, strides.window_samples), strides
        )
        for each in samples
    )
    labels = _estimate_text_tokens(turn for turn in example.messages if turn.role == "assistant")
    return SequenceLengths(sound + _estimate_text_tokens(example.messages), sound, labels)


def _estimate_text_tokens(messages: Iterable[Message]) -> int:
    """Tokens of what is said, from above."""
    return (
        sum(len(turn.text.encode()) for turn in messages) // MIN_BYTES_PER_TOKEN
        + CHAT_TEMPLATE_TOKENS
    )


BYTES_PER_TRAINABLE_PARAMETER = 16  # a parameter that learns, its gradient and two moments, fp32
QUANT_BLOCK_SIZE = 64  # weights of 4 bits that share a scale (bitsandbytes)
QUANT_SCALE_BLOCK_SIZE = 256  # scales of 8 bits that share one of fp32
QUANT_TABLE_BYTES = 64 + 1024 + 4  # what 4 and 8 bits stand for, and the mean of the scales
CUDA_RUNTIME_BYTES = 600 << 20  # kernels and work space
MAX_BF16_SCORE_KEYS = (
    640  # keys whose scores a processor keeps in bf16: those of longer rows take too much
)
GIB = 1 << 30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what takes them."""

    frozen: int
    trainable: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.frozen + self.trainable + self.activations + self.runtime


def estimate_memory(
    model_plan: ModelPlan, lengths: SequenceLengths, batch_size: int
) -> MemoryEstimate:
    """What learning takes with `rows` rows like `row` at once."""
    return MemoryEstimate(
        frozen=estimate_frozen_bytes(model_plan),
        trainable=count_trainable_parameters(model_plan) * BYTES_PER_TRAINABLE_PARAMETER,
        activations=estimate_activation_bytes(model_plan, lengths, batch_size),
        runtime=_estimate_runtime_bytes(model_plan),
    )


def choose_batch_size(
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    batch_sizes: tuple[int, ...],
    available_bytes: int,
    *,
    gradient_checkpointing: bool | None = None,
) -> tuple[ModelPlan, int] | None:
    """The plan that fits into `room` bytes, and its rows at once: the first of `counts` that fits.

    Layers are thought through again only where the last of them does not fit otherwise, or as
    asked for.
    """
    ways = [(bool(gradient_checkpointing), count) for count in batch_sizes]
    if gradient_checkpointing is None:
        ways.append((True, batch_sizes[-1]))
    for again, rows in ways:
        tried = replace(model_plan, gradient_checkpointing=again)
        if estimate_memory(tried, lengths, rows).total <= available_bytes:
            return tried, rows
    return None


def choose_eval_batch_size(
    model_plan: ModelPlan, lengths: SequenceLengths, max_batch_size: int, available_bytes: int
) -> int:
    """How many rows are answered at once in `room` bytes, once learning is over."""
    held = (
        estimate_frozen_bytes(model_plan)
        + count_trainable_parameters(model_plan) * BYTES_PER_TRAINABLE_PARAMETER
        + _estimate_runtime_bytes(model_plan)
    )
    return max(
        min(
            (available_bytes - held) // _estimate_generation_bytes(model_plan, lengths),
            max_batch_size,
        ),
        1,
    )


def _estimate_generation_bytes(model_plan: ModelPlan, lengths: SequenceLengths) -> int:
    """What answering one row takes: keys and values of all layers, one of them at work, logits."""
    lm, each = model_plan.spec.sizes.lm, _get_activation_itemsize(model_plan)
    kept = 2 * lm.num_layers * _get_query_width(lm) * lm.num_kv_heads // lm.num_heads
    at_work = 6 * lm.hidden_size + 3 * lm.intermediate_size + 6 * _get_query_width(lm)
    spoken = lengths.num_labels * model_plan.spec.sizes.vocab_size * (each + 8)
    return lengths.num_tokens * (kept + at_work) * each + spoken


def count_trainable_parameters(model_plan: ModelPlan) -> int:
    """How many parameters learn."""
    return _count_unfrozen_parameters(model_plan) + _count_lora_parameters(model_plan)


def _count_unfrozen_parameters(model_plan: ModelPlan) -> int:
    """Those of the base itself that learn."""
    adapter, sizes = model_plan.adapter, model_plan.spec.sizes
    parts = {
        "encoder": sizes.encoder.num_parameters,  # with its positions, which stay as they are
        "projector": sizes.projector,
        "lm": sizes.lm.num_parameters + sizes.embedding,
    }
    top = adapter.top_layers * ceil_div(sizes.lm.num_parameters, sizes.lm.num_layers)
    return top + sum(parts[role] for role in adapter.fully_trained_components)


def _count_lora_parameters(model_plan: ModelPlan) -> int:
    """Low-rank weights: `rank` rows and columns a layer; with DoRA each output's length too."""
    adapter = model_plan.adapter
    length = adapter.kind == "dora"
    return sum(
        (tower.num_layers - _count_top_layers(adapter, role))
        * (adapter.rank * (into + out) + length * out)
        for role, tower in _iter_transformers(model_plan.spec)
        if role in adapter.lora_components
        for into, out in _get_adapted_shapes(tower, role, adapter)
    )


def _count_top_layers(adapter: AdapterSpec, component: ComponentName) -> int:
    """How many last layers of a part learn as they are, in place of low-rank weights."""
    return adapter.top_layers if component == "lm" else 0


def estimate_frozen_bytes(model_plan: ModelPlan) -> int:
    """What stays as it is."""
    each = 4 if model_plan.weights_dtype == "fp32" else 2
    frozen = (model_plan.spec.sizes.num_parameters - _count_unfrozen_parameters(model_plan)) * each
    if model_plan.spec.kind == "stitched" and not model_plan.adapter.is_trainable("projector"):
        frozen += model_plan.spec.sizes.projector * (4 - each)  # it joins two models, in fp32
    elsewhere = (model_plan.encoder_device or model_plan.device) != model_plan.device
    if elsewhere and not model_plan.adapter.is_trainable("encoder"):
        frozen -= model_plan.spec.sizes.encoder.num_parameters * each
    bits, lm = model_plan.adapter.bits, model_plan.spec.sizes.lm
    if bits is None:
        return frozen
    shapes = get_linear_shapes(lm, "lm").values()
    packed = sum(compute_quantized_bytes(into * out, out, bits) for into, out in shapes)
    return frozen + lm.num_layers * (packed - sum(into * out for into, out in shapes) * each)


def compute_quantized_bytes(num_weights: int, num_rows: int, bits: Bits) -> int:
    """A matrix of `count` weights in `rows` rows, with its scales."""
    if bits == 8:
        return num_weights + 4 * num_rows
    scales = ceil_div(num_weights, QUANT_BLOCK_SIZE)
    return (
        ceil_div(num_weights, 2)
        + scales
        + 4 * ceil_div(scales, QUANT_SCALE_BLOCK_SIZE)
        + QUANT_TABLE_BYTES
    )


def estimate_activation_bytes(
    model_plan: ModelPlan, lengths: SequenceLengths, batch_size: int
) -> int:
    """What a batch leaves behind until its gradients are there."""
    base, sizes = model_plan.spec, model_plan.spec.sizes
    frames, learns = (
        tokens_to_encoder_frames(base, lengths.num_audio_tokens),
        model_plan.adapter.is_trainable("encoder"),
    )
    heard = 0 if learns else estimate_feature_bytes(base, frames)
    if learns:
        layers = 1 if model_plan.gradient_checkpointing else sizes.encoder.num_layers
        heard = estimate_frontend_activation_bytes(base, frames, num_layers=layers)
        heard += _estimate_transformer_bytes(
            model_plan, "encoder", sizes.encoder, num_steps=frames, num_mlp_steps=frames
        )
    thought = _estimate_transformer_bytes(
        model_plan, "lm", sizes.lm, num_steps=lengths.num_tokens, num_mlp_steps=lengths.num_labels
    )
    compared = 12 * model_plan.distill  # flattened logits, those of the others, gradients
    spoken = (
        lengths.num_labels
        * sizes.vocab_size
        * (_get_activation_itemsize(model_plan) + 8 + compared)
    )  # and of the words
    merged = lengths.num_tokens * sizes.lm.hidden_size * 4 * 4
    at_once = (
        batch_size * tokens_to_windows(base, lengths.num_audio_tokens)
        if model_plan.encode_every_step
        else 1
    )
    hearing = (
        0
        if learns
        else estimate_encoder_workspace_bytes(base, _get_activation_itemsize(model_plan)) * at_once
    )
    once = _estimate_cast_bytes(model_plan) + _estimate_dequantized_bytes(model_plan) + hearing
    return batch_size * (heard + merged + thought + spoken) + once


def _estimate_transformer_bytes(
    model_plan: ModelPlan,
    component: ComponentName,
    shape: TransformerShape,
    *,
    num_steps: int,
    num_mlp_steps: int,
) -> int:
    """All layers of a tower, and the gradients inside one of them.

    The feed-forward part of the last sees `fed` steps (model/last.py), and learns before the rest.
    With checkpointing a layer keeps what goes into it, and is whole only while it learns; what
    bitsandbytes multiplies in 8 bits it keeps all the same.
    """
    top, gradients = (
        _count_top_layers(model_plan.adapter, component),
        2 * shape.intermediate_size * _get_activation_itemsize(model_plan),
    )
    upper = _estimate_layer_bytes(model_plan, component, shape, fully_trained=True) if top else 0
    lower = _estimate_layer_bytes(
        model_plan,
        component,
        shape,
        fully_trained=component in model_plan.adapter.fully_trained_components,
    )
    if (
        model_plan.device == "cpu"
        and model_plan.weights_dtype == "bf16"
        and component == "lm"
        and num_steps <= MAX_BF16_SCORE_KEYS
    ):
        lower += shape.num_heads * num_steps * 2  # the scores of attention (model/attention.py)
    if not model_plan.gradient_checkpointing:
        layers, last = top * upper + (shape.num_layers - top) * lower, upper if top else lower
        bare = _estimate_layer_bytes(
            model_plan,
            component,
            replace(shape, intermediate_size=0),
            fully_trained=bool(top) or component in model_plan.adapter.fully_trained_components,
        )
        ending = num_steps * (layers - last + bare) + num_mlp_steps * (last - bare + gradients)
        return max(ending, num_steps * (layers - last + gradients))
    stream = shape.hidden_size * (4 if model_plan.weights_dtype == "fp32" else 2)
    stays = stream + (
        _estimate_linear_input_bytes(model_plan, shape)
        if model_plan.adapter.bits == 8 and component == "lm"
        else 0
    )
    return num_steps * (shape.num_layers * stays + max(upper, lower) + gradients)


def _estimate_layer_bytes(
    model_plan: ModelPlan, component: ComponentName, shape: TransformerShape, *, fully_trained: bool
) -> int:
    """What one layer keeps of one step.

    Its two norms keep what they are given, in fp32; attention its three inputs and its output; the
    feed-forward part what its activation multiplies; each layer that learns, its input.
    """
    each, adapter = _get_activation_itemsize(model_plan), model_plan.adapter
    norms = 8 * shape.hidden_size * (1 + fully_trained) + 16
    attention = 4 * _get_query_width(shape) * (each + fully_trained) + 4 * shape.num_heads
    inner = (3 if component == "lm" else 1) * shape.intermediate_size * each
    kept = (
        _estimate_linear_input_bytes(model_plan, shape)
        if fully_trained or (adapter.bits == 8 and component == "lm")
        else 0
    )
    if component in adapter.lora_components and not fully_trained:
        kept += _estimate_lora_bytes(model_plan, component, shape)
    return norms + attention + inner + kept


def _estimate_lora_bytes(
    model_plan: ModelPlan, component: ComponentName, shape: TransformerShape
) -> int:
    """What the low-rank weights of one layer keep: each its own input once dropout is drawn."""
    each, adapter = _get_activation_itemsize(model_plan), model_plan.adapter
    shapes = _get_adapted_shapes(shape, component, adapter)
    kept = len(shapes) * adapter.rank * each
    if adapter.dropout:
        ours = adapter.kind == "lora" and adapter.bits is None  # which casts nothing
        mask = (
            1
            if model_plan.device == "cuda"
            else 2
            if ours and model_plan.weights_dtype == "bf16"
            else 4
        )
        kept += sum(into for into, _ in shapes) * (each + mask)
    else:
        kept += _estimate_linear_input_bytes(model_plan, shape)
    return kept + (sum(2 * out * each for _, out in shapes) if adapter.kind == "dora" else 0)


def _estimate_linear_input_bytes(model_plan: ModelPlan, shape: TransformerShape) -> int:
    """What goes into the linear layers of one layer; several share theirs."""
    return (2 * shape.hidden_size + shape.intermediate_size) * _get_activation_itemsize(model_plan)


def _estimate_cast_bytes(model_plan: ModelPlan) -> int:
    """What is multiplied in bf16 and held in fp32 is there in both."""
    if model_plan.precision == "fp32":
        return 0
    count = count_trainable_parameters(model_plan)
    if model_plan.weights_dtype == "fp32":
        count = max(count, model_plan.spec.sizes.num_parameters)
    return 2 * count


def _estimate_dequantized_bytes(model_plan: ModelPlan) -> int:
    """The largest matrix, while it is unpacked, or measured for DoRA."""
    lm, adapter = model_plan.spec.sizes.lm, model_plan.adapter
    largest = max(into * out for into, out in get_linear_shapes(lm, "lm").values())
    return largest * (
        12
        if adapter.kind == "dora"
        else _get_activation_itemsize(model_plan)
        if adapter.bits
        else 0
    )


def get_linear_shapes(
    shape: TransformerShape, component: ComponentName
) -> dict[str, tuple[int, int]]:
    """The linear layers in one layer of a tower, by name: inputs and outputs."""
    width, inner, query = shape.hidden_size, shape.intermediate_size, _get_query_width(shape)
    pair = query * shape.num_kv_heads // shape.num_heads
    layers = {"q_proj": (width, query), "k_proj": (width, pair), "v_proj": (width, pair)}
    if component == "lm" and _is_mixture_of_experts(shape):
        return {**layers, "o_proj": (query, width)}  # experts lie together, in no linear layer
    if component == "lm":
        gates = {name: (width, inner) for name in ("gate_proj", "up_proj")}
        return {**layers, "o_proj": (query, width), **gates, "down_proj": (inner, width)}
    return {**layers, "out_proj": (query, width), "fc1": (width, inner), "fc2": (inner, width)}


def _is_mixture_of_experts(shape: TransformerShape) -> bool:
    """Whether a tower holds other weights than its shapes tell: experts, few of them at work."""
    width, query = shape.hidden_size, _get_query_width(shape)
    attention = 2 * width * query * (shape.num_heads + shape.num_kv_heads) // shape.num_heads
    vectors = 8 * (width + query)  # norms and biases, and room to spare
    rest = shape.num_parameters - shape.num_layers * (
        attention + 3 * width * shape.intermediate_size
    )
    return not 0 <= rest <= shape.num_layers * vectors


def _get_adapted_shapes(
    shape: TransformerShape, component: ComponentName, adapter: AdapterSpec
) -> list[tuple[int, int]]:
    """The linear layers that low-rank weights sit on."""
    layers = get_linear_shapes(shape, component)
    if adapter.target_modules is None:
        return list(layers.values())
    named = {target.rsplit(".", 1)[-1] for target in adapter.target_modules}
    return [shape for name, shape in layers.items() if name in named]


def _iter_transformers(spec: ModelSpec) -> Iterator[tuple[ComponentName, TransformerShape]]:
    yield "encoder", spec.sizes.encoder
    yield "lm", spec.sizes.lm


def _get_query_width(shape: TransformerShape) -> int:
    """Width of all heads together."""
    return shape.num_heads * (shape.head_dim or shape.hidden_size // shape.num_heads)


def _estimate_runtime_bytes(model_plan: ModelPlan) -> int:
    return CUDA_RUNTIME_BYTES if model_plan.device == "cuda" else 0


def _get_activation_itemsize(model_plan: ModelPlan) -> int:
    """Bytes of a number on its way."""
    return 2 if model_plan.precision == "bf16" else 4


def format_bytes(num_bytes: int) -> str:
    """Bytes in the unit that suits them."""
    return (
        f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{ceil_div(num_bytes, 1 << 20)} MiB"
    )
