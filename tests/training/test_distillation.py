"""Distillation: the divergence, what the teacher reads, its cache, the loss, and its memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.data.load import attach_transcripts
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, PlanError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.plan.memory import estimate_activation_bytes, estimate_sequence_lengths
from dlm.plan.summary import summarize_plan
from dlm.plan.types import AdapterSpec, DistillationPlan, Plan
from dlm.training.distillation import DistillationTeacher, TopKProbs, compute_kl_divergence
from dlm.training.events import StepCompleted
from dlm.training.loss import AudioLMLoss
from tests.plan.test_memory import PeakMemoryMeter
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

VOCAB_SIZE = 260  # the tiny vocabulary
TEXT_EXAMPLE = Example((Message("assistant", ("Once upon a time.",)),), "prose", "text")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with large weights: with small ones all tokens are about as probable."""
    model_dir = write_tiny_model(tmp_path_factory.mktemp("base"), seed=3)
    model = load_composed_model(model_dir).requires_grad_(False)
    for parameter in model.lm.parameters():
        if parameter.ndim > 1:
            parameter.mul_(20.0)
    save_composed_model(model, model_dir)
    return model_dir


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Tones with transcripts, and questions about two of them."""
    transcribed = write_tone_examples(tmp_path_factory.mktemp("clips"), 4)
    questions = [
        Example(
            (
                Message("user", (*example.audio_segments, "How long?")),
                Message("assistant", ("Short.",)),
            ),
            f"{example.location}?",
            "answer",
        )
        for example in transcribed[:2]
    ]
    return list(attach_transcripts([*transcribed, *questions], transcribed))


def make_student(model_dir: Path, adapter: str = "lora") -> ComposedAudioLM:
    """A model with LoRA weights that are not zero."""
    model = load_composed_model(model_dir)
    apply_adapter(model, AdapterSpec(adapter, 4, 8, 0.1, ("lm", "projector"), None), seed=0)
    with torch.no_grad():
        for name, parameter in get_trainable_parameters(model).items():
            if "lora_B" in name:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    return model.eval()


def make_batch(model: ComposedAudioLM, examples: list[Example]) -> Batch:
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    encoded = [chat_encoder.encode_with_teacher(example) for example in examples]
    return collate(
        encoded,
        AudioFeatureExtractor(model.spec, auto_resample=False),
        PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id),
    )


def compute_top_k(logits: torch.Tensor, k: int, temperature: float) -> TopKProbs:
    """The teacher's probabilities by their definition."""
    probs = (logits / temperature).softmax(-1)
    token_ids = logits.topk(k).indices
    top_k_probs = probs.gather(-1, token_ids)
    if k < logits.shape[-1]:
        top_k_probs = torch.cat([top_k_probs, 1 - top_k_probs.sum(-1, keepdim=True)], dim=-1)
    return TopKProbs(token_ids, top_k_probs, torch.tensor([True]))


def draw_logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 40, generator=generator) * 3, torch.randn(7, 40, generator=generator) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_of_the_whole_vocabulary_is_torch_kl_div(temperature: float) -> None:
    student_logits, teacher_logits = draw_logits()
    student_logits.requires_grad_(True)
    student, teacher = (logits / temperature for logits in (student_logits, teacher_logits))
    expected = kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    divergence = compute_kl_divergence(
        student_logits, compute_top_k(teacher_logits, 40, temperature), temperature
    )
    assert torch.allclose(divergence, expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(divergence.sum(), student_logits)
    assert torch.allclose(
        gradient, (student.softmax(-1) - teacher.softmax(-1)) / temperature, atol=1e-6
    )


def test_top_k_leaves_out_the_divergence_among_the_others() -> None:
    """KL is the divergence of the top k and the rest, plus the rest's own divergence, weighted."""
    student_logits, teacher_logits = (logits.double() for logits in draw_logits())
    whole = compute_kl_divergence(student_logits, compute_top_k(teacher_logits, 40, 2.0), 2.0)
    previous = whole + 1e-12
    for k in (39, 20, 5, 1):
        teacher_probs = compute_top_k(teacher_logits, k, 2.0)
        divergence = compute_kl_divergence(student_logits, teacher_probs, 2.0)
        student, teacher = (
            logits.scatter(-1, teacher_probs.token_ids, -torch.inf) / 2.0
            for logits in (student_logits, teacher_logits)
        )
        others = kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").nansum(-1)
        assert torch.allclose(whole - divergence, teacher_probs.probs[:, -1] * others)
        assert (divergence <= previous).all(), "fewer tokens never add divergence"
        previous = divergence
    assert (divergence < 0.9 * whole).all()


def test_teacher_reads_transcripts_in_place_of_audio(
    model_dir: Path, examples: list[Example]
) -> None:
    model = load_composed_model(model_dir)
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    transcription, question = (
        chat_encoder.encode_with_teacher(examples[0]),
        chat_encoder.encode_with_teacher(examples[-1]),
    )
    assert transcription.teacher_example and question.teacher_example
    assert chat_encoder.decode_raw(list(transcription.teacher_example.input_ids)) == (
        "<|im_start|>user\none\nTranscribe.<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
    )
    assert "user\ntwo\nHow long?<|im_end|>" in chat_encoder.decode_raw(
        list(question.teacher_example.input_ids)
    )
    assert (
        transcription.teacher_example.audio_segments == ()
        and transcription.teacher_example.label_ids == transcription.label_ids
    )
    assert chat_encoder.encode_with_teacher(TEXT_EXAMPLE) == chat_encoder.encode_example(
        TEXT_EXAMPLE
    ), "an example without audio has no teacher"
    segment = replace(examples[0].audio_segments[0], transcript="<|im_end|>")
    example = replace(examples[0], messages=(Message("user", (segment,)), examples[0].messages[1]))
    with pytest.raises(DataError, match="special token"):
        chat_encoder.encode_with_teacher(example)


@pytest.mark.parametrize(
    ("adapter", "top_k"), [("lora", VOCAB_SIZE), ("lora", 1000), ("lora", 16), ("dora", 16)]
)
def test_loss_equals_that_of_two_models_in_transformers(
    model_dir: Path, examples: list[Example], tmp_path: Path, adapter: str, top_k: int
) -> None:
    """Against whole logits of the student and of the model without adapters."""
    model, base_model = make_student(model_dir, adapter), load_composed_model(model_dir).eval()
    plan = DistillationPlan(weight=0.25, temperature=2.0, eos_weight=0.5, top_k=top_k)
    mixed_examples = [examples[0], TEXT_EXAMPLE, examples[-1]]
    batch = make_batch(model, mixed_examples)
    losses = AudioLMLoss(model, DistillationTeacher(model, plan, tmp_path))(batch)
    with torch.no_grad():
        student_logits = model.lm(
            inputs_embeds=model.merge_audio_embeddings(batch), attention_mask=batch.attention_mask
        ).logits
    for index, teacher_example in enumerate(batch.teacher_examples):
        label_mask = batch.labels[index, 1:] != -100
        example_logits, labels = (
            student_logits[index, :-1][label_mask],
            batch.labels[index, 1:][label_mask],
        )
        ce_loss = cross_entropy(example_logits, labels, reduction="sum")
        assert torch.allclose(losses.ce_loss[index], ce_loss, rtol=1e-4)
        if teacher_example is None:
            assert losses.total_loss[index] == losses.ce_loss[index]
            assert losses.num_distilled[index] == losses.kl_loss[index] == 0
            continue
        with torch.no_grad():
            teacher_logits = base_model.lm(
                input_ids=torch.tensor([teacher_example.input_ids])
            ).logits[0, :-1]
        teacher_logits = teacher_logits[torch.tensor(teacher_example.labels[1:]) != -100]
        divergence = compute_kl_divergence(
            example_logits, compute_top_k(teacher_logits, min(top_k, VOCAB_SIZE), 2.0), 2.0
        )
        assert divergence.sum() > 0.5, "student and teacher differ"
        assert torch.allclose(losses.kl_loss[index], divergence.sum(), rtol=1e-3)
        assert losses.num_distilled[index] == len(labels)
        eos_divergence = divergence[-1] * len(labels)  # weighs half as much as all labels together
        total_loss = 0.75 * ce_loss + 0.25 * (divergence.sum() + 0.5 * eos_divergence)
        assert torch.allclose(losses.total_loss[index], total_loss, rtol=1e-3)


def test_teacher_does_not_change_the_student(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    model = make_student(model_dir)
    model.train()
    trainable = [name for name in get_trainable_parameters(model) if "projector" not in name]
    for name in get_trainable_parameters(model).keys() - set(trainable):
        model.get_parameter(name).requires_grad_(False)  # as in a stage without it
    batch = make_batch(model, examples)
    modes = {name: module.training for name, module in model.named_modules()}
    rng_state = torch.get_rng_state()
    assert DistillationTeacher(model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path).get_top_k_probs(
        batch.teacher_examples
    )
    assert [name for name in get_trainable_parameters(model)] == trainable
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert not [name for name, module in model.named_parameters() if module.grad is not None]
    torch.manual_seed(0)
    without_teacher = AudioLMLoss(model)(batch).ce_loss
    torch.manual_seed(0)
    with_teacher_loss = AudioLMLoss(
        model, DistillationTeacher(model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path)
    )(batch).ce_loss
    assert torch.equal(without_teacher, with_teacher_loss), "the adapters are enabled again"


def make_plan(model_dir: Path, examples: list[Example], **teacher: object) -> Plan:
    training = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}, "learning_rate": 1e-2}
    return make_tiny_plan(
        model_dir,
        len(examples),
        steps=len(examples),
        teacher={"weight": 1.0, **teacher},
        **training,
    )


def make_setup(
    plan: Plan, examples: list[Example], cache_dir: Path
) -> tuple[TrainingSetup, DistillationTeacher]:
    setup = make_training_setup(plan, examples)
    assert plan.training.distillation
    return setup, DistillationTeacher(setup.model, plan.training.distillation, cache_dir)


def test_each_example_is_read_once_and_at_its_labels(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    """Four epochs: the teacher runs in evaluation mode, on one example at a time."""
    plan = make_plan(model_dir, examples)
    plan = replace(plan, training=replace(plan.training, num_steps=4))
    runs = []
    for run in range(2):
        setup, teacher = make_setup(plan, examples, tmp_path)
        decoder_modes, head_positions = [], []
        setup.model.decoder.register_forward_hook(
            lambda module, inputs, output, decoder_modes=decoder_modes: decoder_modes.append(
                module.training
            )
        )
        setup.model.lm_head.register_forward_hook(
            lambda module, inputs, output, head_positions=head_positions: head_positions.append(
                inputs[0].shape[:-1].numel()
            )
        )
        steps = [
            event
            for event in setup.iter_events(teacher=teacher)
            if isinstance(event, StepCompleted)
        ]
        runs.append(([step.loss for step in steps], [step.kl_loss for step in steps]))
        num_labels = sum(step.num_label_tokens for step in steps)
        num_teacher_labels = steps[0].num_label_tokens if run == 0 else 0
        assert len(steps) == 4 and steps[0].num_label_tokens == sum(map(count_labels, examples))
        assert decoder_modes.count(False) == (len(examples) if run == 0 else 0)
        assert decoder_modes.count(True) == 4
        assert sum(head_positions) == num_labels + num_teacher_labels
    assert runs[0] == runs[1], "cached probabilities are the computed ones"
    assert len(list(tmp_path.iterdir())) == len(examples)


def count_labels(example: Example) -> int:
    return len(example.target) + 1


def test_cache_is_by_language_model(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    other_model_dir = write_tiny_model(tmp_path / "other", seed=4)
    for k, path in enumerate((model_dir, other_model_dir, model_dir), start=1):
        model = make_student(path)
        DistillationTeacher(
            model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path / "kept"
        ).get_top_k_probs(make_batch(model, examples[:1]).teacher_examples)
        assert len(list((tmp_path / "kept").iterdir())) == min(k, 2)


@pytest.mark.parametrize("adapter", ["projector", "lora"])
def test_divergence_falls_without_cross_entropy(
    model_dir: Path, examples: list[Example], tmp_path: Path, adapter: str
) -> None:
    """The cross entropy need not fall: the teacher's answer is not the label."""
    training = {"adapter": adapter, "learning_rate": 1e-2, "warmup_ratio": 0.0, "lora_r": 8}
    lora = {"where": ["lm", "projector"]} if adapter == "lora" else {"where": ["lm"]}
    plan = make_tiny_plan(
        model_dir, len(examples), steps=60, teacher={"weight": 1.0}, lora=lora, seed=1, **training
    )
    setup, teacher = make_setup(plan, examples, tmp_path)
    steps = [
        event for event in setup.iter_events(teacher=teacher) if isinstance(event, StepCompleted)
    ]
    divergences = [step.kl_loss for step in steps]
    assert divergences[-1] < divergences[0] / 4


def test_rank_without_an_example_has_no_teacher_example(
    model_dir: Path, examples: list[Example]
) -> None:
    setup = make_training_setup(make_plan(model_dir, examples[:1]), examples[:1])
    ((encoded,),) = setup.batches.get_step_examples(0, (1, 2))
    assert encoded.teacher_example is None and encoded.label_ids == ()


def test_trained_language_model_is_no_teacher(model_dir: Path) -> None:
    for training in ({"adapter": "full"}, {"adapter": "projector", "top_layers": 1}):
        with pytest.raises(PlanError, match="training.teacher is the language model before"):
            make_tiny_plan(model_dir, 8, teacher={"weight": 0.5}, **training)
        make_tiny_plan(model_dir, 8, teacher={"weight": 0.0}, **training)


def test_plan_and_summary_of_distillation(model_dir: Path) -> None:
    plan = make_tiny_plan(model_dir, 8, adapter="lora", teacher={"weight": 0.5, "top_k": 9})
    (line,) = [line for line in summarize_plan(plan) if line.name == "teacher"]
    assert (line.value, line.why) == (
        "50% of the loss",
        "its 9 most probable tokens at temperature 2",
    )
    assert plan.training.distillation == DistillationPlan(0.5, 2.0, 1.0, 9)
    plan_without = make_tiny_plan(model_dir, 8, adapter="lora")
    assert plan_without.training.distillation is None and not plan_without.batches.distill
    assert plan.batches.distill and "teacher" not in [
        line.name for line in summarize_plan(plan_without)
    ]


def test_transcript_does_not_tell_segments_apart() -> None:
    assert AudioSegment(Path("a.wav"), transcript="x") == AudioSegment(Path("a.wav"))


def test_memory_of_distillation_is_estimated(model_dir: Path) -> None:
    """Bytes for each label and token of the vocabulary, beside those of the cross entropy."""
    plan = make_tiny_plan(model_dir, 8, adapter="projector", teacher={"weight": 0.5}).model
    lengths = estimate_sequence_lengths(plan.spec, 64)
    added_bytes = estimate_activation_bytes(plan, lengths, 1) - estimate_activation_bytes(
        replace(plan, distill=False), lengths, 1
    )
    estimated = added_bytes / (lengths.num_labels * plan.spec.sizes.vocab_size)
    teacher_probs = compute_top_k(torch.randn(50, 2000), 64, 2.0)
    hidden_states, embeddings = torch.randn(50, 8, requires_grad=True), torch.randn(8, 2000)
    measured = []
    for with_teacher in (False, True):
        with PeakMemoryMeter() as meter:
            logits = hidden_states @ embeddings
            loss = cross_entropy(logits, teacher_probs.token_ids[:, 0])
            if with_teacher:
                loss = loss + compute_kl_divergence(logits, teacher_probs, 2.0).sum()
            del logits
            loss.backward()
        measured.append(meter.peak_bytes / (50 * 2000))
    assert measured[1] - measured[0] == pytest.approx(estimated, rel=0.1)
