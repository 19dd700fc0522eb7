"""The planner: what is requested, what is derived, what is refused; and the summary of a plan."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError, UsageError
from dlm.plan.fit_table import make_fake_gpu
from dlm.plan.hardware import GIB, Gpu, Hardware, detect_hardware
from dlm.plan.memory import count_trainable_parameters
from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec
from dlm.plan.planner import MAX_COPIED_BYTES, estimate_disk_bytes, make_plan
from dlm.plan.summary import summarize_plan
from dlm.plan.types import CliOverrides, Plan, SequenceLengths, SummaryLine, TrainSetInfo
from tests.tiny_models import LAPTOP, make_tiny_spec

H200 = Gpu("NVIDIA H200", 140 * GIB, 138 * GIB, bf16=True)
OLD_GPU = Gpu("Tesla P100", 16 * GIB, 15 * GIB, bf16=False)
SERVER = replace(LAPTOP, memory=128 * GIB, free_memory=120 * GIB, bf16=True, gpus=(H200,))
QWEN = MODEL_CATALOG["qwen2-audio-7b-instruct"]


def plan_run(
    num_examples: int = 100,
    *,
    spec: ModelSpec | None = None,
    hardware: Hardware = LAPTOP,
    train_set: TrainSetInfo | None = None,
    cli_overrides: CliOverrides | None = None,
    field_overrides: Mapping[str, object] | None = None,
    **training: object,
) -> Plan:
    return make_plan(
        TrainingConfig(**training),
        spec or make_tiny_spec(),
        train_set or TrainSetInfo(num_examples),
        hardware,
        cli_overrides=cli_overrides or CliOverrides(),
        field_overrides=field_overrides,
    )


def plan_on_gpu(
    gib: int, spec: ModelSpec = QWEN, num_examples: int = 100, **training: object
) -> Plan:
    hardware = replace(SERVER, gpus=(make_fake_gpu(gib),))
    return plan_run(num_examples, spec=spec, hardware=hardware, **training)


def summarize_by_name(plan: Plan) -> dict[str, SummaryLine]:
    return {line.name: line for line in summarize_plan(plan)}


def test_model_defaults_fill_what_the_document_leaves_open() -> None:
    plan = plan_run(100)
    assert plan.model.adapter.kind == "full"
    assert plan.model.adapter.components == ("encoder", "projector", "lm")
    assert plan.training.learning_rate == 3e-3
    assert (plan.batches.global_batch_size, plan.batches.micro_batch_size) == (8, 8)
    assert plan.training.num_steps == 2 * 13
    assert plan.training.warmup_steps == round(26 * 0.1)
    assert (plan.model.seed, plan.batches.seed, plan.training.seed) == (42, 42, 42)
    assert (plan.model.device, plan.model.precision) == ("cpu", "fp32")
    assert not plan.batches.use_cached_features


def test_document_overrides_model_defaults() -> None:
    plan = plan_run(
        100,
        adapter="lora",
        lora_r=4,
        lora_alpha=12,
        lora_dropout=0.1,
        lora={"where": ["lm", "projector"]},
        target_modules=["q_proj"],
        learning_rate=1e-3,
        rates={"lora": 2e-4},
        num_epochs=5,
        micro_batch_size=2,
        grad_accum=3,
        lr_scheduler="linear",
        warmup_ratio=0.0,
        sequence_len=512,
        max_grad_norm=0.5,
        weight_decay=0.01,
        seed=7,
        stability={"max_skipped_steps": 2},
    )
    adapter, training = plan.model.adapter, plan.training
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.dropout) == ("lora", 4, 12, 0.1)
    assert (adapter.components, adapter.target_modules) == (("lm", "projector"), ("q_proj",))
    assert (plan.batches.global_batch_size, plan.batches.micro_batch_size) == (6, 2)
    assert training.num_steps == 5 * 17
    assert (training.learning_rate, training.learning_rates) == (1e-3, {"lora": 2e-4})
    assert (training.lr_scheduler, training.warmup_steps) == ("linear", 0)
    assert (training.max_grad_norm, training.weight_decay) == (0.5, 0.01)
    assert (training.max_skipped_steps, training.seed, plan.batches.max_tokens) == (2, 7, 512)
    assert plan.batches.use_cached_features, "the encoder is frozen"


def test_command_line_overrides_the_document() -> None:
    overrides = CliOverrides(steps=9, seed=0, device="cpu")
    plan = plan_run(
        100, hardware=SERVER, cli_overrides=overrides, num_epochs=5, seed=7, save_steps=3
    )
    assert (plan.training.num_steps, plan.training.save_steps) == (9, 3)
    assert (plan.model.seed, plan.batches.seed, plan.training.seed) == (0, 0, 0)
    assert plan.training.device == plan.model.device == "cpu"
    assert plan_run(100, num_epochs=5).training.num_steps == 5 * 13


@pytest.mark.parametrize("overrides", [{"steps": 0}, {"steps": -1}, {"seed": -1}])
def test_impossible_overrides_are_refused(overrides: dict[str, int]) -> None:
    ((name, value),) = overrides.items()
    with pytest.raises(UsageError, match=f"{name} is {value}") as caught:
        plan_run(cli_overrides=CliOverrides(**overrides))
    assert caught.value.code == "usage.out_of_range"


@pytest.mark.parametrize("num_examples", [1, 3, 8, 9])
def test_small_sets_have_small_steps(num_examples: int) -> None:
    plan = plan_run(num_examples)
    assert plan.batches.global_batch_size == min(num_examples, 8)
    assert plan.training.num_steps == 2 * -(-num_examples // 8)


@pytest.mark.parametrize(
    ("kind", "components"),
    [("full", ("encoder", "projector", "lm")), ("projector", ("projector",)), ("dora", ("lm",))],
)
def test_adapter_names_the_trained_components(kind: str, components: tuple[str, ...]) -> None:
    adapter = plan_run(adapter=kind).model.adapter
    assert adapter.components == components
    assert adapter.is_trainable("encoder") == ("encoder" in components)


def test_features_of_a_trained_encoder_are_not_cached() -> None:
    assert plan_run(adapter="projector").batches.use_cached_features
    trains_encoder = {"adapter": "lora", "lora": {"where": ["lm", "encoder"]}}
    assert not plan_run(**trains_encoder).batches.use_cached_features


@pytest.mark.parametrize(
    ("hardware", "requested", "precision", "why"),
    [
        (LAPTOP, None, "fp32", "this machine has no fast bf16"),
        (replace(LAPTOP, bf16=True), None, "bf16", "this machine multiplies bf16 fast"),
        (replace(LAPTOP, bf16=True), "fp32", "fp32", "the document sets it"),
        (LAPTOP, "bf16", "bf16", "the document sets it"),
        (SERVER, None, "bf16", "this machine multiplies bf16 fast"),
        (replace(SERVER, gpus=(OLD_GPU,)), None, "fp32", "this machine has no fast bf16"),
    ],
)
def test_precision_is_the_requested_or_the_fast_one(
    hardware: Hardware, requested: str | None, precision: str, why: str
) -> None:
    plan = plan_run(hardware=hardware, **({"precision": requested} if requested else {}))
    assert (plan.model.precision, plan.training.precision) == (precision, precision)
    assert summarize_by_name(plan)["device"].why == why


def test_large_frozen_weights_are_held_in_bf16() -> None:
    assert plan_run(spec=QWEN, hardware=SERVER).model.weights_dtype == "bf16"
    assert plan_run(hardware=SERVER).model.weights_dtype == "fp32"


@pytest.mark.parametrize(
    ("gib", "spec", "micro_batch_size", "checkpointing"),
    [
        (24, QWEN, 1, True),  # the GPU of the recipe
        (48, QWEN, 2, False),
        (80, QWEN, 4, False),
        (16, MODEL_CATALOG["voxtral-mini-3b"], 1, False),
        (80, MODEL_CATALOG["voxtral-small-24b"], 2, False),
    ],
)
def test_memory_decides_micro_batch_size_and_gradient_checkpointing(
    gib: int, spec: ModelSpec, micro_batch_size: int, checkpointing: bool
) -> None:
    plan = plan_on_gpu(gib, spec)
    assert plan.batches.micro_batch_size == micro_batch_size
    assert plan.batches.global_batch_size == 4
    assert plan.model.gradient_checkpointing == checkpointing
    assert plan.memory.total <= gib * GIB * 15 // 16
    assert plan.batches.max_batch_tokens >= micro_batch_size * 600
    lines = summarize_by_name(plan)
    short_examples = f", or more of short rows, up to {plan.batches.max_batch_tokens:,} tokens"
    why = f"micro-batch {micro_batch_size} x {4 // micro_batch_size}"
    assert lines["batch"].why == why + short_examples * (micro_batch_size < 4)
    assert ("with gradient checkpointing, to fit" in lines["memory"].why) == checkpointing


def test_number_of_examples_does_not_change_the_micro_batch_size() -> None:
    assert plan_on_gpu(24, num_examples=5).batches == plan_on_gpu(24).batches
    batches = plan_on_gpu(80, num_examples=3).batches
    assert (batches.micro_batch_size, batches.global_batch_size) == (3, 3)


def test_longer_sequences_make_smaller_batches() -> None:
    long_sequences = TrainSetInfo(9, lengths=SequenceLengths(2048, 1500, 500))
    hardware = replace(SERVER, gpus=(make_fake_gpu(48),))
    plan = plan_run(spec=QWEN, hardware=hardware, train_set=long_sequences)
    assert plan.batches.micro_batch_size == 1
    assert plan_on_gpu(48, num_examples=9).batches.micro_batch_size == 2


@pytest.mark.parametrize(("gib", "smallest", "largest"), [(24, 2, 8), (80, 16, 16)])
def test_evaluation_after_training_fits_too(gib: int, smallest: int, largest: int) -> None:
    """Generating sixteen sequences takes 8 GiB of keys and values beside the weights."""
    assert smallest <= plan_on_gpu(gib).eval_batch_size <= largest
    assert plan_on_gpu(80, eval_batch_size=3).eval_batch_size == 3
    assert plan_run().eval_batch_size == 16


def test_requested_batch_sizes_are_used_or_refused() -> None:
    plan = plan_on_gpu(80, micro_batch_size=2, gradient_checkpointing=True)
    assert plan.model.gradient_checkpointing
    assert (plan.batches.micro_batch_size, plan.batches.global_batch_size) == (2, 4)
    assert "as set" in summarize_by_name(plan)["memory"].why
    assert not plan_on_gpu(80, gradient_checkpointing=False).model.gradient_checkpointing
    for training, sizes in (
        ({"micro_batch_size": 1, "grad_accum": 7}, (1, 7)),
        ({"grad_accum": 6}, (1, 6)),
    ):
        batches = plan_on_gpu(80, **training).batches
        assert (batches.micro_batch_size, batches.global_batch_size) == sizes
    hint = "micro_batch_size: 1 with gradient_checkpointing: true"
    for training, words in (
        ({"gradient_checkpointing": False}, "needs about"),
        ({"micro_batch_size": 64}, hint),
    ):
        with pytest.raises(PlanError, match=words) as caught:
            plan_on_gpu(24, **training)
        assert caught.value.code == "plan.memory_too_small"


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_qlora_quantizes_the_language_model(bits: int | None) -> None:
    plan = plan_on_gpu(24, adapter="qlora", bits=bits)
    assert (plan.model.adapter.kind, plan.model.adapter.bits) == ("lora", bits or 4)
    trained = summarize_by_name(plan)["learns"].value
    assert trained == f"qlora, rank 8 on lm, the language model in {bits or 4} bits"
    assert plan_on_gpu(24, adapter="lora").model.adapter.bits is None


def test_bits_without_qlora_are_refused() -> None:
    with pytest.raises(PlanError, match=r"training.bits is 8, and training.adapter is lora; use"):
        plan_on_gpu(24, adapter="lora", bits=8)


def test_frozen_encoder_cannot_be_all_that_is_trained() -> None:
    plan = plan_run(adapter="full", freeze_encoder=True)
    assert plan.model.adapter.components == ("projector", "lm")
    assert plan.batches.use_cached_features
    with pytest.raises(PlanError, match="nothing would"):
        plan_run(adapter="lora", lora={"where": ["encoder"]}, freeze_encoder=True)


def test_full_training_takes_16_bytes_a_parameter() -> None:
    with pytest.raises(PlanError, match="what fits: .*base_model: sparrow") as caught:
        plan_on_gpu(1, adapter="full")
    required_gib = float(str(caught.value).split("about ")[1].split(" GiB")[0])
    assert required_gib * GIB > QWEN.sizes.num_parameters * 16
    plan = plan_run(adapter="full")
    assert plan.memory.trainable == plan.model.spec.sizes.num_parameters * 16


def test_used_memory_of_a_gpu_does_not_change_the_plan() -> None:
    """So that --resume makes the same plan while other processes use some of it."""
    used = replace(make_fake_gpu(80), free_memory=50 * GIB)
    plan = plan_run(spec=QWEN, hardware=replace(SERVER, gpus=(used,)))
    assert plan.batches == plan_on_gpu(80).batches
    full = replace(used, free_memory=30 * GIB)
    with pytest.raises(PlanError, match=r"and 30\.0 GiB are free; what fits: micro_batch_size: 1"):
        plan_run(spec=QWEN, hardware=replace(SERVER, gpus=(full,)))


def test_device_map_spreads_a_pretrained_model_over_all_gpus() -> None:
    four_gpus = replace(SERVER, gpus=(make_fake_gpu(16),) * 4)
    with pytest.raises(PlanError) as caught:
        plan_run(spec=QWEN, hardware=four_gpus)
    assert caught.value.code == "plan.memory_too_small"
    plan = plan_run(spec=QWEN, hardware=four_gpus, device_map="auto")
    assert plan.model.device_map == "auto"
    assert "spread over all of them" in summarize_by_name(plan)["device"].value
    with pytest.raises(PlanError) as caught:
        plan_run(device_map="auto")
    assert caught.value.code == "plan.device_map_of_composed"


@pytest.mark.parametrize(
    ("device", "code"), [("cuda", "plan.no_cuda"), ("tpu", "plan.unknown_device")]
)
def test_device_that_is_not_there_is_refused(device: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_run(cli_overrides=CliOverrides(device=device))
    assert caught.value.code == code and caught.value.hint


def test_gpu_is_used_where_there_is_one() -> None:
    assert plan_run(hardware=SERVER).model.device == "cuda"


def test_memory_is_that_of_the_device_the_model_runs_on() -> None:
    with pytest.raises(PlanError, match=r"needs about \d+\.\d GiB of memory and 12\.0 GiB are"):
        plan_run(spec=QWEN)
    full_gpu = replace(SERVER, gpus=(replace(H200, free_memory=1 << 20),))
    sizes = replace(make_tiny_spec().sizes, embedding=10_000_000)
    spec = replace(make_tiny_spec(), sizes=sizes)
    with pytest.raises(PlanError, match="and 1 MiB are free"):
        plan_run(spec=spec, hardware=full_gpu)
    plan_run(spec=spec, hardware=full_gpu, cli_overrides=CliOverrides(device="cpu"))


def test_run_that_fills_the_disk_is_refused() -> None:
    train_set = TrainSetInfo(100, recording_bytes=GIB)
    small = replace(LAPTOP, free_disk=GIB // 2)
    with pytest.raises(PlanError, match=r"writes about 1\.0 GiB and 512 MiB are free; free some"):
        plan_run(train_set=train_set, hardware=small)
    num_bytes = estimate_disk_bytes(plan_run(train_set=train_set))
    plan_run(train_set=train_set, hardware=replace(LAPTOP, free_disk=num_bytes))
    with pytest.raises(PlanError) as caught:
        plan_run(train_set=train_set, hardware=replace(LAPTOP, free_disk=num_bytes - 1))
    assert caught.value.code == "plan.disk_too_small"


def test_recordings_above_a_limit_are_not_copied() -> None:
    for num_bytes, copied in ((MAX_COPIED_BYTES, True), (MAX_COPIED_BYTES + 1, False)):
        plan = plan_run(train_set=TrainSetInfo(100, recording_bytes=num_bytes))
        assert plan.copy_recordings == copied
        assert (estimate_disk_bytes(plan) > num_bytes) == copied
        assert ("recordings" in summarize_by_name(plan)) != copied
    line = summarize_by_name(plan)["recordings"]
    assert line.value == "4.0 GiB, not copied into the store"


def test_lora_trains_fewer_parameters() -> None:
    num_lora = count_trainable_parameters(plan_run(adapter="lora").model)
    assert num_lora < count_trainable_parameters(plan_run(adapter="full").model)


def test_stages_have_steps_and_rates_of_their_own() -> None:
    stages = [
        {"train": ["projector"], "steps": 3, "learning_rate": 0.1, "clips": ["a*"]},
        {"train": ["projector", "lora"], "epochs": 2, "rates": {"lora": 0.5}},
    ]
    lora = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}}
    train_set = TrainSetInfo(100, num_stage_examples=(9, 100))
    plan = plan_run(train_set=train_set, stages=stages, warmup_ratio=0.5, **lora)
    assert plan.training.num_steps == 3 + 26
    first, second = plan.training.stages
    assert (first.num_steps, first.learning_rate, first.warmup_steps) == (3, 0.1, 2)
    assert (first.example_patterns, first.trainable_groups) == (("a*",), ("projector",))
    assert (second.num_steps, second.learning_rate) == (26, 3e-3)
    assert second.learning_rates == {"lora": 0.5}
    lines = summarize_by_name(plan)
    assert lines["steps"].why == "2 stages" and "rate" not in lines
    assert lines["stage 1"].value == "projector: 3 steps over 9 clips"
    with pytest.raises(UsageError) as caught:
        plan_run(train_set=train_set, stages=stages, cli_overrides=CliOverrides(steps=1), **lora)
    assert caught.value.code == "usage.steps_with_stages"


def test_summary_lists_every_number() -> None:
    lines = summarize_by_name(plan_run(100, adapter="lora", seed=5))
    assert list(lines) == ["base", "learns", "device", "memory", "batch", "steps", "rate", "seed"]
    assert lines["base"].value.startswith("tiny")
    assert lines["learns"].value == "lora, rank 8 on lm"
    assert lines["device"].value == "cpu, fp32"
    assert (lines["batch"].value, lines["batch"].why) == ("8 clips a step", "micro-batch 8 x 1")
    assert lines["steps"].value == "26" and "100 clips" in lines["steps"].why
    assert lines["rate"].value == "0.003" and "cosine, 3 steps of warm-up" in lines["rate"].why
    assert lines["seed"].value == "5"
    assert "no warm-up" in summarize_by_name(plan_run(warmup_ratio=0.0))["rate"].why


def test_summary_names_weights_and_overrides() -> None:
    weighted = TrainSetInfo(12, weight_groups=((2.5, 4, 10), (0.5, 4, 2)))
    lines = summarize_by_name(plan_run(train_set=weighted, field_overrides={"training.seed": 7}))
    assert lines["weights"].value == "4 at 2.5 come 10 times, 4 at 0.5 come 2 times"
    assert lines["asked for"].value == "training.seed = 7"
    unweighted = TrainSetInfo(12, weight_groups=((1.0, 12, 12),))
    assert "weights" not in summarize_by_name(plan_run(train_set=unweighted))


def test_hardware_of_this_machine_is_detected(tmp_path: Path) -> None:
    hardware = detect_hardware(tmp_path / "not" / "there" / "yet")
    assert hardware.cores >= 1 and hardware.free_disk > 0
    assert 0 < hardware.free_memory <= hardware.memory
    assert hardware.default_device == ("cuda" if hardware.gpus else "cpu")
    assert hardware.bf16 or not hardware.amx
