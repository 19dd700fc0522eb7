"""A run's events pass through the store, and what must last is kept."""

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
from tests.store.fake_runs import DLM_ID, facts, fit, train, weights


def until(events: Iterator[TrainingEvent], step: int) -> Iterator[TrainingEvent]:
    for event in events:
        if isinstance(event, CheckpointSaved) and event.step > step:
            return
        yield event


def cut_short(store: Store, step: int) -> Run:
    list(persist_events(until(fit(), step), store, record=facts()))
    run = find_resumable_run(store)
    assert run is not None
    return run


def test_events_pass_and_a_version_is_left(store: Store) -> None:
    events = list(fit())
    told = list(persist_events(iter(events), store, record=facts()))
    assert told == events
    (version,), (run,) = store.list_versions(), list_runs(store)
    assert (version.run, version.steps, version.seconds) == (run.id, 6, 1.5)
    assert version.scores == {"wer": 0.25} and version.plan["steps"] == 6
    assert version == run.version == store.get_current_version()
    total = load_file(version.path / "adapter.safetensors")["lora.A"]
    assert total.min() == total.max() == sum(range(6))
    assert (run.status, run.step, run.checkpoint_dir.exists()) == ("finished", None, False)
    assert find_resumable_run(store) is None


def test_the_log_holds_every_event_and_no_function(store: Store) -> None:
    skipped = StepSkipped(1, "loss is nan", ("my.dlm:12",))
    list(persist_events(iter([*list(fit())[:1], skipped, *list(fit())[1:]]), store, record=facts()))
    (run,) = list_runs(store)
    lines = list(read_run_log(run))
    assert [line["event"] for line in lines[:3]] == [
        "TrainingStarted",
        "StepSkipped",
        "StepCompleted",
    ]
    assert lines[1]["locations"] == ["my.dlm:12"]
    assert lines[-1]["event"] == "TrainingFinished" and lines[-1]["scores"] == {"wer": 0.25}
    saved = [line for line in lines if line["event"] == "CheckpointSaved"]
    assert len(saved) == 4 and all(set(s) == {"at", "event", "step", "is_final"} for s in saved)


def test_nan_is_null_in_the_log(store: Store) -> None:
    event = TrainingFinished(1, 1, float("nan"), reason="stopped")
    list(persist_events(iter([event]), store, record=facts()))
    (run,) = list_runs(store)
    assert next(read_run_log(run))["seconds"] is None
    assert "NaN" not in run.log_path.read_text()


def test_a_run_cut_short_goes_on_to_the_same_bytes(store: Store, home: Path) -> None:
    train(store)
    run = cut_short(store, 4)
    assert (run.step, run.status, len(store.list_versions())) == (4, "unfinished", 1)
    assert run.record.find_changed_fields(facts()) == ()
    assert run.record.find_changed_fields(facts(seed=1, plan={})) == ("plan", "seed")
    again = open_store(DLM_ID, home)
    events = train(again)
    assert isinstance(events[0], TrainingStarted) and events[0].step == 4
    whole, resumed = again.list_versions()
    assert whole.sha256 == resumed.sha256 and resumed.run == run.id
    assert [line["event"] for line in read_run_log(run)].count("TrainingStarted") == 2


def test_only_a_finished_run_makes_a_version(store: Store) -> None:
    events = list(fit())[:-1]
    list(persist_events(iter(events), store, record=facts()))
    assert store.list_versions() == () and find_resumable_run(store) is not None


def test_a_stopped_run_goes_on_later(store: Store) -> None:
    stopped = [*until(fit(), 2), TrainingFinished(3, 6, 1.0, reason="stopped")]
    list(persist_events(iter(stopped), store, record=facts()))
    run = find_resumable_run(store)
    assert store.list_versions() == () and run and run.step == 2


def test_a_run_that_ends_with_nothing_says_so(store: Store) -> None:
    with pytest.raises(StoreError, match="ended without anything to keep"):
        list(persist_events(iter([TrainingFinished(6, 6, 1.0)]), store, record=facts()))


def test_a_version_that_is_there_is_reported_not_made_again(store: Store) -> None:
    train(store)
    (run,) = list_runs(store)
    killed = replace(run, status="unfinished", version=None)  # after the commit, before the close
    told = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**told, "status": killed.status}))
    lines = len(list(read_run_log(run)))
    found = find_resumable_run(store)
    assert found and found.version == store.get_current_version()

    def never() -> Iterator[TrainingEvent]:
        raise AssertionError("the model was asked to learn again")
        yield

    events = list(persist_events(never(), store, record=facts(), run=found))
    assert events == [TrainingFinished(6, 6, 1.5, {"wer": 0.25})]
    assert find_resumable_run(store) is None and len(store.list_versions()) == 1
    assert len(list(read_run_log(run))) == lines


def test_abandon_gives_a_run_up(store: Store) -> None:
    run = cut_short(store, 2)
    abandon_run(store, run)
    assert find_resumable_run(store) is None
    assert run.log_path.exists() and not run.checkpoint_dir.exists()
    assert list_runs(store)[0].status == "abandoned"


def test_the_newest_unfinished_run_goes_on(store: Store) -> None:
    old, new = cut_short(store, 2), cut_short(store, 4)
    bare = start_run(store, facts())
    found = find_resumable_run(store)
    assert found and found.id == new.id != old.id and bare.id not in (old.id, new.id)


@pytest.mark.parametrize("kill", ["filling", "between the renames", "before the sweep"])
def test_one_state_is_complete_at_any_time(store: Store, home: Path, kill: str) -> None:
    run = cut_short(store, 2)
    new, old = run.path / "state.new", run.path / "state.old"
    new.mkdir()
    (new / "half").write_text("half")
    if kill == "between the renames":
        run.checkpoint_dir.rename(old)
    if kill == "before the sweep":
        old.mkdir()
    again = find_resumable_run(open_store(DLM_ID, home))
    assert again and again.step == 2 and again.checkpoint_dir.is_dir()
    assert not new.exists() and not old.exists()


def test_a_line_cut_short_is_mended(store: Store) -> None:
    run = cut_short(store, 2)
    with run.log_path.open("a") as log:
        log.write('{"event": "St')
    before = list(read_run_log(run))
    train(store)
    lines = run.log_path.read_text().splitlines()
    assert [json.loads(line) for line in lines][: len(before)] == before


def test_a_final_state_that_is_not_finite_is_no_version(store: Store) -> None:
    def poisoned(folder: Path) -> None:
        save_file({"lora.A": np.array([np.nan], np.float32)}, folder / "adapter.safetensors")

    events = [
        replace(e, write_fn=poisoned) if isinstance(e, CheckpointSaved) and e.is_final else e
        for e in fit()
    ]
    with pytest.raises(StoreError, match=r"tensor 'lora\.A' holds nan or inf"):
        list(persist_events(iter(events), store, record=facts()))
    run = find_resumable_run(store)
    assert store.list_versions() == () and run and run.step == 6


def test_a_run_that_leads_out_is_refused(store: Store, tmp_path: Path) -> None:
    train(store)
    (store.layout.runs_dir / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of the store"):
        list_runs(store)


def test_the_state_is_what_the_trainer_wrote(store: Store) -> None:
    events = [
        TrainingStarted(0, 1, 1, 1),
        CheckpointSaved(1, False, lambda folder: weights(3.0, folder)),
    ]
    list(persist_events(iter(events), store, record=facts()))
    run = find_resumable_run(store)
    assert run and load_file(run.checkpoint_dir / "adapter.safetensors")["lora.A"][0, 0] == 3.0
