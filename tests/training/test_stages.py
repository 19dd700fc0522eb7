"""A run in stages: what learns in each, from which clips, how fast; and going on inside one."""

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
from tests.cli_runner import dlm as command
from tests.tiny_models import write_document, write_tiny_model

LORA = "  adapter: lora\n  lora: {where: [lm, projector]}\n  lora_dropout: 0.0\n  held_out: 0\n"
TWO = f"""{LORA}  learning_rate: 0.001
  lr_scheduler: constant
  warmup_ratio: 0.5
  stages:
    - {{train: [projector], steps: 2, learning_rate: 0.01, clips: ["clips/[0-2].wav"]}}
    - {{train: [lora, projector], epochs: 3, rates: {{projector: 0.0005}}}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def write(tiny: Path, tmp_path: Path):
    def written(training: str, clips: int = 6, body: str = "") -> Path:
        return write_document(
            tmp_path, base_model=tiny, training=training, num_clips=clips, body=body
        )

    return written


def taught(document: Path, **hooks: object) -> tuple[torch.nn.Module, list[TrainingEvent]]:
    """The rooms joined as the verb joins them, without a store: the model and what was said."""
    checked = run_preflight(document)
    plan = checked.require_plan()
    model = load_model(plan.model)
    chat, parts = ChatEncoder(model.tokenizer, model.spec), []
    for stage in plan.training.stages:
        ear = AudioFeatureExtractor(
            model.spec,
            auto_resample=False,
            encode_fn=model.encode_single if stage.use_cached_features else None,
        )
        batches = replace(plan.batches, use_cached_features=stage.use_cached_features)
        clips = list(select_examples(checked.train_examples, stage.example_patterns))
        parts.append((build_batches(clips, batches, chat, ear), stage.num_steps))
    lent = TrainerCallbacks(save_version_fn=lambda folder: None, **hooks)
    return model, train_model(model, StagedLoader(parts), plan.training, lent)


def test_every_stage_is_in_the_plan_and_in_what_is_said(write) -> None:
    document = write(TWO)
    done = command("train", document)
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    one = "stage 1 projector: 2 steps over 3 clips (rate 0.01, constant, 1 step of warm-up)"
    two = "stage 2 projector, lora: 3 steps over 6 clips (rate 0.001, constant, 2 steps of warm-up)"
    assert {one, two, "steps 5 (2 stages)"} <= set(lines), done.out
    assert "stage 1 of 2: projector, 2 steps" in done.err
    assert "stage 2 of 2: projector, lora, 3 steps" in done.err
    assert len(dlm.versions(document).versions) == 1


def test_each_stage_teaches_its_parts_at_its_rates_from_its_clips(write) -> None:
    model, events = taught(write(TWO))
    last, changed, steps = {}, [], []
    for event in events:
        now = {name: each.detach().clone() for name, each in model.named_parameters()}
        if isinstance(event, StepCompleted):
            moved = {
                get_param_group(name, model)
                for name in now
                if not torch.equal(now[name], last[name])
            }
            changed.append(moved)
            steps.append(event)
        last = now
    assert changed == [{"projector"}] * 2 + [{"projector", "lora"}] * 3
    assert [event.stage for event in steps] == [1, 1, 2, 2, 2]
    assert [event.num_examples for event in steps] == [3, 3, 6, 6, 6]
    assert [event.learning_rates for event in steps] == [
        {"projector": 0.01},
        {"projector": 0.01},
        *[{"projector": 0.0005 * part, "lora": 0.001 * part} for part in (0.5, 1, 1)],
    ]
    assert {get_param_group(name, model) for name in get_trainable_parameters(model)} == {
        "projector",
        "lora",
    }


def test_adam_begins_anew(write) -> None:
    """The first step of a stage moves weights by its rate, whatever was before."""
    stages = LORA + "  warmup_ratio: 0.0\n  lr_scheduler: constant\n  max_grad_norm: 1000.0\n"
    stages += "  stages: [{train: [projector], steps: 3, learning_rate: 0.1},"
    stages += " {train: [projector], steps: 1, learning_rate: 0.0001}]\n"
    model, events = taught(write(stages))
    last, moved = None, []
    for event in events:
        now = model.projector.leave.weight.detach().clone()
        if isinstance(event, StepCompleted):
            moved.append(float((now - last).abs().max()))
        last = now
    assert moved[3] == pytest.approx(1e-4, rel=0.05)


def test_what_is_said_of_stages(write) -> None:
    found = [
        each for each in dlm.train(write(TWO)) if not isinstance(each, CheckpointSaved | Evaluated)
    ]
    kinds = [kind for kind, _ in groupby(map(type, found))]
    assert kinds == [
        Preflight,
        TrainingStarted,
        StageStarted,
        StepCompleted,
        StageStarted,
        StepCompleted,
        TrainingFinished,
        Version,
    ]
    staged = [each for each in found if isinstance(each, StageStarted)]
    assert staged == [
        StageStarted(0, 1, 2, 2, ("projector",)),
        StageStarted(2, 2, 2, 3, ("projector", "lora")),
    ]


def test_going_on_in_any_step_of_any_stage_comes_to_the_same_bits(write) -> None:
    training = TWO + "  stability: {freeze_projector_steps: 0, early_lr_steps: 1}\n"
    document = write(training.replace("lora_dropout: 0.0", "lora_dropout: 0.3"))
    *_, whole = dlm.train(document)
    stopped = 0
    for turn in range(6):
        *_, last = dlm.train(document, resume=turn > 0, stop=lambda: True)
        stopped += isinstance(last, TrainingFinished)
    assert stopped == 4, "after each step but the last"
    versions = dlm.versions(document).versions
    assert len(versions) == 2
    assert versions[1].hashes == whole.hashes


def test_a_stage_hears_with_the_encoder_as_it_is_by_then(write) -> None:
    """What the second stage learns from is what the version says of the same clips."""
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
    document = write(stages, clips=4)
    found = list(dlm.train(document))
    assert [each.use_cached_features for each in found[0].plan.training.stages] == [
        True,
        False,
        False,
    ]
    losses = [each.loss for each in found if isinstance(each, StepCompleted)]
    scores = next(each.scores for each in found if isinstance(each, Evaluated))
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
def test_a_stage_that_cannot_be_is_refused_before_any_weights(
    tmp_path: Path, stages: str, words: tuple[str, ...]
) -> None:
    base = write_tiny_model(tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"")  # whoever loads it fails of that
    document = write_document(tmp_path, base_model=base, training=f"{LORA}  stages: {stages}\n")
    command("train", document).refused(*words)


def test_wishes_for_a_run_without_stages_are_refused(write) -> None:
    document = write(TWO)
    with pytest.raises(UsageError, match="--steps is for a run without stages"):
        list(dlm.train(document, steps=3))
    with pytest.raises(PlanError, match=r"training\.rates is for a run without stages"):
        list(dlm.train(document, overrides={"training.rates": {"lora": 0.1}}))
    waits = {"training.stability.freeze_projector_steps": 1}
    with pytest.raises(
        PlanError, match="stage 1 would train nothing while the projector is frozen"
    ):
        list(dlm.train(document, overrides=waits))


def test_clips_are_chosen_by_place_by_recording_and_by_task(write) -> None:
    body = "\nOnce upon a time.\n"
    clips = run_preflight(write("  held_out: 0\n", clips=3, body=body)).train_examples
    places = [clip.location for clip in clips]
    assert select_examples(clips, ()) == clips
    assert [each.task for each in select_examples(clips, ["text"])] == ["text"]
    assert [each.location for each in select_examples(clips, [places[1]])] == [places[1]]
    assert len(select_examples(clips, ["clips/*.wav"])) == 3
    assert len(select_examples(clips, ["clips/0.wav", "text"])) == 2
    assert len(select_examples(clips, ["*"])) == 4


def test_a_pattern_of_rates_is_tried_before_the_first_step(write) -> None:
    stages = '  stages: [{train: [lora], steps: 1}, {train: [projector], rates: {"x.*": 1.0}}]\n'
    model, events = taught(write(LORA + stages))
    with pytest.raises(PlanError, match=r"training.rates names x\.\*"):
        next(iter(events))


def test_a_state_of_a_stage_that_has_ended_begins_the_next(write, tmp_path: Path) -> None:
    document = write(TWO)
    whole, events = taught(document, stop_fn=lambda: False)
    list(events)
    model, events = taught(document, stop_fn=iter([False, True]).__next__)
    folder = tmp_path / "state"
    folder.mkdir()
    for event in events:
        if isinstance(event, CheckpointSaved):
            event.write_fn(folder)
    again, events = taught(document, resume_dir=folder)
    said = list(events)
    assert [type(each) for each in said[:3]] == [TrainingStarted, StageStarted, StepCompleted]
    assert (said[0].step, said[1].stage, said[2].step) == (2, 2, 3)
    one, other = get_trainable_parameters(whole), get_trainable_parameters(again)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_skipped_steps_in_a_row_are_counted_over_stages(write) -> None:
    """The first stage breaks what it learned in its last but one step."""
    stages = "  max_grad_norm: 1.0e+30\n  warmup_ratio: 0.0\n  stages: ["
    stages += "{train: [projector], steps: 2, learning_rate: 1.0e+38}, {train: [lora], steps: 3}]\n"
    model, events = taught(write(LORA + "  stability: {max_skipped_steps: 3}\n" + stages))
    with pytest.raises(TrainingError, match="3 steps in a row were skipped"):
        list(events)


def test_the_page_shows_a_run_that_can_be(write) -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    shown = page.split("## Stages")[1].split("```yaml\ntraining:\n")[1].split("```")[0]
    stages = run_preflight(write(shown)).require_plan().training.stages
    assert [(each.trainable_groups, each.num_steps) for each in stages] == [
        (("projector",), 200),
        (("projector", "lora"), 2),
    ]
    named = set(re.findall(r"`([a-z_0-9]+)(?:: [^`]*)?`", page.split("## Stability")[1]))
    assert set(StabilityConfig.model_fields) <= named
