"""Datasets of a hub on this machine, over real HTTP: downloaded, streamed, cached, refused."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.load import LoadedData
from dlm.data.readers.base import SourceContext
from dlm.data.readers.hf_datasets import list_hub_shards
from dlm.data.types import AudioSegment, Example
from dlm.io import sha256_file
from tests.data.readers.folder_fixtures import make_dataset_rows, write_audiofolder_csv
from tests.data.readers.recordings import RECORDINGS
from tests.data.readers.source_loading import (
    get_issues,
    get_lines,
    get_locations,
    load_source,
)
from tests.fake_hub import FakeHub, HubRequestHandler, Repository, serve_hub, use_hub


class DatasetRequestHandler(HubRequestHandler):
    """What a hub answers about datasets: the files of a folder, and their contents."""

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        hub: FakeHub = self.server.hub
        kind, _, rest = unquote(path).lstrip("/").removeprefix("api/").partition("/")
        parts = rest.split("/")
        name, below = "/".join(parts[:2]), "/".join(parts[4:])
        repository = hub.repositories.get(name) if kind == "datasets" else None
        hub.requests.append(f"{self.command} {path}")
        if repository is None:
            self.send_failure(404, "RepoNotFound")
        elif repository.gated:
            self.send_failure(403, "GatedRepo")
        elif parts[3:4] not in ([], ["main"], [repository.commit]):
            self.send_failure(404, "RevisionNotFound")
        elif parts[2:3] == ["resolve"]:
            self.send_file(repository, below)
        elif parts[2:3] == ["tree"]:
            entries = list_entries(repository, below)
            if entries:
                self.send_data(json.dumps(entries).encode())
            else:
                self.send_failure(404, "EntryNotFound", commit=repository.commit)
        else:
            files = (file for file in repository.folder.rglob("*") if file.is_file())
            siblings = [{"rfilename": str(file.relative_to(repository.folder))} for file in files]
            info = {"id": name, "sha": repository.commit, "siblings": siblings}
            self.send_data(json.dumps({**info, "tags": [], "private": False}).encode())


def list_entries(repository: Repository, below: str) -> list[dict[str, object]]:
    """The entries of a folder of a repository."""
    folder = repository.folder / below
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(repository.folder).as_posix(),
            "size": 0 if path.is_dir() else path.stat().st_size,
            "oid": hashlib.sha1(path.name.encode()).hexdigest(),
        }
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
    ]


def write_dataset(folder: Path) -> Path:
    """Write a dataset of two splits, one of them in two files."""
    rows = make_dataset_rows(folder)
    (folder / "data").mkdir(parents=True)
    files = {"train-00000-of-00002": rows[:2], "train-00001-of-00002": rows[2:]}
    for name, file_rows in {**files, "test-00000-of-00001": rows}.items():
        table = pyarrow.Table.from_pylist(file_rows)
        pyarrow.parquet.write_table(table, folder / f"data/{name}.parquet")
    return folder


def hash_segment(segment: AudioSegment) -> str:
    first, size = segment.byte_range or (0, None)
    return hashlib.sha256(segment.path.read_bytes()[first:][:size]).hexdigest()


def describe_audio(data: LoadedData) -> list[tuple[str, str]]:
    """The text of each example, and the sha256 of its recording."""
    return [
        (example.target, hash_segment(segment))
        for example in data.examples
        for segment in example.audio_segments
    ]


def describe_dataset(folder: Path) -> list[tuple[str, str]]:
    """The same of the three recordings that `write_dataset` wrote."""
    return [(audio.text, sha256_file(folder / f"away/{audio.stem}.wav")) for audio in RECORDINGS]


def connect(monkeypatch: pytest.MonkeyPatch, hub: FakeHub | None, cache: Path) -> None:
    """Let `datasets` use a hub in this process; without one it is offline."""
    from datasets import config

    use_hub(monkeypatch, hub, cache)
    monkeypatch.setattr(config, "HF_ENDPOINT", hub.address if hub else config.HF_ENDPOINT)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", hub is None)
    monkeypatch.setattr(config, "HF_CACHE_HOME", str(cache))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache / "datasets")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with a dataset under three names, one of them behind a licence."""
    folder = write_dataset(tmp_path / "repository")
    with serve_hub(DatasetRequestHandler) as hub:
        for name in ("org/words", "google/fleurs", "org/shut"):
            hub.repositories[name] = Repository(folder, gated=name == "org/shut")
        connect(monkeypatch, hub, tmp_path / "cache")
        yield hub


def test_a_dataset_is_downloaded_once(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = load_source(tmp_path, {"path": "hf:org/words"})
    assert capfd.readouterr() == ("", "")
    assert get_issues(data) == []
    assert describe_audio(data) == describe_dataset(tmp_path / "repository")
    assert [example.speaker for example in data.examples] == [each.speaker for each in RECORDINGS]
    assert get_locations(data) == [f"hf:org/words/train:{number}" for number in (1, 2, 3)]
    assert all(example.audio_segments[0].path.suffix == ".arrow" for example in data.examples)
    num_requests = len(hub.requests)
    connect(monkeypatch, None, tmp_path / "cache")
    assert load_source(tmp_path, {"path": "hf:org/words"}).examples == data.examples
    data = load_source(tmp_path, {"path": "hf:org/new"})
    assert get_issues(data) == [("my.dlm:7", "source.hub_unreachable")]
    assert "HF_HUB_OFFLINE" in data.issues[0].hint
    assert len(hub.requests) == num_requests


def test_a_test_split_of_a_benchmark_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    data = load_source(tmp_path, {"path": "hf:google/fleurs", "split": "test"})
    assert data.sources[0].test_benchmarks == ("FLEURS",)
    assert get_issues(data) == [("my.dlm:7", "data.test_split")]
    assert "FLEURS" in data.issues[0].what


def test_a_dataset_may_not_name_other_files_of_this_machine(hub: FakeHub, tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"audio": {"path": "/etc/hosts"}, "text": "Hi."}])
    (tmp_path / "away").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "away/0.parquet")
    hub.repositories["org/away"] = Repository(tmp_path / "away")
    data = load_source(tmp_path, {"path": "hf:org/away"})
    assert get_issues(data) == [("hf:org/away/train:1", "data.outside_folder")]
    assert data.issues[0].what == "it leads to /etc/hosts"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dataset_of_files_is_downloaded_as_it_is(
    hub: FakeHub, tmp_path: Path, stream: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    write_audiofolder_csv(tmp_path)
    hub.repositories["org/files"] = Repository(tmp_path / "corpus")
    data = load_source(tmp_path, {"path": "hf:org/files", "stream": stream})
    assert capfd.readouterr() == ("", "")
    assert get_issues(data) == []
    assert get_locations(data) == [f"hf:org/files/metadata.csv:{line}" for line in (2, 3, 4)]
    digests = [digest for _, digest in describe_dataset(tmp_path / "repository")]
    assert [digest for _, digest in describe_audio(data)] == digests


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ({"path": "hf:org/gone"}, "source.hub_refused", "the hub does not give hf:org/gone"),
        ({"path": "hf:org/shut"}, "source.hub_refused", "the hub does not give hf:org/shut"),
        ({"path": "hf:org/words@v0"}, "source.hub_refused", "does not give hf:org/words@v0"),
        ({"path": "hf:words"}, "source.bad_hub_name", "hf:words is not the name of a dataset"),
        (
            {"path": "hf:org/words/fr"},
            "source.hub_bad_dataset",
            "hf:org/words/fr cannot be loaded: BuilderConfig 'fr' not found. Available: ",
        ),
        (
            {"path": "hf:org/words", "split": "dev"},
            "source.no_split",
            "no split dev: it has test, train",
        ),
    ],
)
def test_a_dataset_that_cannot_be_loaded_is_an_error(
    hub: FakeHub, tmp_path: Path, source: dict[str, Any], code: str, words: str
) -> None:
    data = load_source(tmp_path, source)
    assert data.examples == () and get_issues(data) == [("my.dlm:7", code)]
    assert words in data.issues[0].what
    if code == "source.hub_refused":
        assert "accept its licence, or log in with `hf auth login`" in data.issues[0].hint


def test_a_stream_is_read_from_any_row_on(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "repository")
    source = SourceConfig(path="repository", format="hub", stream=True)
    one, two = list_hub_shards(SourceContext(folder, source))
    assert (one.name, two.name) == ("repository/train-0", "repository/train-1")
    examples = [item for shard in (one, two) for item in shard.read(0) if isinstance(item, Example)]
    locations = [example.location for example in examples]
    assert locations == [f"{one.name}:1", f"{one.name}:2", f"{two.name}:1"]
    assert [example.speaker for example in examples] == [audio.speaker for audio in RECORDINGS]
    paths = [example.audio_segments[0].path for example in examples]
    texts = [example.target for example in examples]
    assert list(zip(texts, map(sha256_file, paths), strict=True)) == describe_dataset(folder)
    assert all(sha256_file(path) == path.stem and path.suffix == ".wav" for path in paths)
    assert all(path.is_relative_to(os.environ["HF_DATASETS_CACHE"]) for path in paths)
    assert list(one.read(1)) == examples[1:2] and list(one.read(2)) == []


def test_a_streamed_row_without_a_recording_is_an_issue(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"audio": {"bytes": None, "path": "/etc/a.wav"}, "text": "Hi."}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data/0.parquet")
    data = load_source(tmp_path, {"path": "data", "format": "hub", "stream": True})
    assert get_issues(data) == [("data/train-0:1", "data.no_audio_path")]
    assert data.issues[0].hint == "leave `stream` out, so that its files are downloaded"


def test_a_stream_that_is_damaged_is_an_issue(tmp_path: Path) -> None:
    path = tmp_path / "data/train-00000-of-00001.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(make_dataset_rows(tmp_path)), path)
    file_bytes = path.read_bytes()
    path.write_bytes(file_bytes[:20] + bytes(20) + file_bytes[40:])
    data = load_source(tmp_path, {"path": "data", "format": "hub", "stream": True})
    assert get_issues(data) == [("data/train", "source.hub_bad_dataset")]


def test_without_the_libraries_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Hi."]}), tmp_path / "a.parquet")
    (tmp_path / "a.arrow").write_bytes(b"")
    for library, path in (
        ("datasets", "hf:org/words"),
        ("datasets", "a.parquet"),
        ("pyarrow", "a.arrow"),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        data = load_source(tmp_path, {"path": path})
        assert get_issues(data) == [("my.dlm:7", "extra.missing")]
        line = f"my.dlm:7: {library} is not installed; pip install 'dlm[data]'"
        assert get_lines(data)[0] == line


def test_under_strict_the_hub_is_refused(tmp_path: Path) -> None:
    data = load_source(tmp_path, {"path": "hf:org/words"}, policy="strict")
    assert get_issues(data) == [("my.dlm:7", "data.outside_folder")]
