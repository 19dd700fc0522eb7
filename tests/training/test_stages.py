"""Stages: trained parameters, examples and learning rates of each; resuming inside one."""

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch

import dlm
from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.batching.staged_loader import StagedLoader
from dlm.commands.preflight import Preflight, run_preflight
from dlm.config.schema import StabilityConfig
from dlm.data.split import select_examples
from dlm.errors import PlanError, TrainingError, UsageError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import get_param_group, get_trainable_parameters
from dlm.models.load import load_model
from dlm.store.records import Version
from dlm.training.events import (
    CheckpointSaved,
    Evaluated,
    StageStarted,
    StepCompleted,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
)
from dlm.training.trainer import TrainerCallbacks, train_model
from tests.cli_runner import dlm as run_command
from tests.tiny_models import write_document, write_tiny_model

LORA_TRAINING = (
    "  adapter: lora\n  lora: {where: [lm, projector]}\n  lora_dropout: 0.0\n  held_out: 0\n"
)
TWO_STAGES = f"""{LORA_TRAINING}  learning_rate: 0.001
  lr_scheduler: constant
  warmup_ratio: 0.5
  stages:
    - {{train: [projector], steps: 2, learning_rate: 0.01, clips: ["clips/[0-2].wav"]}}
    - {{train: [lora, projector], epochs: 3, rates: {{projector: 0.0005}}}}
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def write(model_dir: Path, tmp_path: Path):
    def write_training_document(training: str, num_clips: int = 6, body: str = "") -> Path:
        return write_document(
            tmp_path, base_model=model_dir, training=training, num_clips=num_clips, body=body
        )

    return write_training_document


def start_training(
    document: Path, **callbacks: object
) -> tuple[torch.nn.Module, list[TrainingEvent]]:
    """Train as `dlm train` does, without a store: the model and the events."""
    preflight = run_preflight(document)
    plan = preflight.require_plan()
    model = load_model(plan.model)
    chat_encoder, samplers = ChatEncoder(model.tokenizer, model.spec), []
    for stage in plan.training.stages:
        extractor = AudioFeatureExtractor(
            model.spec,
            auto_resample=False,
            encode_fn=model.encode_single if stage.use_cached_features else None,
        )
        batches = replace(plan.batches, use_cached_features=stage.use_cached_features)
        examples = list(select_examples(preflight.train_examples, stage.example_patterns))
        samplers.append(
            (build_batches(examples, batches, chat_encoder, extractor), stage.num_steps)
        )
    trainer_callbacks = TrainerCallbacks(save_version_fn=lambda folder: None, **callbacks)
    return model, train_model(model, StagedLoader(samplers), plan.training, trainer_callbacks)


def test_stages_are_printed_in_the_plan_and_during_training(write) -> None:
    document = write(TWO_STAGES)
    result = run_command("train", document)
    assert result.code == 0, result.err
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    first = "stage 1 projector: 2 steps over 3 clips (rate 0.01, constant, 1 step of warm-up)"
    second = (
        "stage 2 projector, lora: 3 steps over 6 clips (rate 0.001, constant, 2 steps of warm-up)"
    )
    assert {first, second, "steps 5 (2 stages)"} <= set(lines), result.out
    assert "stage 1 of 2: projector, 2 steps" in result.err
    assert "stage 2 of 2: projector, lora, 3 steps" in result.err
    assert len(dlm.versions(document).versions) == 1


def test_each_stage_has_its_parameters_rates_and_examples(write) -> None:
    model, events = start_training(write(TWO_STAGES))
    before, changes_by_step, steps = {}, [], []
    for event in events:
        after = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        if isinstance(event, StepCompleted):
            changed_groups = {
                get_param_group(name, model)
                for name in after
                if not torch.equal(after[name], before[name])
            }
            changes_by_step.append(changed_groups)
            steps.append(event)
        before = after
    assert changes_by_step == [{"projector"}] * 2 + [{"projector", "lora"}] * 3
    assert [event.stage for event in steps] == [1, 1, 2, 2, 2]
    assert [event.num_examples for event in steps] == [3, 3, 6, 6, 6]
    assert [event.learning_rates for event in steps] == [
        {"projector": 0.01},
        {"projector": 0.01},
        *[{"projector": 0.0005 * factor, "lora": 0.001 * factor} for factor in (0.5, 1, 1)],
    ]
    assert {get_param_group(name, model) for name in get_trainable_parameters(model)} == {
        "projector",
        "lora",
    }


def test_each_stage_starts_with_a_new_optimizer(write) -> None:
    """The first step of Adam changes weights by the learning rate."""
    stages = (
        LORA_TRAINING + "  warmup_ratio: 0.0\n  lr_scheduler: constant\n  max_grad_norm: 1000.0\n"
    )
    stages += "  stages: [{train: [projector], steps: 3, learning_rate: 0.1},"
    stages += " {train: [projector], steps: 1, learning_rate: 0.0001}]\n"
    model, events = start_training(write(stages))
    before, updates = None, []
    for event in events:
        after = model.projector.leave.weight.detach().clone()
        if isinstance(event, StepCompleted):
            updates.append(float((after - before).abs().max()))
        before = after
    assert updates[3] == pytest.approx(1e-4, rel=0.05)


def test_events_of_stages(write) -> None:
    events = [
        event
        for event in dlm.train(write(TWO_STAGES))
        if not isinstance(event, CheckpointSaved | Evaluated)
    ]
    event_types = [event_type for event_type, _ in groupby(map(type, events))]
    assert event_types == [
        Preflight,
        TrainingStarted,
        StageStarted,
        StepCompleted,
        StageStarted,
        StepCompleted,
        TrainingFinished,
        Version,
    ]
    stage_events = [event for event in events if isinstance(event, StageStarted)]
    assert stage_events == [
        StageStarted(0, 1, 2, 2, ("projector",)),
        StageStarted(2, 2, 2, 3, ("projector", "lora")),
    ]


def test_resumed_after_any_step_of_any_stage_trains_the_same_weights(write) -> None:
    training = TWO_STAGES + "  stability: {freeze_projector_steps: 0, early_lr_steps: 1}\n"
    document = write(training.replace("lora_dropout: 0.0", "lora_dropout: 0.3"))
    *_, reference = dlm.train(document)
    stopped = 0
    for attempt in range(6):
        *_, last_event = dlm.train(document, resume=attempt > 0, stop=lambda: True)
        stopped += isinstance(last_event, TrainingFinished)
    assert stopped == 4, "once after every step but the last"
    versions = dlm.versions(document).versions
    assert len(versions) == 2
    assert versions[1].hashes == reference.hashes


def test_stage_uses_the_encoder_as_trained_so_far(write) -> None:
    """The loss of the last stage is that of the version on the same examples."""
    stages = """  adapter: projector
  train_encoder: true
  held_out: 0
  max_grad_norm: 1000.0
  warmup_ratio: 0.0
  stages:
    - {train: [projector], steps: 1, learning_rate: 1.0e-12}
    - {train: [encoder], steps: 2, learning_rate: 0.03}
    - {train: [projector], steps: 1, learning_rate: 1.0e-12}
"""
    document = write(stages, num_clips=4)
    events = list(dlm.train(document))
    assert [event.use_cached_features for event in events[0].plan.training.stages] == [
        True,
        False,
        False,
    ]
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    scores = next(event.scores for event in events if isinstance(event, Evaluated))
    assert losses[3] == pytest.approx(scores["loss"], abs=1e-5)
    assert abs(losses[3] - losses[0]) > 1e-3


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("[{train: [encoder], steps: 1}]", ("stage 1 trains encoder", "projector, lora")),
        ("[{train: [lora]}, {train: [lm]}]", ("stage 2 trains lm",)),
        ("[{train: [lora], clips: [nowhere/*]}]", ("stage 1 has no clips", "nowhere/*")),
        ("[{train: [lora], clips: [answer]}]", ("stage 1 has no clips", "answer")),
        ("[{train: [lora], rates: {projector: 0.1}}]", ("stage 1 has a rate for projector",)),
        ("[{train: []}]", ("training.stages[0].train",)),
        ("[{train: [lora], steps: 1, epochs: 1}]", ("steps and epochs exclude each other",)),
        ("[{train: [ears]}]", ("training.stages[0].train",)),
    ],
)
def test_impossible_stage_is_refused_before_weights_load(
    tmp_path: Path, stages: str, words: tuple[str, ...]
) -> None:
    base = write_tiny_model(tmp_path / "base")
    (base / "model.safetensors").unlink()  # loading it would fail
    document = write_document(
        tmp_path, base_model=base, training=f"{LORA_TRAINING}  stages: {stages}\n"
    )
    run_command("train", document).refused(*words)


def test_fields_of_a_run_without_stages_are_refused(write) -> None:
    document = write(TWO_STAGES)
    with pytest.raises(UsageError, match="--steps is for a run without stages"):
        list(dlm.train(document, steps=3))
    with pytest.raises(PlanError, match=r"training\.rates is for a run without stages"):
        list(dlm.train(document, overrides={"training.rates": {"lora": 0.1}}))
    overrides = {"training.stability.freeze_projector_steps": 1}
    with pytest.raises(
        PlanError, match="stage 1 would train nothing while the projector is frozen"
    ):
        list(dlm.train(document, overrides=overrides))


def test_examples_are_selected_by_location_recording_and_task(write) -> None:
    body = "\nOnce upon a time.\n"
    examples = run_preflight(write("  held_out: 0\n", num_clips=3, body=body)).train_examples
    locations = [example.location for example in examples]
    assert select_examples(examples, ()) == examples
    assert [example.task for example in select_examples(examples, ["text"])] == ["text"]
    assert [example.location for example in select_examples(examples, [locations[1]])] == [
        locations[1]
    ]
    assert len(select_examples(examples, ["clips/*.wav"])) == 3
    assert len(select_examples(examples, ["clips/0.wav", "text"])) == 2
    assert len(select_examples(examples, ["*"])) == 4


def test_unused_rate_of_a_later_stage_is_refused_before_the_first_step(write) -> None:
    stages = '  stages: [{train: [lora], steps: 1}, {train: [projector], rates: {"x.*": 1.0}}]\n'
    model, events = start_training(write(LORA_TRAINING + stages))
    with pytest.raises(PlanError, match=r"training.rates names x\.\*"):
        next(iter(events))


def test_checkpoint_at_the_end_of_a_stage_starts_the_next(write, tmp_path: Path) -> None:
    document = write(TWO_STAGES)
    reference, events = start_training(document, stop_fn=lambda: False)
    list(events)
    model, events = start_training(document, stop_fn=iter([False, True]).__next__)
    folder = tmp_path / "state"
    folder.mkdir()
    for event in events:
        if isinstance(event, CheckpointSaved):
            event.write_fn(folder)
    resumed, events = start_training(document, resume_dir=folder)
    events_after_resume = list(events)
    assert [type(event) for event in events_after_resume[:3]] == [
        TrainingStarted,
        StageStarted,
        StepCompleted,
    ]
    assert (
        events_after_resume[0].step,
        events_after_resume[1].stage,
        events_after_resume[2].step,
    ) == (2, 2, 3)
    first, second = get_trainable_parameters(reference), get_trainable_parameters(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_consecutive_skipped_steps_are_counted_over_stages(write) -> None:
    """The learning rate of the first stage makes weights infinite."""
    stages = "  max_grad_norm: 1.0e+30\n  warmup_ratio: 0.0\n  stages: ["
    stages += "{train: [projector], steps: 2, learning_rate: 1.0e+38}, {train: [lora], steps: 3}]\n"
    model, events = start_training(
        write(LORA_TRAINING + "  stability: {max_skipped_steps: 3}\n" + stages)
    )
    with pytest.raises(TrainingError, match="3 steps in a row were skipped"):
        list(events)


def test_documented_stages_can_be_planned(write) -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    shown = page.split("## Stages")[1].split("```yaml\ntraining:\n")[1].split("```")[0]
    stages = run_preflight(write(shown)).require_plan().training.stages
    assert [(stage.trainable_groups, stage.num_steps) for stage in stages] == [
        (("projector",), 200),
        (("projector", "lora"), 2),
    ]
    named_fields = set(re.findall(r"`([a-z_0-9]+)(?:: [^`]*)?`", page.split("## Stability")[1]))
    assert set(StabilityConfig.model_fields) <= named_fields
