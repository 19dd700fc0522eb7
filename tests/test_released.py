"""Documents, stores and exports of released versions open, score the same and resume.

The folders of tests/released are written by tests/released/make.py at each release.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import dlm
from dlm.commands.preflight import Preflight
from dlm.store.runs import list_runs, read_run_log
from dlm.store.versions import open_store
from dlm.training.events import StepCompleted

RELEASES = sorted((Path(__file__).parent / "released").glob("v*"))
INTERRUPTED_ID = "01ARZ3NDEKTSV4RRFFQ69G5FA3"
TOLERANCE = 2e-5  # of losses in fp32, from one machine to another


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a release wrote, with its store in use, as the working directory."""
    copy = shutil.copytree(request.param, tmp_path / "released")
    monkeypatch.setenv("DLM_HOME", str(copy / "home"))
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("name", ["stitched", "native"])
def test_versions_of_a_store_have_the_same_hashes_scores_and_answers(
    folder: Path, name: str
) -> None:
    expected = json.loads((folder / "expected.json").read_text())[name]
    document = folder / f"{name}.dlm"
    status = dlm.show(document)
    assert [version.name for version in status.versions] == ["v0001", "v0002"]
    assert status.current == "v0001"
    assert {version.name: version.sha256 for version in status.versions} == expected["sha256"]
    assert dlm.verify(document).differences == ()
    first = status.versions[0]
    assert first.train_recordings and first.audio_backends
    assert first.base_model.startswith("tiny") and first.base_model_revision
    for version in ("v0001", "v0002"):
        scores = dlm.evaluate(document, version=version).scores
        assert scores == pytest.approx(expected[version], abs=TOLERANCE)
    base_scores = dlm.evaluate(document, bare=True).scores
    assert base_scores == pytest.approx(expected["base"], abs=TOLERANCE)
    answer = dlm.prompt(document, "What?", audio=(folder / "clips/1.wav",), max_tokens=5)
    assert "".join(answer) == expected["answer"]
    (run, *_) = list_runs(open_store(status.document.config.dlm_id))
    losses = [line["loss"] for line in read_run_log(run) if line["event"] == "StepCompleted"]
    assert len(losses) == 2


@pytest.mark.parametrize("name", ["stitched", "native"])
def test_an_export_verifies(folder: Path, name: str) -> None:
    assert dlm.verify(folder / f"export-{name}").differences == ()


def test_an_exported_model_has_the_scores_of_its_version(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())["stitched"]
    text = (folder / "stitched.dlm").read_text()
    text = text.replace("base_model: tiny-stitched", "base_model: export-stitched")
    document = folder / "exported.dlm"
    document.write_text(text.replace("FA1", "FA9"))
    scores = dlm.evaluate(document, bare=True).scores
    assert scores == pytest.approx(expected["v0001"], abs=TOLERANCE)


def test_an_interrupted_run_resumes_to_the_same_losses_and_weights(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())["cut"]
    (run,) = list_runs(open_store(INTERRUPTED_ID))
    assert (run.status, run.step) == ("unfinished", expected["steps_done"])
    preflight, *events, version = dlm.train(folder / "cut.dlm", steps=6, seed=7, resume=True)
    assert isinstance(preflight, Preflight)
    losses = {event.step: event.loss for event in events if isinstance(event, StepCompleted)}
    assert list(losses) == [4, 5, 6]
    for step, loss in losses.items():
        assert loss == pytest.approx(expected["losses"][step - 1], abs=TOLERANCE)
    assert version.scores == pytest.approx(expected["scores"], abs=TOLERANCE)
    weights = load_file(version.path / "adapter_model.safetensors")
    norms = {name: float(np.linalg.norm(each.astype("f8"))) for name, each in weights.items()}
    assert norms == pytest.approx(expected["norms"], abs=TOLERANCE)
