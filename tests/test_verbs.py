"""The verbs as Python functions: what they give, and that asking for them costs nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dlm
from dlm.commands.preflight import Preflight
from dlm.errors import DataError, StoreError, UsageError
from dlm.plan.model_spec import MODEL_SPEC_FILE
from dlm.store.records import Version
from dlm.training.events import (
    CheckpointSaved,
    Evaluated,
    StepCompleted,
    TrainingFinished,
    TrainingStarted,
)
from tests.tiny_models import write_document, write_tiny_model

NOTHING_HEAVY = """
import sys, dlm
assert "dlm.commands" not in sys.modules
from dlm import *
heavy = {"torch", "transformers", "peft", "accelerate", "typer"} & set(sys.modules)
assert not heavy, heavy
assert all(map(callable, (init, check, train, prompt, transcribe, evaluate)))
assert all(map(callable, (show, versions, use_version, export, doctor)))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path) -> Path:
    return write_document(tmp_path, base_model=tiny, training="  held_out: 2\n")


def test_importing_costs_nothing() -> None:
    subprocess.run([sys.executable, "-c", NOTHING_HEAVY], check=True)


def test_there_is_nothing_else() -> None:
    assert set(dlm.__all__) <= set(dir(dlm))
    with pytest.raises(AttributeError, match="'dlm' has no attribute 'teach'"):
        dlm.__getattr__("teach")


def test_train_yields_everything_in_order(document: Path) -> None:
    found = list(dlm.train(document, steps=2, overrides={"training.save_steps": 1}))
    kinds = [type(each) for each in found]
    assert kinds == [
        Preflight,
        TrainingStarted,
        StepCompleted,
        CheckpointSaved,
        StepCompleted,
        Evaluated,
        CheckpointSaved,
        TrainingFinished,
        Version,
    ]
    assert found[0].plan.training.num_steps == 2
    assert found[-1] == dlm.versions(document).versions[-1]
    assert found[-1].scores == found[-2].scores


def test_nothing_runs_until_it_is_asked_for(document: Path, home: Path) -> None:
    dlm.train(document, steps=1)
    dlm.prompt(document, "What?", audio=(Path("no.wav"),))
    assert not home.exists()


def test_a_training_that_is_left_can_go_on(document: Path) -> None:
    for event in dlm.train(document, steps=4, overrides={"training.save_steps": 1}):
        if isinstance(event, StepCompleted) and event.step == 3:
            break
    assert dlm.show(document).versions == ()
    started = [
        e for e in dlm.train(document, steps=4, resume=True) if isinstance(e, TrainingStarted)
    ]
    assert started[0].step == 2
    assert [version.steps for version in dlm.show(document).versions] == [4]


def test_stop_is_asked_after_every_step(document: Path) -> None:
    asked = iter([False, True])
    *_, last = dlm.train(document, steps=9, stop=lambda: next(asked))
    assert (last.step, last.reason) == (2, "stopped")


def test_progress_is_told(document: Path) -> None:
    told: list[tuple[int, int]] = []
    dlm.check(document, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6)
    told.clear()
    dlm.evaluate(document, bare=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_mistakes_carry_their_place_and_mend(document: Path) -> None:
    (document.parent / "clips/1.wav").unlink()
    with pytest.raises(DataError) as caught:
        list(dlm.train(document))
    assert caught.value.where == "my.dlm:12"
    assert caught.value.what == "audio not found: clips/1.wav"
    assert caught.value.hint and caught.value.exit_code == 1
    with pytest.raises(UsageError, match="at least one --audio PATH"):
        next(dlm.prompt(document, "What?"))
    with pytest.raises(StoreError, match="no version 'v0001'"):
        dlm.use_version(document, "v0001")


def test_a_run_goes_on_when_its_base_has_told_its_sizes(tmp_path: Path) -> None:
    """They are estimates until the weights are here, which they are after the first step."""
    base = write_tiny_model(tmp_path / "tiny")
    document = write_document(tmp_path, base_model=base)
    stopped = list(dlm.train(document, steps=2, stop=lambda: True))
    assert [each.reason for each in stopped if isinstance(each, TrainingFinished)] == ["stopped"]
    facts = json.loads((base / MODEL_SPEC_FILE).read_text())
    facts["megabytes"], facts["sizes"]["embedding"] = 7, facts["sizes"]["embedding"] + 1
    (base / MODEL_SPEC_FILE).write_text(json.dumps(facts))
    assert isinstance(list(dlm.train(document, steps=2, resume=True))[-1], Version)
