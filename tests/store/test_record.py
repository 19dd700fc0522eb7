"""A run's events pass through the store, and what must last is kept."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlm.errors import StoreError
from dlm.store.record import Run, abandon, find_resumable, read_log, record, runs, start_run
from dlm.store.versions import Store, open_store
from dlm.training.events import Event, Finished, Saved, Skipped, Started
from tests.store.fake_runs import DLM_ID, facts, fit, train, weights


def until(events: Iterator[Event], step: int) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Saved) and event.step > step:
            return
        yield event


def cut_short(store: Store, step: int) -> Run:
    list(record(until(fit(), step), store, facts=facts()))
    run = find_resumable(store)
    assert run is not None
    return run


def test_events_pass_and_a_version_is_left(store: Store) -> None:
    events = list(fit())
    told = list(record(iter(events), store, facts=facts()))
    assert told == events
    (version,), (run,) = store.versions(), runs(store)
    assert (version.run, version.steps, version.seconds) == (run.id, 6, 1.5)
    assert version.scores == {"wer": 0.25} and version.plan["steps"] == 6
    assert version == run.version == store.current()
    total = load_file(version.path / "adapter.safetensors")["lora.A"]
    assert total.min() == total.max() == sum(range(6))
    assert (run.status, run.step, run.state.exists()) == ("finished", None, False)
    assert find_resumable(store) is None


def test_the_log_holds_every_event_and_no_function(store: Store) -> None:
    skipped = Skipped(1, "loss is nan", ("my.dlm:12",))
    list(record(iter([*list(fit())[:1], skipped, *list(fit())[1:]]), store, facts=facts()))
    (run,) = runs(store)
    lines = list(read_log(run))
    assert [line["event"] for line in lines[:3]] == ["Started", "Skipped", "Step"]
    assert lines[1]["clips"] == ["my.dlm:12"]
    assert lines[-1]["event"] == "Finished" and lines[-1]["scores"] == {"wer": 0.25}
    saved = [line for line in lines if line["event"] == "Saved"]
    assert len(saved) == 4 and all(set(s) == {"at", "event", "step", "final"} for s in saved)


def test_nan_is_null_in_the_log(store: Store) -> None:
    event = Finished(1, 1, float("nan"), reason="stopped")
    list(record(iter([event]), store, facts=facts()))
    (run,) = runs(store)
    assert next(read_log(run))["seconds"] is None
    assert "NaN" not in run.log.read_text()


def test_a_run_cut_short_goes_on_to_the_same_bytes(store: Store, home: Path) -> None:
    train(store)
    run = cut_short(store, 4)
    assert (run.step, run.status, len(store.versions())) == (4, "unfinished", 1)
    assert run.facts.differences(facts()) == ()
    assert run.facts.differences(facts(seed=1, plan={})) == ("plan", "seed")
    again = open_store(DLM_ID, home)
    events = train(again)
    assert isinstance(events[0], Started) and events[0].step == 4
    whole, resumed = again.versions()
    assert whole.sha256 == resumed.sha256 and resumed.run == run.id
    assert [line["event"] for line in read_log(run)].count("Started") == 2


def test_only_a_finished_run_makes_a_version(store: Store) -> None:
    events = list(fit())[:-1]
    list(record(iter(events), store, facts=facts()))
    assert store.versions() == () and find_resumable(store) is not None


def test_a_stopped_run_goes_on_later(store: Store) -> None:
    stopped = [*until(fit(), 2), Finished(3, 6, 1.0, reason="stopped")]
    list(record(iter(stopped), store, facts=facts()))
    run = find_resumable(store)
    assert store.versions() == () and run and run.step == 2


def test_a_run_that_ends_with_nothing_says_so(store: Store) -> None:
    with pytest.raises(StoreError, match="ended without anything to keep"):
        list(record(iter([Finished(6, 6, 1.0)]), store, facts=facts()))


def test_a_version_that_is_there_is_reported_not_made_again(store: Store) -> None:
    train(store)
    (run,) = runs(store)
    killed = replace(run, status="unfinished", version=None)  # after the commit, before the close
    told = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**told, "status": killed.status}))
    lines = len(list(read_log(run)))
    found = find_resumable(store)
    assert found and found.version == store.current()

    def never() -> Iterator[Event]:
        raise AssertionError("the model was asked to learn again")
        yield

    events = list(record(never(), store, facts=facts(), run=found))
    assert events == [Finished(6, 6, 1.5, {"wer": 0.25})]
    assert find_resumable(store) is None and len(store.versions()) == 1
    assert len(list(read_log(run))) == lines


def test_abandon_gives_a_run_up(store: Store) -> None:
    run = cut_short(store, 2)
    abandon(store, run)
    assert find_resumable(store) is None
    assert run.log.exists() and not run.state.exists()
    assert runs(store)[0].status == "abandoned"


def test_the_newest_unfinished_run_goes_on(store: Store) -> None:
    old, new = cut_short(store, 2), cut_short(store, 4)
    bare = start_run(store, facts())
    found = find_resumable(store)
    assert found and found.id == new.id != old.id and bare.id not in (old.id, new.id)


@pytest.mark.parametrize("kill", ["filling", "between the renames", "before the sweep"])
def test_one_state_is_complete_at_any_time(store: Store, home: Path, kill: str) -> None:
    run = cut_short(store, 2)
    new, old = run.path / "state.new", run.path / "state.old"
    new.mkdir()
    (new / "half").write_text("half")
    if kill == "between the renames":
        run.state.rename(old)
    if kill == "before the sweep":
        old.mkdir()
    again = find_resumable(open_store(DLM_ID, home))
    assert again and again.step == 2 and again.state.is_dir()
    assert not new.exists() and not old.exists()


def test_a_line_cut_short_is_mended(store: Store) -> None:
    run = cut_short(store, 2)
    with run.log.open("a") as log:
        log.write('{"event": "St')
    before = list(read_log(run))
    train(store)
    lines = run.log.read_text().splitlines()
    assert [json.loads(line) for line in lines][: len(before)] == before


def test_a_final_state_that_is_not_finite_is_no_version(store: Store) -> None:
    def poisoned(folder: Path) -> None:
        save_file({"lora.A": np.array([np.nan], np.float32)}, folder / "adapter.safetensors")

    events = [replace(e, write=poisoned) if isinstance(e, Saved) and e.final else e for e in fit()]
    with pytest.raises(StoreError, match=r"tensor 'lora\.A' holds nan or inf"):
        list(record(iter(events), store, facts=facts()))
    run = find_resumable(store)
    assert store.versions() == () and run and run.step == 6


def test_a_run_that_leads_out_is_refused(store: Store, tmp_path: Path) -> None:
    train(store)
    (store.layout.runs / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of the store"):
        runs(store)


def test_the_state_is_what_the_trainer_wrote(store: Store) -> None:
    events = [Started(0, 1, 1, 1), Saved(1, False, lambda folder: weights(3.0, folder))]
    list(record(iter(events), store, facts=facts()))
    run = find_resumable(store)
    assert run and load_file(run.state / "adapter.safetensors")["lora.A"][0, 0] == 3.0
