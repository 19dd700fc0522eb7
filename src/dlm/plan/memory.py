"""The memory estimate: bytes that training takes on a device, and the batch size that fits.

    frozen         weights that are not trained, in their own format, quantized ones included
    trainable      weights that are: fp32, with their gradient and Adam's two moments
    activations    what a batch keeps in the forward pass for the backward pass
    runtime        what CUDA takes

The first two are exact. Activations count the tensors that each layer keeps for its gradients in
transformers and peft: never less than measured in real models, and a little more (the limits are in
tests/plan). Sequences are bounded before a tokenizer exists: audio tokens are exact
(audio_lengths.py), text is bounded by bytes. Every sequence is at least as long as half a minute of
audio with its text, so that one more short example in a document does not change its batches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product

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
from dlm.plan.types import (
    AdapterSpec,
    Bits,
    MemoryEstimate,
    ModelPlan,
    SequenceLengths,
    compute_stretched_length,
)

FP32_BYTES = 4
BYTES_PER_TRAINABLE_PARAMETER = 4 * FP32_BYTES  # the parameter, its gradient and two moments
CUDA_RUNTIME_BYTES = 600 << 20  # kernels and work space

# sequences
TYPICAL_SECONDS = 30
TYPICAL_TEXT_TOKENS = 256  # a question and a transcript
CHAT_TEMPLATE_TOKENS = 64  # that a chat template adds
MIN_BYTES_PER_TOKEN = 2

# the convolutions of a waveform encoder (wav2vec 2.0, Baevski et al. 2020, section 4.2)
CONV_CHANNELS = 512
MAX_CONV_KERNEL = 3  # of those with as many channels before and after
FIRST_CONV_STEPS_PER_FRAME = 64  # steps per frame after the first convolution, and the most
TOTAL_CONV_STEPS_PER_FRAME = 127  # after all seven: 64 + 32 + ... + 1
WAVEFORM_COPIES = 8  # of samples: in fp32, normalized, padded, and their gradients
TENSORS_PER_CONV = 3  # its input, its norm's and its activation's
PAIRWISE_ATTENTION_TYPES = {"wavlm", "wav2vec2-conformer", W2V_BERT_MODEL_TYPE}  # of frame pairs

# quantized weights (bitsandbytes)
QUANT_BLOCK_SIZE = 64  # 4-bit weights that share a scale
QUANT_SCALE_BLOCK_SIZE = 256  # 8-bit scales that share an fp32 scale
QUANT_TABLE_BYTES = 64 + 1024 + 4  # the values of 4 and 8 bits, and the mean of the scales

# a CPU keeps attention scores in bf16 up to so many keys: those of longer sequences take too much
MAX_BF16_SCORE_KEYS = 640


def estimate_sequence_lengths(
    spec: ModelSpec,
    max_tokens: int,
    examples: Iterable[Example] = (),
    durations: Mapping[str, tuple[float, ...]] | None = None,
    *,
    min_speed_percent: int = 100,
) -> SequenceLengths:
    """Bound the sequences of examples, in tokens.

    Args:
        spec: the base model.
        max_tokens: longest sequence that is allowed.
        examples: what is trained on.
        durations: seconds of each audio segment, by the location of its example.
        min_speed_percent: slowest speed that augmentation plays them at.
    """
    num_audio_tokens = count_audio_tokens(compute_typical_samples(spec), spec.audio_spec)
    num_tokens = num_audio_tokens + TYPICAL_TEXT_TOKENS
    bounds = [SequenceLengths(num_tokens, num_audio_tokens, TYPICAL_TEXT_TOKENS)]
    for example in examples:
        seconds = (durations or {}).get(example.location, ())
        num_audio_tokens = sum(
            count_audio_tokens(
                compute_stretched_length(
                    round(duration * spec.audio_spec.sample_rate),
                    min_speed_percent,
                    spec.audio_spec.window_samples,
                ),
                spec.audio_spec,
            )
            for duration in seconds
        )
        answers = [message for message in example.messages if message.role == "assistant"]
        num_tokens = num_audio_tokens + _bound_text_tokens(example.messages)
        bounds.append(SequenceLengths(num_tokens, num_audio_tokens, _bound_text_tokens(answers)))
    limit = min(max_tokens, spec.context_length)
    return SequenceLengths(
        num_tokens=min(max(bound.num_tokens for bound in bounds), limit),
        num_audio_tokens=min(max(bound.num_audio_tokens for bound in bounds), limit),
        num_labels=min(max(bound.num_labels for bound in bounds), limit),
    )


def _bound_text_tokens(messages: Iterable[Message]) -> int:
    num_bytes = sum(len(message.text.encode()) for message in messages)
    return num_bytes // MIN_BYTES_PER_TOKEN + CHAT_TEMPLATE_TOKENS


def compute_typical_samples(spec: ModelSpec) -> int:
    """Return the samples of half a minute, or of an encoder window if that is shorter."""
    return min(spec.audio_spec.window_samples, TYPICAL_SECONDS * spec.audio_spec.sample_rate)


def estimate_memory(
    model_plan: ModelPlan, lengths: SequenceLengths, batch_size: int
) -> MemoryEstimate:
    """Estimate the bytes of training with `batch_size` sequences of these lengths in a batch."""
    return MemoryEstimate(
        frozen=estimate_frozen_bytes(model_plan),
        trainable=count_trainable_parameters(model_plan) * BYTES_PER_TRAINABLE_PARAMETER,
        activations=estimate_activation_bytes(model_plan, lengths, batch_size),
        runtime=CUDA_RUNTIME_BYTES if model_plan.device == "cuda" else 0,
    )


def choose_batch_size(
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    batch_sizes: tuple[int, ...],
    available_bytes: int,
    *,
    gradient_checkpointing: bool | None = None,
) -> tuple[ModelPlan, int] | None:
    """Choose the first batch size that fits.

    Args:
        model_plan: what is trained.
        lengths: of a sequence.
        batch_sizes: to try in this order.
        available_bytes: of the device.
        gradient_checkpointing: whether it is used; None for only where the last batch size does
            not fit without.

    Returns:
        The plan, with gradient checkpointing or without, and the batch size; None if none fits.
    """
    options = [(bool(gradient_checkpointing), batch_size) for batch_size in batch_sizes]
    if gradient_checkpointing is None:
        options.append((True, batch_sizes[-1]))
    for recompute, batch_size in options:
        candidate = replace(model_plan, gradient_checkpointing=recompute)
        if estimate_memory(candidate, lengths, batch_size).total <= available_bytes:
            return candidate, batch_size
    return None


def choose_eval_batch_size(
    model_plan: ModelPlan, lengths: SequenceLengths, max_batch_size: int, available_bytes: int
) -> int:
    """Choose how many sequences are generated at once after training, at least one."""
    memory = estimate_memory(model_plan, lengths, 1)
    free_bytes = available_bytes - (memory.total - memory.activations)
    batch_size = free_bytes // _estimate_generation_bytes(model_plan, lengths)
    return max(min(batch_size, max_batch_size), 1)


def _estimate_generation_bytes(model_plan: ModelPlan, lengths: SequenceLengths) -> int:
    """Generating one sequence: keys and values of all layers, one layer's activations, logits."""
    lm, itemsize = model_plan.spec.sizes.lm, _get_activation_itemsize(model_plan)
    query_width = _get_query_width(lm)
    kv_cache = 2 * lm.num_layers * query_width * lm.num_kv_heads // lm.num_heads
    layer = 6 * lm.hidden_size + 3 * lm.intermediate_size + 6 * query_width
    logits = lengths.num_labels * model_plan.spec.sizes.vocab_size * (itemsize + 8)
    return lengths.num_tokens * (kv_cache + layer) * itemsize + logits


def count_trainable_parameters(model_plan: ModelPlan) -> int:
    """Count the parameters that are trained."""
    return _count_unfrozen_parameters(model_plan) + _count_lora_parameters(model_plan)


def _count_unfrozen_parameters(model_plan: ModelPlan) -> int:
    """Those of the base model itself."""
    adapter, sizes = model_plan.adapter, model_plan.spec.sizes
    by_component = {
        "encoder": sizes.encoder.num_parameters,  # with its positions, which stay frozen
        "projector": sizes.projector,
        "lm": sizes.lm.num_parameters + sizes.embedding,
    }
    top = adapter.top_layers * ceil_div(sizes.lm.num_parameters, sizes.lm.num_layers)
    return top + sum(by_component[name] for name in adapter.fully_trained_components)


def _count_lora_parameters(model_plan: ModelPlan) -> int:
    """Low-rank matrices; with DoRA the magnitude of each output too."""
    adapter, sizes = model_plan.adapter, model_plan.spec.sizes
    shapes: dict[ComponentName, TransformerShape] = {"encoder": sizes.encoder, "lm": sizes.lm}
    magnitudes = adapter.kind == "dora"
    return sum(
        (shape.num_layers - _count_top_layers(adapter, name))
        * (adapter.rank * (num_inputs + num_outputs) + magnitudes * num_outputs)
        for name, shape in shapes.items()
        if name in adapter.lora_components
        for num_inputs, num_outputs in _get_adapted_shapes(shape, name, adapter)
    )


def _count_top_layers(adapter: AdapterSpec, component: ComponentName) -> int:
    """Last layers of a component whose own weights are trained, without LoRA."""
    return adapter.top_layers if component == "lm" else 0


def estimate_frozen_bytes(model_plan: ModelPlan) -> int:
    """Compute the bytes of weights that are not trained."""
    spec, adapter = model_plan.spec, model_plan.adapter
    itemsize = _get_weights_itemsize(model_plan)
    frozen = (spec.sizes.num_parameters - _count_unfrozen_parameters(model_plan)) * itemsize
    if spec.kind == "stitched" and not adapter.is_trainable("projector"):
        frozen += spec.sizes.projector * (FP32_BYTES - itemsize)  # it stays in fp32
    encoder_is_elsewhere = model_plan.encoder_device not in (None, model_plan.device)
    if encoder_is_elsewhere and not adapter.is_trainable("encoder"):
        frozen -= spec.sizes.encoder.num_parameters * itemsize
    if adapter.bits is None:
        return frozen
    shapes = get_linear_shapes(spec.sizes.lm, "lm").values()
    quantized = sum(
        compute_quantized_bytes(num_inputs * num_outputs, num_outputs, adapter.bits)
        for num_inputs, num_outputs in shapes
    )
    whole = sum(num_inputs * num_outputs for num_inputs, num_outputs in shapes) * itemsize
    return frozen + spec.sizes.lm.num_layers * (quantized - whole)


def compute_quantized_bytes(num_weights: int, num_outputs: int, bits: Bits) -> int:
    """Compute the bytes of a quantized matrix with its scales."""
    if bits == 8:
        return num_weights + FP32_BYTES * num_outputs
    num_scales = ceil_div(num_weights, QUANT_BLOCK_SIZE)
    scale_bytes = num_scales + FP32_BYTES * ceil_div(num_scales, QUANT_SCALE_BLOCK_SIZE)
    return ceil_div(num_weights, 2) + scale_bytes + QUANT_TABLE_BYTES


def estimate_activation_bytes(
    model_plan: ModelPlan, lengths: SequenceLengths, batch_size: int
) -> int:
    """Estimate the bytes a batch keeps until its gradients are computed."""
    spec, sizes = model_plan.spec, model_plan.spec.sizes
    itemsize = _get_activation_itemsize(model_plan)
    num_frames = tokens_to_encoder_frames(spec, lengths.num_audio_tokens)
    if model_plan.adapter.is_trainable("encoder"):
        num_layers = 1 if model_plan.gradient_checkpointing else sizes.encoder.num_layers
        audio = estimate_frontend_activation_bytes(spec, num_frames, num_layers=num_layers)
        audio += _estimate_transformer_bytes(
            model_plan, "encoder", sizes.encoder, num_steps=num_frames, num_mlp_steps=num_frames
        )
        encoding = 0
    else:
        audio = estimate_feature_bytes(spec, num_frames)
        num_windows = 1
        if model_plan.encode_every_step:
            window_tokens = count_window_tokens(spec.audio_spec.window_samples, spec.audio_spec)
            num_windows = batch_size * max(
                ceil_div(lengths.num_audio_tokens, max(window_tokens, 1)), 1
            )
        encoding = num_windows * estimate_encoder_workspace_bytes(spec, itemsize)
    lm = _estimate_transformer_bytes(
        model_plan,
        "lm",
        sizes.lm,
        num_steps=lengths.num_tokens,
        num_mlp_steps=lengths.num_labels,
    )
    if spec.is_encoder_decoder:
        lm += num_frames * _estimate_cross_attention_bytes(model_plan)
    distillation = 12 * model_plan.distill  # two tempered distributions and gradients, in fp32
    logits = lengths.num_labels * sizes.vocab_size * (itemsize + 8 + distillation)
    embeddings = lengths.num_tokens * sizes.lm.hidden_size * 4 * FP32_BYTES
    fixed = _estimate_cast_bytes(model_plan) + _estimate_dequantized_bytes(model_plan) + encoding
    return batch_size * (audio + embeddings + lm + logits) + fixed


def tokens_to_encoder_frames(spec: ModelSpec, num_tokens: int) -> int:
    """Return the encoder frames that became so many tokens."""
    if spec.is_encoder_decoder:
        return count_encoder_frames(spec.audio_spec.window_samples, spec.audio_spec)
    return ceil_div(num_tokens * spec.audio_spec.projector_stride, spec.audio_spec.num_queries)


def estimate_feature_bytes(spec: ModelSpec, num_frames: int) -> int:
    """Compute the bytes of encoder output: all hidden states where the projector weights them."""
    encoders = spec.composition.encoders if spec.composition else ()
    num_states = sum(
        spec.sizes.encoder.num_layers + 1 if encoder.layer == "weighted_sum" else 1
        for encoder in encoders
    )
    return num_frames * max(num_states, 1) * spec.sizes.encoder.hidden_size * FP32_BYTES


def estimate_frontend_activation_bytes(spec: ModelSpec, num_frames: int, *, num_layers: int) -> int:
    """Estimate what a trained encoder keeps of a sequence outside its layers.

    That is its convolutions, and the values of frame pairs in `num_layers` layers.
    """
    hidden_size = spec.sizes.encoder.hidden_size
    mel = spec.num_mel_bins + 2 * hidden_size
    if spec.encoder_input == "mel":
        return 2 * num_frames * spec.audio_spec.encoder_stride * mel * FP32_BYTES
    channels = _get_conv_channels(spec)
    conv = TENSORS_PER_CONV * TOTAL_CONV_STEPS_PER_FRAME * channels
    waveform = WAVEFORM_COPIES * spec.audio_spec.encoder_stride
    window_frames = count_encoder_frames(spec.audio_spec.window_samples, spec.audio_spec)
    pairs = min(num_frames, window_frames) * _count_attention_pair_values(spec) * num_layers
    frame = conv + waveform + 2 * MEL_ENCODER_STRIDE * mel + pairs
    weight_gradient = MAX_CONV_KERNEL * channels * channels  # before it is accumulated
    return (num_frames * frame + weight_gradient) * FP32_BYTES


def estimate_encoder_workspace_bytes(spec: ModelSpec, itemsize: int) -> int:
    """Estimate the bytes of a frozen encoder that runs on one window, layer by layer.

    Args:
        spec: the base model.
        itemsize: bytes of an activation.
    """
    shape, samples = spec.sizes.encoder, compute_typical_samples(spec)
    num_frames = count_encoder_frames(samples, spec.audio_spec)
    frame = 6 * shape.hidden_size + 2 * shape.intermediate_size
    frame += num_frames * (1 + _count_attention_pair_values(spec))
    layer = num_frames * frame * itemsize
    if spec.encoder_input == "mel":
        return layer
    conv_steps = ceil_div(samples, spec.audio_spec.encoder_stride) * FIRST_CONV_STEPS_PER_FRAME
    conv = 2 * conv_steps * _get_conv_channels(spec) * itemsize
    return WAVEFORM_COPIES * samples * FP32_BYTES + max(conv, layer)


def _list_encoder_types(spec: ModelSpec) -> set[str]:
    """Model types of the encoders; where they are not known, all that take a waveform."""
    if spec.composition:
        return {encoder.config["model_type"] for encoder in spec.composition.encoders}
    return {*WAVEFORM_ENCODER_DEFAULTS}


def _get_conv_channels(spec: ModelSpec) -> int:
    """Channels of the convolutions over a waveform; none where all encoders take a spectrum."""
    takes_spectrum = {W2V_BERT_MODEL_TYPE, *MEL_ENCODER_DEFAULTS}
    return 0 if _list_encoder_types(spec) <= takes_spectrum else CONV_CHANNELS


def _count_attention_pair_values(spec: ModelSpec) -> int:
    """Values of each pair of frames: scores, and vectors of relative positions."""
    shape = spec.sizes.encoder
    if spec.encoder_input == "mel" or not _list_encoder_types(spec) & PAIRWISE_ATTENTION_TYPES:
        return 0
    return shape.hidden_size // shape.num_heads + 5 * shape.num_heads


def _estimate_transformer_bytes(
    model_plan: ModelPlan,
    component: ComponentName,
    shape: TransformerShape,
    *,
    num_steps: int,
    num_mlp_steps: int,
) -> int:
    """What all layers of a component keep, and the gradients inside one of them.

    The last MLP runs on `num_mlp_steps` positions (models/cpu_kernels.py), and its backward pass is
    over before that of the rest. With gradient checkpointing a layer keeps its input, and the rest
    only while its gradients are computed; inputs of 8-bit layers are kept all the same.
    """
    adapter = model_plan.adapter
    num_top = _count_top_layers(adapter, component)
    fully_trained = component in adapter.fully_trained_components
    gradients = 2 * shape.intermediate_size * _get_activation_itemsize(model_plan)
    top = _estimate_layer_bytes(model_plan, component, shape, fully_trained=True) if num_top else 0
    lower = _estimate_layer_bytes(model_plan, component, shape, fully_trained=fully_trained)
    keeps_bf16_scores = model_plan.device == "cpu" and model_plan.weights_dtype == "bf16"
    if keeps_bf16_scores and component == "lm" and num_steps <= MAX_BF16_SCORE_KEYS:
        lower += shape.num_heads * num_steps * 2
    if model_plan.gradient_checkpointing:
        layer_input = shape.hidden_size * _get_weights_itemsize(model_plan)
        if adapter.bits == 8 and component == "lm":
            layer_input += _estimate_linear_input_bytes(model_plan, shape)
        return num_steps * (shape.num_layers * layer_input + max(top, lower) + gradients)
    all_layers = num_top * top + (shape.num_layers - num_top) * lower
    last = top if num_top else lower
    last_without_mlp = _estimate_layer_bytes(
        model_plan,
        component,
        replace(shape, intermediate_size=0),
        fully_trained=bool(num_top) or fully_trained,
    )
    others = all_layers - last
    in_last = num_steps * (others + last_without_mlp)
    in_last += num_mlp_steps * (last - last_without_mlp + gradients)
    return max(in_last, num_steps * (others + gradients))


def _estimate_layer_bytes(
    model_plan: ModelPlan, component: ComponentName, shape: TransformerShape, *, fully_trained: bool
) -> int:
    """What one layer keeps of one position.

    Both norms keep their input in fp32; attention keeps its three inputs and its output; the MLP
    keeps the factors of its activation; each trained layer keeps its input.
    """
    itemsize, adapter = _get_activation_itemsize(model_plan), model_plan.adapter
    num_attentions = 1 + shape.cross_attention
    norms = (num_attentions + 1) * (4 * shape.hidden_size * (1 + fully_trained) + 8)
    attention = 4 * _get_query_width(shape) * (itemsize + fully_trained) + 4 * shape.num_heads
    attention *= num_attentions
    has_gate = component == "lm" and not shape.cross_attention
    mlp = (3 if has_gate else 1) * shape.intermediate_size * itemsize
    inputs = 0
    if fully_trained or (adapter.bits == 8 and component == "lm"):
        inputs = _estimate_linear_input_bytes(model_plan, shape)
    if component in adapter.lora_components and not fully_trained:
        inputs += _estimate_lora_bytes(model_plan, component, shape)
    return norms + attention + mlp + inputs


def _estimate_cross_attention_bytes(model_plan: ModelPlan) -> int:
    """What the keys and values of cross-attention keep of one encoder frame, in all layers."""
    shape, adapter = model_plan.spec.sizes.lm, model_plan.adapter
    itemsize = _get_activation_itemsize(model_plan)
    layer = 2 * _get_query_width(shape) * itemsize
    if "lm" in adapter.lora_components:
        layer += 2 * adapter.rank * itemsize
        layer += 2 * shape.hidden_size * itemsize * (adapter.kind == "dora")
        if adapter.dropout:  # an input of its own for each, and its mask
            layer += 2 * shape.hidden_size * (itemsize + FP32_BYTES)
    return shape.num_layers * layer


def _estimate_lora_bytes(
    model_plan: ModelPlan, component: ComponentName, shape: TransformerShape
) -> int:
    """What the LoRA weights of one layer keep of one position: with dropout, an input each."""
    itemsize, adapter = _get_activation_itemsize(model_plan), model_plan.adapter
    shapes = _get_adapted_shapes(shape, component, adapter)
    lora = len(shapes) * adapter.rank * itemsize
    if adapter.kind == "dora":
        lora += sum(2 * num_outputs * itemsize for _, num_outputs in shapes)
    if not adapter.dropout:
        return lora + _estimate_linear_input_bytes(model_plan, shape)
    has_fused_lora = adapter.kind == "lora" and adapter.bits is None  # without a cast to fp32
    mask_itemsize = 2 if has_fused_lora and model_plan.weights_dtype == "bf16" else FP32_BYTES
    if model_plan.device == "cuda":
        mask_itemsize = 1
    return lora + sum(num_inputs for num_inputs, _ in shapes) * (itemsize + mask_itemsize)


def _estimate_linear_input_bytes(model_plan: ModelPlan, shape: TransformerShape) -> int:
    """Inputs of the linear layers of one layer at one position; several share theirs."""
    return (2 * shape.hidden_size + shape.intermediate_size) * _get_activation_itemsize(model_plan)


def _estimate_cast_bytes(model_plan: ModelPlan) -> int:
    """The bf16 copies of weights that are kept in fp32."""
    if model_plan.precision == "fp32":
        return 0
    num_parameters = count_trainable_parameters(model_plan)
    if model_plan.weights_dtype == "fp32":
        num_parameters = max(num_parameters, model_plan.spec.sizes.num_parameters)
    return 2 * num_parameters


def _estimate_dequantized_bytes(model_plan: ModelPlan) -> int:
    """The largest matrix, while it is dequantized, or while DoRA computes its norm."""
    adapter, shapes = model_plan.adapter, get_linear_shapes(model_plan.spec.sizes.lm, "lm")
    itemsize = _get_activation_itemsize(model_plan) if adapter.bits else 0
    if adapter.kind == "dora":
        itemsize = 3 * FP32_BYTES
    return itemsize * max(num_inputs * num_outputs for num_inputs, num_outputs in shapes.values())


def get_linear_shapes(
    shape: TransformerShape, component: ComponentName
) -> dict[str, tuple[int, int]]:
    """Return the linear layers of one layer, by name: inputs and outputs."""
    hidden, inner, query = shape.hidden_size, shape.intermediate_size, _get_query_width(shape)
    key_value = query * shape.num_kv_heads // shape.num_heads
    layers = {"q_proj": (hidden, query), "k_proj": (hidden, key_value)}
    layers |= {"v_proj": (hidden, key_value)}
    if component != "lm" or shape.cross_attention:
        layers |= {"out_proj": (query, hidden)}
        mlp = {"fc1": (hidden, inner), "fc2": (inner, hidden)}
        if shape.cross_attention:
            attentions = product(("self_attn", "encoder_attn"), layers.items())
            layers = {f"{attention}.{name}": sides for attention, (name, sides) in attentions}
        return {**layers, **mlp}
    layers |= {"o_proj": (query, hidden)}
    if _is_mixture_of_experts(shape):
        return layers  # the experts are one tensor, no linear layers
    gates = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner)}
    return {**layers, **gates, "down_proj": (inner, hidden)}


def _is_mixture_of_experts(shape: TransformerShape) -> bool:
    """Whether a transformer has more weights than its shape explains."""
    hidden, query = shape.hidden_size, _get_query_width(shape)
    attention = 2 * hidden * query * (shape.num_heads + shape.num_kv_heads) // shape.num_heads
    vectors = 8 * (hidden + query)  # norms and biases, with a margin
    dense = shape.num_layers * (attention + 3 * hidden * shape.intermediate_size)
    return not 0 <= shape.num_parameters - dense <= shape.num_layers * vectors


def _get_adapted_shapes(
    shape: TransformerShape, component: ComponentName, adapter: AdapterSpec
) -> list[tuple[int, int]]:
    """The linear layers that have LoRA weights."""
    layers = get_linear_shapes(shape, component)
    if adapter.target_modules is None:
        return list(layers.values())
    return [
        sides
        for name, sides in layers.items()
        if any(_is_same_layer(name, target) for target in adapter.target_modules)
    ]


def _is_same_layer(name: str, target: str) -> bool:
    """Whether one dotted name is the end of the other."""
    return f".{name}".endswith(f".{target}") or f".{target}".endswith(f".{name}")


def _get_query_width(shape: TransformerShape) -> int:
    """Width of all attention heads together."""
    return shape.num_heads * (shape.head_dim or shape.hidden_size // shape.num_heads)


def _get_weights_itemsize(model_plan: ModelPlan) -> int:
    """Bytes of a frozen weight."""
    return FP32_BYTES if model_plan.weights_dtype == "fp32" else 2


def _get_activation_itemsize(model_plan: ModelPlan) -> int:
    """Bytes of an activation."""
    return 2 if model_plan.precision == "bf16" else FP32_BYTES
