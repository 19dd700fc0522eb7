"""Events of a training pass through the store, which writes checkpoints, a log and a version."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlm.errors import StoreError
from dlm.store.runs import (
    Run,
    abandon_run,
    find_resumable_run,
    list_runs,
    persist_events,
    read_run_log,
    start_run,
)
from dlm.store.versions import Store, open_store
from dlm.training.events import (
    CheckpointSaved,
    StepSkipped,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
)
from tests.store.fake_runs import DLM_ID, iter_events, make_run_record, train, write_weights


def persist(store: Store, *events: TrainingEvent) -> list[TrainingEvent]:
    return list(persist_events(iter(events), store, record=make_run_record()))


def events_until(step: int) -> Iterator[TrainingEvent]:
    """Events up to the checkpoint of a step."""
    for event in iter_events():
        if isinstance(event, CheckpointSaved) and event.step > step:
            return
        yield event


def interrupt_run(store: Store, step: int) -> Run:
    persist(store, *events_until(step))
    run = find_resumable_run(store)
    assert run is not None
    return run


def test_events_pass_and_a_version_is_committed(store: Store) -> None:
    events = list(iter_events())
    assert persist(store, *events) == events
    (version,), (run,) = store.list_versions(), list_runs(store)
    assert (version.run, version.steps, version.seconds) == (run.id, 6, 1.5)
    assert version.scores == {"wer": 0.25} and version.plan["steps"] == 6
    assert version == run.version == store.get_current_version()
    weights = load_file(version.path / "adapter.safetensors")["lora.A"]
    assert weights.min() == weights.max() == sum(range(6))
    assert (run.status, run.step, run.checkpoint_dir.exists()) == ("finished", None, False)
    assert find_resumable_run(store) is None


def test_the_log_holds_every_event_and_no_function(store: Store) -> None:
    first, *rest = iter_events()
    persist(store, first, StepSkipped(1, "loss is nan", ("my.dlm:12",)), *rest)
    (run,) = list_runs(store)
    lines = list(read_run_log(run))
    names = [line["event"] for line in lines]
    assert names[:3] == ["TrainingStarted", "StepSkipped", "StepCompleted"]
    assert lines[1]["locations"] == ["my.dlm:12"]
    assert names[-1] == "TrainingFinished" and lines[-1]["scores"] == {"wer": 0.25}
    saved = [line for line in lines if line["event"] == "CheckpointSaved"]
    assert len(saved) == 4
    assert all(set(line) == {"at", "event", "step", "is_final"} for line in saved)


def test_nan_is_null_in_the_log(store: Store) -> None:
    persist(store, TrainingFinished(1, 1, float("nan"), reason="stopped"))
    (run,) = list_runs(store)
    assert next(read_run_log(run))["seconds"] is None
    assert "NaN" not in run.log_path.read_text()


def test_an_interrupted_run_resumes_to_the_same_bytes(store: Store, home: Path) -> None:
    train(store)
    run = interrupt_run(store, 4)
    assert (run.step, run.status, len(store.list_versions())) == (4, "unfinished", 1)
    assert run.record.find_changed_fields(make_run_record()) == ()
    assert run.record.find_changed_fields(make_run_record(seed=1, plan={})) == ("plan", "seed")
    assert run.record.find_changed_fields(make_run_record(overrides={"a": 1})) == ()
    reopened = open_store(DLM_ID, home)
    events = train(reopened)
    assert isinstance(events[0], TrainingStarted) and events[0].step == 4
    uninterrupted, resumed = reopened.list_versions()
    assert uninterrupted.sha256 == resumed.sha256 and resumed.run == run.id
    assert [line["event"] for line in read_run_log(run)].count("TrainingStarted") == 2


def test_only_a_finished_run_makes_a_version(store: Store) -> None:
    persist(store, *list(iter_events())[:-1])
    assert store.list_versions() == () and find_resumable_run(store) is not None


def test_a_stopped_run_can_be_resumed_later(store: Store) -> None:
    persist(store, *events_until(2), TrainingFinished(3, 6, 1.0, reason="stopped"))
    run = find_resumable_run(store)
    assert store.list_versions() == () and run and run.step == 2


def test_a_run_that_ends_without_weights_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="ended without weights to save") as caught:
        persist(store, TrainingFinished(6, 6, 1.0))
    assert caught.value.code == "store.nothing_written"


def test_a_run_killed_after_its_commit_is_reported_and_not_trained_again(store: Store) -> None:
    train(store)
    (run,) = list_runs(store)
    info = json.loads((run.path / "run.json").read_text())
    del info["checksum"]
    (run.path / "run.json").write_text(json.dumps({**info, "status": "unfinished"}))
    num_lines = len(list(read_run_log(run)))
    resumable = find_resumable_run(store)
    assert resumable and resumable.version == store.get_current_version()

    def never() -> Iterator[TrainingEvent]:
        raise AssertionError("the model was trained again")
        yield

    events = persist_events(never(), store, record=make_run_record(), run=resumable)
    assert list(events) == [TrainingFinished(6, 6, 1.5, {"wer": 0.25})]
    assert find_resumable_run(store) is None and len(store.list_versions()) == 1
    assert len(list(read_run_log(run))) == num_lines


def test_an_abandoned_run_loses_its_checkpoint_and_keeps_its_log(store: Store) -> None:
    run = interrupt_run(store, 2)
    abandon_run(store, run)
    assert find_resumable_run(store) is None
    assert run.log_path.exists() and not run.checkpoint_dir.exists()
    assert list_runs(store)[0].status == "abandoned"


def test_the_newest_unfinished_run_with_a_checkpoint_is_resumed(store: Store) -> None:
    older, newer = interrupt_run(store, 2), interrupt_run(store, 4)
    without_checkpoint = start_run(store, make_run_record())
    run = find_resumable_run(store)
    assert run and run.id == newer.id
    assert len({run.id, older.id, without_checkpoint.id}) == 3


@pytest.mark.parametrize("kill", ["writing", "between the renames", "before the removal"])
def test_opening_a_store_repairs_a_checkpoint(store: Store, home: Path, kill: str) -> None:
    run = interrupt_run(store, 2)
    new, old = run.path / "state.new", run.path / "state.old"
    new.mkdir()
    (new / "half").write_text("half")
    if kill == "between the renames":
        run.checkpoint_dir.rename(old)
    if kill == "before the removal":
        old.mkdir()
    repaired = find_resumable_run(open_store(DLM_ID, home))
    assert repaired and repaired.step == 2 and repaired.checkpoint_dir.is_dir()
    assert not new.exists() and not old.exists()


def test_a_log_line_that_a_kill_cut_short_is_removed(store: Store) -> None:
    run = interrupt_run(store, 2)
    with run.log_path.open("a") as log:
        log.write('{"event": "St')
    before = list(read_run_log(run))
    train(store)
    lines = run.log_path.read_text().splitlines()
    assert [json.loads(line) for line in lines][: len(before)] == before


def test_final_weights_with_nan_make_no_version(store: Store) -> None:
    def write_nan(folder: Path) -> None:
        save_file({"lora.A": np.array([np.nan], np.float32)}, folder / "adapter.safetensors")

    events = [
        replace(event, write_fn=write_nan)
        if isinstance(event, CheckpointSaved) and event.is_final
        else event
        for event in iter_events()
    ]
    with pytest.raises(StoreError, match=r"tensor 'lora\.A' holds nan or inf") as caught:
        persist(store, *events)
    assert caught.value.code == "store.non_finite"
    run = find_resumable_run(store)
    assert store.list_versions() == () and run and run.step == 6


def test_a_run_folder_that_links_out_of_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    train(store)
    (store.layout.runs_dir / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(StoreError) as caught:
        list_runs(store)
    assert caught.value.code == "store.outside"


def test_a_checkpoint_holds_what_the_trainer_wrote(store: Store) -> None:
    saved = CheckpointSaved(1, False, lambda folder: write_weights(3.0, folder))
    persist(store, TrainingStarted(0, 1, 1, 1), saved)
    run = find_resumable_run(store)
    assert run and load_file(run.checkpoint_dir / "adapter.safetensors")["lora.A"][0, 0] == 3.0


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff", b'{"at": "2026"}', b""])
def test_a_damaged_line_of_a_log_is_left_out_and_said(
    damage: bytes, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    train(store)
    (run,) = list_runs(store)
    before = list(read_run_log(run))
    lines = run.log_path.read_bytes().split(b"\n")
    run.log_path.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    assert list(read_run_log(run)) == [before[0], *before[2:]]
    assert "line 2 is damaged and left out" in caplog.text
