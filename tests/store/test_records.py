"""Records become JSON and records again; a damaged one is None, an old one is read."""

import json
from pathlib import Path

from dlm.store.records import (
    EXPORT_TYPE_ADAPTER,
    RUN_TYPE_ADAPTER,
    RunInfo,
    dump_record_json,
    load_record_json,
    to_jsonable,
)
from tests.store.fake_runs import make_run_record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    info = RunInfo(started_at="2026", status="unfinished", record=make_run_record())
    path = tmp_path / "run.json"
    path.write_text(dump_record_json(info))
    loaded = load_record_json(RUN_TYPE_ADAPTER, path)
    assert loaded is not None and loaded.record.find_changed_fields(info.record) == ()
    assert loaded.record.train_recordings == info.record.train_recordings


def test_the_base_model_of_an_old_record_is_read(tmp_path: Path) -> None:
    info = RunInfo(started_at="2026", status="unfinished", record=make_run_record())
    fields = json.loads(dump_record_json(info))
    del fields["checksum"]  # earlier versions wrote none
    record = fields.pop("record")
    old_names = {
        "base": record.pop("base_model"),
        "base_revision": record.pop("base_model_revision"),
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**fields, "facts": {**record, **old_names}}))
    loaded = load_record_json(RUN_TYPE_ADAPTER, path)
    assert loaded is not None and loaded.record.base_model == "sparrow"
    assert loaded.record.find_changed_fields(info.record) == ()


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert load_record_json(RUN_TYPE_ADAPTER, path) is None
    for text in (b"", b"{", b"[]", b"3", b"\xff", b'{"status": "other"}'):
        path.write_bytes(text)
        assert load_record_json(RUN_TYPE_ADAPTER, path) is None
        assert load_record_json(EXPORT_TYPE_ADAPTER, path) is None


def test_what_json_cannot_hold_is_converted() -> None:
    value = {1: float("nan"), "path": Path("a"), "call": print, "pair": (True, float("inf"))}
    assert to_jsonable(value) == {"1": None, "path": "a", "pair": [True, None]}
