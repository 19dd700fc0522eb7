"""The commands as Python functions: what they take and return, `help()`, reprs, import time."""

import inspect
import json
import pydoc
import subprocess
import sys
import tomllib
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

import dlm
from dlm.cli.main import COMMANDS
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

IMPORT_ALL = """
import sys, dlm
assert "dlm.commands" not in sys.modules
from dlm import *
heavy = {"torch", "transformers", "peft", "accelerate", "typer"} & set(sys.modules)
assert not heavy, heavy
assert all(map(callable, (init, check, train, prompt, transcribe, evaluate)))
assert all(map(callable, (show, versions, use_version, export, doctor)))
"""
FUNCTION_NAMES = {
    "eval": "evaluate",
    "use": "use_version",
    "import": "import_source",
    "export-data": "export_data",
}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path) -> Path:
    return write_document(tmp_path, base_model=tiny_model, training="  held_out: 2\n")


def test_importing_dlm_imports_no_heavy_library() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True)


def test_every_command_is_a_function() -> None:
    import_module("dlm.inference.metrics")  # a subpackage must not hide a function
    names = [FUNCTION_NAMES.get(command.name, command.name) for command in COMMANDS]
    assert sorted(dlm.__all__) == sorted(names)
    assert set(dlm.__all__) <= set(dir(dlm))
    for command, name in zip(COMMANDS, names, strict=True):
        assert attrgetter(name)(dlm) is command.function
    with pytest.raises(AttributeError, match="'dlm' has no attribute 'teach'"):
        dlm.__getattr__("teach")


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dlm.__version__"}
    assert dlm.__version__.count(".") == 2


@pytest.mark.parametrize("name", dlm.__all__)
def test_help_lists_every_parameter_and_no_annotation_of_the_command_line(name: str) -> None:
    function = attrgetter(name)(dlm)
    text = pydoc.plain(pydoc.render_doc(function))
    assert "Annotated" not in text and "ParamInfo" not in text
    described = text.partition("Args:\n")[2]
    for parameter in inspect.signature(function).parameters:
        if parameter not in ("progress", "stop", "read_stdin", "image", "multimodal"):
            assert f"\n        {parameter}: " in f"\n{described}", text


def test_paths_may_be_text_and_one_recording_needs_no_list(document: Path) -> None:
    recording = document.parent / "clips" / "0.wav"
    as_text, as_path = (
        "".join(dlm.prompt(path, "What?", audio=audio, bare=True, max_tokens=4))
        for path, audio in [(str(document), str(recording)), (document, [recording])]
    )
    assert as_text == as_path
    (transcript,) = dlm.transcribe(str(document), str(recording), bare=True)
    assert transcript.path == recording
    assert dlm.show(str(document)) == dlm.show(document)
    assert dlm.init(str(document.parent / "new.dlm")).path == document.parent / "new.dlm"


def test_results_have_short_reprs(document: Path) -> None:
    preflight, *_ = dlm.train(document, steps=1)
    assert repr(preflight) == (
        f"Preflight('{document}', base_model='tiny', num_train=4, num_held_out=2, num_issues=0,"
        " num_fatal=0)"
    )
    status = (
        f"DocumentStatus('{document}', base_model='tiny', num_examples=6, versions=[v0001],"
        " current=v0001)"
    )
    assert repr(dlm.show(document)) == status
    source_import = dlm.import_source(document.parent / "clips", into=document)
    assert repr(source_import) == (
        f"SourceImport(path={document!r}, entry={{'path': 'clips'}}, inline=False, num_added=0,"
        " written=False)"
    )
    result = dlm.verify(document)
    assert repr(result) == f"VerifyResult(path={document!r}, files={result.files}, differences=())"
    garbage = f"GcResult(document={document!r}, unneeded=(), removed=False)"
    assert repr(dlm.gc(document, dry_run=True)) == garbage


def test_train_yields_the_preflight_the_events_and_the_version(document: Path) -> None:
    events = list(dlm.train(document, steps=2, overrides={"training.save_steps": 1}))
    assert [type(event) for event in events] == [
        Preflight,
        TrainingStarted,
        StepCompleted,
        CheckpointSaved,
        StepCompleted,
        CheckpointSaved,
        Evaluated,
        CheckpointSaved,
        TrainingFinished,
        Version,
    ]
    assert events[0].plan.training.num_steps == 2
    assert events[-1] == dlm.versions(document).versions[-1]
    assert events[-1].scores == events[-2].scores


def test_generators_do_nothing_before_the_first_item(document: Path, home: Path) -> None:
    dlm.train(document, steps=1)
    dlm.prompt(document, "What?", audio=(Path("no.wav"),))
    assert not home.exists()


def test_a_training_that_was_left_can_be_resumed(document: Path) -> None:
    for event in dlm.train(document, steps=4, overrides={"training.save_steps": 1}):
        if isinstance(event, StepCompleted) and event.step == 3:
            break
    assert dlm.show(document).versions == ()
    events = dlm.train(document, steps=4, resume=True)
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.step == 2
    assert [version.steps for version in dlm.show(document).versions] == [4]


def test_stop_is_called_after_every_step(document: Path) -> None:
    answers = iter([False, True])
    *_, last = dlm.train(document, steps=9, stop=lambda: next(answers))
    assert (last.step, last.reason) == (2, "stopped")


def test_progress_is_called_with_done_and_total(document: Path) -> None:
    calls: list[tuple[int, int]] = []
    dlm.check(document, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)
    calls.clear()
    dlm.evaluate(document, bare=True, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_errors_have_location_hint_and_code(document: Path) -> None:
    (document.parent / "clips/1.wav").unlink()
    with pytest.raises(DataError) as caught:
        list(dlm.train(document))
    assert caught.value.where == "my.dlm:12"
    assert caught.value.what == "audio not found: clips/1.wav"
    assert caught.value.hint and caught.value.exit_code == 1
    with pytest.raises(UsageError) as caught:
        next(dlm.prompt(document, "What?"))
    assert caught.value.code == "usage.audio_missing"
    with pytest.raises(StoreError) as caught:
        dlm.use_version(document, "v0001")
    assert caught.value.code == "store.unknown_version"


def test_a_run_is_resumed_after_the_sizes_of_its_base_are_known(tmp_path: Path) -> None:
    """Sizes are estimates until the weights were loaded."""
    tiny_model = write_tiny_model(tmp_path / "tiny")
    document = write_document(tmp_path, base_model=tiny_model)
    events = list(dlm.train(document, steps=2, stop=lambda: True))
    assert [event.reason for event in events if isinstance(event, TrainingFinished)] == ["stopped"]
    spec = json.loads((tiny_model / MODEL_SPEC_FILE).read_text())
    spec["megabytes"], spec["sizes"]["embedding"] = 7, spec["sizes"]["embedding"] + 1
    (tiny_model / MODEL_SPEC_FILE).write_text(json.dumps(spec))
    assert isinstance(list(dlm.train(document, steps=2, resume=True))[-1], Version)
