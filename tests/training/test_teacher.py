"""The language model, reading, as a teacher: its answer, how far one is from it, what it costs."""

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
from tests.plan.test_memory import Meter
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

WORDS = 260  # the tiny vocabulary
PROSE = Example((Message("assistant", ("Once upon a time.",)),), "prose", "text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of strong opinions: a language model of small weights answers all alike."""
    folder = write_tiny_model(tmp_path_factory.mktemp("base"), seed=3)
    model = load_composed_model(folder).requires_grad_(False)
    for each in model.lm.parameters():
        if each.ndim > 1:
            each.mul_(20.0)
    save_composed_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Each tone is asked about twice: what is said, and another question."""
    written = write_tone_examples(tmp_path_factory.mktemp("clips"), 4)
    asked = [
        Example(
            (
                Message("user", (*clip.audio_segments, "How long?")),
                Message("assistant", ("Short.",)),
            ),
            f"{clip.location}?",
            "answer",
        )
        for clip in written[:2]
    ]
    return list(attach_transcripts([*written, *asked], written))


def student(folder: Path, kind: str = "lora") -> ComposedAudioLM:
    """A student whose low-rank weights have learned something already."""
    model = load_composed_model(folder)
    apply_adapter(model, AdapterSpec(kind, 4, 8, 0.1, ("lm", "projector"), None), seed=0)
    with torch.no_grad():
        for name, each in get_trainable_parameters(model).items():
            if "lora_B" in name:
                each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def batch_of(model: ComposedAudioLM, clips: list[Example]) -> Batch:
    chat = ChatEncoder(model.tokenizer, model.spec)
    rows = [chat.encode_with_teacher(clip) for clip in clips]
    return collate(
        rows,
        AudioFeatureExtractor(model.spec, auto_resample=False),
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )


def kept(logits: torch.Tensor, count: int, temperature: float) -> TopKProbs:
    """An answer by its definition."""
    shares = (logits / temperature).softmax(-1)
    words = logits.topk(count).indices
    near = shares.gather(-1, words)
    if count < logits.shape[-1]:
        near = torch.cat([near, 1 - near.sum(-1, keepdim=True)], dim=-1)
    return TopKProbs(words, near, torch.tensor([True]))


def two_answers() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(7, 40, generator=drawn) * 3, torch.randn(7, 40, generator=drawn) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_words_it_is_the_divergence_of_torch(temperature: float) -> None:
    mine, theirs = two_answers()
    mine.requires_grad_(True)
    said, meant = (each / temperature for each in (mine, theirs))
    plain = kl_div(said.log_softmax(-1), meant.softmax(-1), reduction="none").sum(-1)
    ours = compute_kl_divergence(mine, kept(theirs, 40, temperature), temperature)
    assert torch.allclose(ours, plain, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), mine)
    assert torch.allclose(gradient, (said.softmax(-1) - meant.softmax(-1)) / temperature, atol=1e-6)


def test_what_is_left_out_is_the_divergence_among_the_others() -> None:
    """KL = the kept words and one for the rest, plus the rest's share of its own divergence."""
    mine, theirs = (each.double() for each in two_answers())
    whole = compute_kl_divergence(mine, kept(theirs, 40, 2.0), 2.0)
    before = whole + 1e-12
    for count in (39, 20, 5, 1):
        answer = kept(theirs, count, 2.0)
        told = compute_kl_divergence(mine, answer, 2.0)
        said, meant = (
            each.scatter(-1, answer.token_ids, -torch.inf) / 2.0 for each in (mine, theirs)
        )
        others = kl_div(said.log_softmax(-1), meant.softmax(-1), reduction="none").nansum(-1)
        assert torch.allclose(whole - told, answer.probs[:, -1] * others)
        assert (told <= before).all(), "fewer words never tell more"
        before = told
    assert (told < 0.9 * whole).all()


def test_it_reads_what_is_said_where_the_student_hears(folder: Path, clips: list[Example]) -> None:
    model = load_composed_model(folder)
    chat = ChatEncoder(model.tokenizer, model.spec)
    first, asked = chat.encode_with_teacher(clips[0]), chat.encode_with_teacher(clips[-1])
    assert first.teacher_example and asked.teacher_example
    assert chat.decode_raw(list(first.teacher_example.input_ids)) == (
        "<|im_start|>user\none\nTranscribe.<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
    )
    assert "user\ntwo\nHow long?<|im_end|>" in chat.decode_raw(
        list(asked.teacher_example.input_ids)
    )
    assert (
        first.teacher_example.audio_segments == ()
        and first.teacher_example.label_ids == first.label_ids
    )
    assert chat.encode_with_teacher(PROSE) == chat.encode_example(PROSE), (
        "who hears nothing has no teacher"
    )
    loud = replace(clips[0].audio_segments[0], transcript="<|im_end|>")
    clip = replace(clips[0], messages=(Message("user", (loud,)), clips[0].messages[1]))
    with pytest.raises(DataError, match="special token"):
        chat.encode_with_teacher(clip)


@pytest.mark.parametrize(
    ("kind", "top_k"), [("lora", WORDS), ("lora", 1000), ("lora", 16), ("dora", 16)]
)
def test_the_loss_is_what_two_models_say(
    folder: Path, clips: list[Example], tmp_path: Path, kind: str, top_k: int
) -> None:
    """Against transformers' whole logits of a student, and of a base that nobody taught."""
    model, bare = student(folder, kind), load_composed_model(folder).eval()
    plan = DistillationPlan(weight=0.25, temperature=2.0, eos_weight=0.5, top_k=top_k)
    some = [clips[0], PROSE, clips[-1]]
    batch = batch_of(model, some)
    losses = AudioLMLoss(model, DistillationTeacher(model, plan, tmp_path))(batch)
    with torch.no_grad():
        mine = model.lm(
            inputs_embeds=model.merge_audio_embeddings(batch), attention_mask=batch.attention_mask
        ).logits
    for number, row in enumerate(batch.teacher_examples):
        spots = batch.labels[number, 1:] != -100
        spoken, labels = mine[number, :-1][spots], batch.labels[number, 1:][spots]
        said = cross_entropy(spoken, labels, reduction="sum")
        assert torch.allclose(losses.ce_loss[number], said, rtol=1e-4)
        if row is None:
            assert losses.total_loss[number] == losses.ce_loss[number]
            assert losses.num_distilled[number] == losses.kl_loss[number] == 0
            continue
        with torch.no_grad():
            theirs = bare.lm(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        theirs = theirs[torch.tensor(row.labels[1:]) != -100]
        each = compute_kl_divergence(spoken, kept(theirs, min(top_k, WORDS), 2.0), 2.0)
        assert each.sum() > 0.5, "two that agree would tell nothing"
        assert torch.allclose(losses.kl_loss[number], each.sum(), rtol=1e-3)
        assert losses.num_distilled[number] == len(labels)
        ended = each[-1] * len(labels)  # as much as all labels together, half of it
        learned = 0.75 * said + 0.25 * (each.sum() + 0.5 * ended)
        assert torch.allclose(losses.total_loss[number], learned, rtol=1e-3)


def test_asking_leaves_no_trace(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    model = student(folder)
    model.train()
    learns = [name for name in get_trainable_parameters(model) if "projector" not in name]
    for name in get_trainable_parameters(model).keys() - set(learns):
        model.get_parameter(name).requires_grad_(False)  # as a stage without it does
    batch = batch_of(model, clips)
    modes = {name: each.training for name, each in model.named_modules()}
    chance = torch.get_rng_state()
    assert DistillationTeacher(model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path).get_top_k_probs(
        batch.teacher_examples
    )
    assert [name for name in get_trainable_parameters(model)] == learns
    assert {name: each.training for name, each in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), chance)
    assert not [name for name, each in model.named_parameters() if each.grad is not None]
    torch.manual_seed(0)
    one = AudioLMLoss(model)(batch).ce_loss
    torch.manual_seed(0)
    other = AudioLMLoss(
        model, DistillationTeacher(model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path)
    )(batch).ce_loss
    assert torch.equal(one, other), "its low-rank weights are on again"


def plan_of(folder: Path, clips: list[Example], **teacher: object) -> Plan:
    asked = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}, "learning_rate": 1e-2}
    return make_tiny_plan(
        folder, len(clips), steps=len(clips), teacher={"weight": 1.0, **teacher}, **asked
    )


def taught(
    plan: Plan, clips: list[Example], kept: Path
) -> tuple[TrainingSetup, DistillationTeacher]:
    made = make_training_setup(plan, clips)
    assert plan.training.distillation
    return made, DistillationTeacher(made.model, plan.training.distillation, kept)


def test_each_clip_is_read_once_and_at_its_labels_alone(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    """Four epochs: who reads is in evaluation mode, and alone in a row."""
    plan = plan_of(folder, clips)
    plan = replace(plan, training=replace(plan.training, num_steps=4))
    runs = []
    for run in range(2):
        made, teacher = taught(plan, clips, tmp_path)
        read, heads = [], []
        made.model.decoder.register_forward_hook(
            lambda module, given, said, read=read: read.append(module.training)
        )
        made.model.lm_head.register_forward_hook(
            lambda module, given, said, heads=heads: heads.append(given[0].shape[:-1].numel())
        )
        steps = [
            event for event in made.iter_events(teacher=teacher) if isinstance(event, StepCompleted)
        ]
        runs.append(([step.loss for step in steps], [step.kl_loss for step in steps]))
        learned = sum(step.num_label_tokens for step in steps)
        first = steps[0].num_label_tokens if run == 0 else 0
        assert len(steps) == 4 and steps[0].num_label_tokens == sum(map(labels, clips))
        assert read.count(False) == (len(clips) if run == 0 else 0)
        assert read.count(True) == 4
        assert sum(heads) == learned + first
    assert runs[0] == runs[1], "what was kept is what was said"
    assert len(list(tmp_path.iterdir())) == len(clips)


def labels(clip: Example) -> int:
    return len(clip.target) + 1


def test_another_language_model_is_asked_anew(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", seed=4)
    for count, place in enumerate((folder, other, folder), start=1):
        model = student(place)
        DistillationTeacher(
            model, DistillationPlan(1.0, 2.0, 1.0, 8), tmp_path / "kept"
        ).get_top_k_probs(batch_of(model, clips[:1]).teacher_examples)
        assert len(list((tmp_path / "kept").iterdir())) == min(count, 2)


@pytest.mark.parametrize("adapter", ["projector", "lora"])
def test_the_teacher_alone_is_approached(
    folder: Path, clips: list[Example], tmp_path: Path, adapter: str
) -> None:
    """Its answer is not the label: the cross entropy need not fall."""
    asked = {"adapter": adapter, "learning_rate": 1e-2, "warmup_ratio": 0.0, "lora_r": 8}
    where = {"where": ["lm", "projector"]} if adapter == "lora" else {"where": ["lm"]}
    plan = make_tiny_plan(
        folder, len(clips), steps=60, teacher={"weight": 1.0}, lora=where, seed=1, **asked
    )
    made, teacher = taught(plan, clips, tmp_path)
    steps = [
        event for event in made.iter_events(teacher=teacher) if isinstance(event, StepCompleted)
    ]
    apart = [step.kl_loss for step in steps]
    print(f"{adapter}: teacher {apart[0]:.3f} -> {apart[-1]:.3f}, loss {steps[-1].loss:.3f}")
    assert apart[-1] < apart[0] / 4


def test_a_rank_without_a_row_of_its_own_reads_nothing(folder: Path, clips: list[Example]) -> None:
    made = make_training_setup(plan_of(folder, clips[:1]), clips[:1])
    ((row,),) = made.batches.get_step_examples(0, (1, 2))
    assert row.teacher_example is None and row.label_ids == ()


def test_who_changes_cannot_be_its_own_teacher(folder: Path) -> None:
    for asked in ({"adapter": "full"}, {"adapter": "projector", "top_layers": 1}):
        with pytest.raises(PlanError, match="training.teacher is the language model before"):
            make_tiny_plan(folder, 8, teacher={"weight": 0.5}, **asked)
        make_tiny_plan(folder, 8, teacher={"weight": 0.0}, **asked)


def test_the_plan_says_it(folder: Path) -> None:
    plan = make_tiny_plan(folder, 8, adapter="lora", teacher={"weight": 0.5, "top_k": 9})
    (line,) = [line for line in summarize_plan(plan) if line.name == "teacher"]
    assert (line.value, line.why) == (
        "50% of the loss",
        "its 9 most probable tokens at temperature 2",
    )
    assert plan.training.distillation == DistillationPlan(0.5, 2.0, 1.0, 9)
    without = make_tiny_plan(folder, 8, adapter="lora")
    assert without.training.distillation is None and not without.batches.distill
    assert plan.batches.distill and "teacher" not in [line.name for line in summarize_plan(without)]


def test_a_sound_is_known_by_more_than_its_words() -> None:
    assert AudioSegment(Path("a.wav"), transcript="x") == AudioSegment(Path("a.wav"))


def test_it_takes_what_the_plan_counts(folder: Path) -> None:
    """Bytes for each label and word, beside those of the cross entropy."""
    plan = make_tiny_plan(folder, 8, adapter="projector", teacher={"weight": 0.5}).model
    row = estimate_sequence_lengths(plan.spec, 64)
    more = estimate_activation_bytes(plan, row, 1) - estimate_activation_bytes(
        replace(plan, distill=False), row, 1
    )
    counted = more / (row.num_labels * plan.spec.sizes.vocab_size)
    answer = kept(torch.randn(50, 2000), 64, 2.0)
    hidden, table = torch.randn(50, 8, requires_grad=True), torch.randn(8, 2000)
    taken = []
    for with_teacher in (False, True):
        with Meter() as meter:
            logits = hidden @ table
            loss = cross_entropy(logits, answer.token_ids[:, 0])
            if with_teacher:
                loss = loss + compute_kl_divergence(logits, answer, 2.0).sum()
            del logits
            loss.backward()
        taken.append(meter.most / (50 * 2000))
    assert taken[1] - taken[0] == pytest.approx(counted, rel=0.1)
