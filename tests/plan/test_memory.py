"""The memory estimate against tiny models: weights, optimizer state, activations, generation."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import is_tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from dlm.batching.collator import Batch
from dlm.data.types import AudioSegment, Example, Message
from dlm.models.adapters import get_trainable_parameters
from dlm.models.load import load_base_model, load_model
from dlm.plan.fit_table import choose_frozen_dtype
from dlm.plan.hardware import GIB, format_bytes
from dlm.plan.memory import (
    choose_eval_batch_size,
    compute_quantized_bytes,
    count_trainable_parameters,
    estimate_activation_bytes,
    estimate_frozen_bytes,
    estimate_memory,
    estimate_sequence_lengths,
)
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec, ParameterCounts, TransformerShape, read_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec, ModelPlan, SequenceLengths, TrainingPlan
from dlm.training.loss import AudioLMLoss
from dlm.training.optimizer import build_optimizer
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin
from tests.tiny_models import make_tiny_config, write_tiny_model

FAMILIES = ("stitched", *TWIN_BUILDERS)
ALL_COMPONENTS = ("encoder", "projector", "lm")
TRAINING = TrainingPlan(
    num_steps=1,
    learning_rate=1e-3,
    learning_rates={},
    weight_decay=0.0,
    max_grad_norm=1.0,
    lr_scheduler="constant",
    warmup_steps=0,
    max_skipped_steps=1,
    save_interval_seconds=60.0,
    save_steps=None,
    precision="fp32",
    device="cpu",
    seed=0,
)


@pytest.fixture(scope="module", autouse=True)
def get_spec(tmp_path_factory: pytest.TempPathFactory):
    """The spec of a model of each family, made when it is first used."""

    @cache
    def make_spec(family: str) -> ModelSpec:
        folder = tmp_path_factory.mktemp(family)
        if family == "stitched":
            return read_composed_spec(write_tiny_model(folder, config=make_wide_config()))
        return resolve_model_spec(str(write_pretrained_twin(family, folder)), Path())

    return make_spec


def make_wide_config() -> dict:
    """The tiny composed model, wide enough that activations outweigh what is fixed."""
    config = make_tiny_config()
    config["encoders"][0]["config"] |= {"d_model": 64, "encoder_ffn_dim": 256, "encoder_layers": 2}
    config["lm"] |= {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
    return config


def read_composed_spec(folder: Path) -> ModelSpec:
    """The spec of a composed model, with the sizes it really has."""
    model, config = load_base_model(read_model_spec(folder)), make_wide_config()
    lm, encoder_config = config["lm"], config["encoders"][0]["config"]
    num_embedding = model.embed_tokens.weight.numel()
    sizes = ParameterCounts(
        encoder=TransformerShape(
            count_parameters(model.encoder),
            num_layers=2,
            hidden_size=64,
            intermediate_size=256,
            num_heads=2,
            num_kv_heads=2,
        ),
        projector=count_parameters(model.projector),
        lm=TransformerShape(
            count_parameters(model.decoder) - num_embedding,
            num_layers=lm["num_hidden_layers"],
            hidden_size=lm["hidden_size"],
            intermediate_size=lm["intermediate_size"],
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
        ),
        embedding=num_embedding,
        vocab_size=lm["vocab_size"],
    )
    assert encoder_config["d_model"] == sizes.encoder.hidden_size
    return replace(read_model_spec(folder), source=str(folder), sizes=sizes)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_model_plan(
    spec: ModelSpec, adapter_kind: str = "lora", *components: str, **changes: object
) -> ModelPlan:
    adapter = AdapterSpec(adapter_kind, 8, 16, 0.05, components or ("lm",), None)
    fields = {name: changes.pop(name) for name in list(changes) if name in vars(adapter)}
    return ModelPlan(spec, replace(adapter, **fields), "cpu", "fp32", "fp32", 0, **changes)


@pytest.mark.parametrize(
    ("family", "adapter_kind", "components", "changes"),
    [
        *((family, "dora", ("lm", "projector"), {"rank": 3}) for family in FAMILIES),
        ("stitched", "lora", ("lm",), {}),
        ("qwen2_audio", "lora", ("lm",), {"target_modules": ("q_proj", "mlp.down_proj")}),
        ("qwen2_audio", "projector", ("projector",), {}),
    ],
)
def test_weights_and_optimizer_state_are_counted_to_the_byte(
    get_spec, family: str, adapter_kind: str, components: tuple[str, ...], changes: dict
) -> None:
    plan = make_model_plan(get_spec(family), adapter_kind, *components, **changes)
    model = load_model(plan)
    trainable = get_trainable_parameters(model)
    assert count_trainable_parameters(plan) == sum(
        parameter.numel() for parameter in trainable.values()
    )
    frozen = [parameter for name, parameter in model.named_parameters() if name not in trainable]
    assert estimate_frozen_bytes(plan) == sum(parameter.nbytes for parameter in frozen)
    assert (
        measure_trainable_bytes(model)
        == estimate_memory(plan, SequenceLengths(8, 4, 2), 1).trainable
    )


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio", "audioflamingo3"])
def test_lora_of_the_encoder_is_counted(get_spec, family: str) -> None:
    plan = make_model_plan(get_spec(family), "dora", "encoder", "lm")
    assert count_trainable_parameters(plan) == sum(
        parameter.numel() for parameter in get_trainable_parameters(load_model(plan)).values()
    )


@pytest.mark.parametrize(
    "targets", [("self_attn.q_proj", "fc1"), ("v_proj",), ("encoder_attn.k_proj",)]
)
def test_lora_on_some_layers_of_a_decoder_with_cross_attention_is_counted(
    get_spec, targets: tuple[str, ...]
) -> None:
    plan = make_model_plan(get_spec("whisper"), "lora", "lm", target_modules=targets)
    assert count_trainable_parameters(plan) == sum(
        parameter.numel() for parameter in get_trainable_parameters(load_model(plan)).values()
    )


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio"])
def test_full_training_counts_all_but_fixed_positions(get_spec, family: str) -> None:
    plan = make_model_plan(get_spec(family), "full", *ALL_COMPONENTS)
    model = load_model(plan)
    positions = [
        parameter for name, parameter in model.named_parameters() if "embed_positions" in name
    ]
    trainable = sum(parameter.numel() for parameter in get_trainable_parameters(model).values())
    assert count_trainable_parameters(plan) == trainable + sum(
        parameter.numel() for parameter in positions
    )
    assert estimate_frozen_bytes(plan) == 0


def measure_trainable_bytes(model) -> int:
    """Bytes of trained parameters, gradients and Adam's moments after a step."""
    optimizer, trainable = build_optimizer(model, TRAINING), get_trainable_parameters(model)
    for parameter in trainable.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [
        state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
    ]
    grads = [parameter.grad for parameter in trainable.values()]
    return sum(parameter.nbytes for parameter in (*trainable.values(), *grads, *moments))


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio"])
def test_frozen_weights_in_bf16_are_counted_to_the_byte(get_spec, family: str) -> None:
    plan = replace(make_model_plan(get_spec(family)), weights_dtype="bf16")
    model = load_model(plan)
    trainable = get_trainable_parameters(model)
    frozen = [parameter for name, parameter in model.named_parameters() if name not in trainable]
    assert estimate_frozen_bytes(plan) == sum(parameter.nbytes for parameter in frozen)
    projector_ids = (
        {id(parameter) for parameter in model.projector.parameters()}
        if family == "stitched"
        else set()
    )
    assert {parameter.dtype for parameter in frozen if id(parameter) not in projector_ids} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_counted_to_the_byte(get_spec, family: str, bits: int) -> None:
    plan = make_model_plan(get_spec(family), bits=bits)
    model = load_model(plan)
    trainable = get_trainable_parameters(model)
    frozen = [parameter for name, parameter in model.named_parameters() if name not in trainable]
    assert estimate_frozen_bytes(plan) == sum(map(count_quantized_bytes, frozen))


def count_quantized_bytes(weights: nn.Parameter) -> int:
    """Bytes of a parameter with its scales."""
    attributes = vars(weights)
    if attributes.get("quant_state") is not None:
        state = attributes["quant_state"]
        inner = state.state2
        scales = (state.absmax, state.code, state.offset, inner.absmax, inner.code)
        return weights.nbytes + sum(tensor.nbytes for tensor in scales)
    return weights.nbytes + (attributes["SCB"].nbytes if attributes.get("SCB") is not None else 0)


def test_bytes_of_a_quantized_matrix() -> None:
    assert compute_quantized_bytes(4096 * 4096, 4096, 8) == 4096 * 4096 + 4 * 4096
    bytes_per_weight = compute_quantized_bytes(4096 * 4096, 4096, 4) / 4096**2
    assert 0.5156 < bytes_per_weight < 0.516  # 4.127 bits (Dettmers et al. 2023, section 3)
    assert compute_quantized_bytes(1, 1, 4) == 1 + 1 + 4 + 1092


def make_batch(
    model, num_tokens: int, num_audio_tokens: int, num_labels: int, num_examples: int
) -> Batch:
    """Sequences of these lengths, with log-mels or, where the encoder is frozen, its output."""
    audio_spec, num_windows = model.spec.audio_spec, num_examples
    input_ids = torch.full((num_examples, num_tokens), 5)
    input_ids[:, :num_audio_tokens] = model.audio_token_id
    labels = torch.full((num_examples, num_tokens), -100)
    labels[:, num_tokens - num_labels :] = 5
    num_frames = num_audio_tokens * audio_spec.projector_stride
    encoder_trained = any(
        name.startswith(model.param_prefixes["encoder"]) for name in get_trainable_parameters(model)
    )
    num_mel_frames = num_frames * audio_spec.encoder_stride
    num_mel_bins, hidden_size = model.spec.num_mel_bins, model.spec.sizes.encoder.hidden_size
    shape = (
        (num_windows, num_mel_bins, num_mel_frames + audio_spec.right_context)
        if encoder_trained
        else (num_windows, num_frames, hidden_size)
    )
    length = (
        num_mel_frames
        if encoder_trained
        else num_audio_tokens
        if audio_spec.floor_tokens
        else num_frames
    )
    return Batch(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        labels=labels,
        audio_features=torch.zeros(shape),
        audio_lengths=torch.full((num_windows,), length),
        audio_token_counts=torch.full((num_windows,), num_audio_tokens),
        is_encoded=not encoder_trained,
        locations=("x",) * num_examples,
        windows_per_example=(1,) * num_examples,
        num_audio_samples=0,
        transcript_mask=(True,) * num_examples,
        teacher_examples=(None,) * num_examples,
    )


class PeakMemoryMeter(TorchDispatchMode):
    """Records the most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live_storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        self.live_storages = {
            key: value for key, value in self.live_storages.items() if not value[0].expired()
        }
        input_storages = {
            value.untyped_storage()._cdata for value in tree_leaves(args) if is_tensor(value)
        }
        for value in filter(is_tensor, tree_leaves(outputs)):
            storage = value.untyped_storage()
            if storage._cdata not in input_storages:
                self.live_storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak_bytes = max(
            self.peak_bytes, sum(num_bytes for _, num_bytes in self.live_storages.values())
        )
        return outputs


def measure_peak_bytes(model, batch: Batch, *, use_bf16: bool) -> int:
    """The most bytes alive at once in a step, without weights and their gradients."""
    for parameter in get_trainable_parameters(model).values():
        parameter.grad = torch.zeros_like(parameter)
    model.train()
    with PeakMemoryMeter() as meter:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bf16):
            loss = AudioLMLoss(model)(batch).total_loss.sum()
        loss.backward()
    return meter.peak_bytes


CASES = [
    ("lora", ("lm",), {}, 1.25),
    ("lora", ("lm",), {"dropout": 0.0}, 1.25),
    ("lora", ("lm",), {"precision": "bf16"}, 1.25),
    ("lora", ("lm",), {"precision": "bf16", "bits": 4}, 1.25),
    ("full", ALL_COMPONENTS, {"precision": "bf16"}, 1.25),
    ("lora", ("encoder", "lm"), {}, 1.25),
    ("dora", ("lm",), {}, 1.25),
    ("projector", ("projector",), {}, 1.25),
    ("lora", ("lm",), {"bits": 4}, 1.25),
    ("lora", ("lm",), {"bits": 8}, 1.25),
    ("full", ALL_COMPONENTS, {}, 1.25),
    ("lora", ("lm",), {"gradient_checkpointing": True}, 1.25),
    ("lora", ("lm",), {"gradient_checkpointing": True, "bits": 8}, 1.25),
    ("dora", ("lm",), {"gradient_checkpointing": True}, 1.25),
    (
        "full",
        ALL_COMPONENTS,
        {"gradient_checkpointing": True},
        1.7,
    ),  # a layer of each transformer, one after the other
]


@pytest.mark.parametrize(
    ("adapter_kind", "components", "changes", "max_ratio"),
    CASES,
    ids=lambda parameter: str(parameter).replace(" ", ""),
)
def test_activations_are_bounded(
    get_spec, adapter_kind: str, components: tuple[str, ...], changes: dict, max_ratio: float
) -> None:
    """The estimate is never below the measured peak, and at most `max_ratio` times as much."""
    fields = {name: value for name, value in changes.items() if name != "precision"}
    plan = make_model_plan(get_spec("stitched"), adapter_kind, *components, **fields)
    precision = changes.get("precision", "fp32")
    plan = replace(
        plan, precision=precision, weights_dtype=choose_frozen_dtype(plan.adapter, precision)
    )
    lengths, num_examples = SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40), 2
    model = load_model(plan)
    measured = measure_peak_bytes(
        model,
        make_batch(
            model, lengths.num_tokens, lengths.num_audio_tokens, lengths.num_labels, num_examples
        ),
        use_bf16=plan.precision == "bf16",
    )
    estimate = estimate_activation_bytes(plan, lengths, num_examples)
    assert measured <= estimate <= max_ratio * measured


def test_memory_of_generation_is_bounded(get_spec) -> None:
    """Keys, values and a layer's activations: never underestimated, at most doubled."""
    plan, num_examples, lengths = (
        make_model_plan(get_spec("stitched")),
        4,
        SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=0),
    )
    model = load_model(plan).eval()
    with torch.inference_mode(), PeakMemoryMeter() as meter:
        embeddings = torch.zeros(num_examples, lengths.num_tokens, model.spec.sizes.lm.hidden_size)
        attention_mask = torch.ones(num_examples, lengths.num_tokens, dtype=torch.long)
        model.compute_next_logits(embeddings, attention_mask, DynamicCache())
    fixed_bytes = estimate_frozen_bytes(plan) + estimate_memory(plan, lengths, 1).trainable
    estimate = (
        next(
            available_bytes
            for available_bytes in range(
                fixed_bytes, fixed_bytes + 8 * meter.peak_bytes, meter.peak_bytes // 50
            )
            if choose_eval_batch_size(plan, lengths, 16, available_bytes) == num_examples
        )
        - fixed_bytes
    )
    assert meter.peak_bytes <= estimate <= 2 * meter.peak_bytes


def test_gradient_checkpointing_saves_memory(get_spec) -> None:
    spec, lengths = (
        get_spec("stitched"),
        SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40),
    )
    measured = {}
    for checkpointing in (False, True):
        model = load_model(make_model_plan(spec, gradient_checkpointing=checkpointing))
        measured[checkpointing] = measure_peak_bytes(
            model, make_batch(model, 200, 25, 40, 2), use_bf16=False
        )
    assert measured[True] < 0.85 * measured[False]
    estimate = [
        estimate_activation_bytes(
            make_model_plan(spec, gradient_checkpointing=checkpointing), lengths, 2
        )
        for checkpointing in (False, True)
    ]
    assert estimate[1] < 0.9 * estimate[0]


def test_activations_grow_with_batch_size_and_lengths(get_spec) -> None:
    spec = get_spec("stitched")
    plan, lengths = (
        make_model_plan(spec),
        SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40),
    )
    num_bytes = estimate_activation_bytes(plan, lengths, 1)
    assert estimate_activation_bytes(plan, lengths, 2) > 1.9 * num_bytes - 1_000_000
    for larger in (
        replace(lengths, num_tokens=400),
        replace(lengths, num_labels=80),
        replace(lengths, num_audio_tokens=50),
    ):
        assert estimate_activation_bytes(plan, larger, 1) > num_bytes
    checkpointed = replace(
        plan, gradient_checkpointing=True
    )  # whose last layer runs on all positions
    estimates = [
        estimate_activation_bytes(checkpointed, replace(lengths, num_labels=num_labels), 1)
        for num_labels in (40, 41)
    ]
    assert estimates[1] - estimates[0] == spec.sizes.vocab_size * 12
    assert (
        estimate_activation_bytes(plan, replace(lengths, num_labels=41), 1) - num_bytes
        > spec.sizes.vocab_size * 12
    )
    assert estimate_memory(plan, lengths, 1).runtime == 0
    assert estimate_memory(replace(plan, device="cuda"), lengths, 1).runtime > 0


def test_experts_are_not_quantized() -> None:
    """They are one tensor, which bitsandbytes does not quantize."""
    spec = find_catalog_spec("qwen3-omni-30b-a3b")
    dense, quantized = (
        estimate_frozen_bytes(replace(make_model_plan(spec, bits=bits), weights_dtype="bf16"))
        for bits in (None, 4)
    )
    assert 0.9 * dense < quantized < dense


def make_example(*texts: str, num_segments: int = 1) -> Example:
    segments = (AudioSegment(Path("a.wav")),) * num_segments
    messages = [Message("user", (*segments, texts[0]) if num_segments else (texts[0],))]
    return Example((*messages, Message("assistant", (texts[1],))), "my.dlm:3", "transcribe")


@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b", "qwen3-asr-1.7b"])
def test_short_sequences_count_as_half_a_minute(key: str) -> None:
    spec = find_catalog_spec(key)
    lengths = estimate_sequence_lengths(
        spec, 2048, [make_example("?", "yes")], {"my.dlm:3": (0.5,)}
    )
    assert lengths == estimate_sequence_lengths(spec, 2048)
    assert lengths.num_audio_tokens == round(30 * spec.audio_spec.tokens_per_second)
    assert lengths.num_tokens == lengths.num_audio_tokens + 256


def test_long_sequences_are_bounded_by_their_examples() -> None:
    spec = find_catalog_spec("qwen2-audio-7b-instruct")
    long_example = make_example("", "word " * 400)
    lengths = estimate_sequence_lengths(
        spec, 4096, [make_example("?", "yes"), long_example], {"my.dlm:3": (45.0,)}
    )
    assert (lengths.num_audio_tokens, lengths.num_labels) == (45 * 25, 1000 + 64)
    assert lengths.num_tokens == lengths.num_audio_tokens + lengths.num_labels
    assert (
        estimate_sequence_lengths(spec, 1024, [long_example], {"my.dlm:3": (45.0,)}).num_tokens
        == 1024
    )
    voxtral = find_catalog_spec("voxtral-mini-3b")
    three_segments = estimate_sequence_lengths(
        voxtral, 8192, [make_example("", "yes", num_segments=3)], {"my.dlm:3": (1.0, 2.0, 31.0)}
    )
    assert three_segments.num_audio_tokens == (1 + 1 + 2) * 375, (
        "padding that fills a window counts"
    )


def test_bytes_are_formatted() -> None:
    assert [
        format_bytes(num_bytes) for num_bytes in (1, 5 << 20, 100 << 20, GIB, 17 * GIB + GIB // 2)
    ] == [
        "1 MiB",
        "5 MiB",
        "100 MiB",
        "1.0 GiB",
        "17.5 GiB",
    ]
