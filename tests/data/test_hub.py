"""Datasets of a hub on this machine, over real HTTP: fetched, streamed, kept, and refused."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.readers.base import SourceContext
from dlm.data.readers.hf_datasets import list_hub_shards
from dlm.data.types import Example
from dlm.io import sha256_file
from tests.data.gathering import faults, gathered
from tests.data.keepers_trees import audiofolder_csv, rows_with_bytes
from tests.data.said import SAID
from tests.fake_hub import FakeHub, HubRequestHandler, Repository, serve_hub

ASK = """
import hashlib, json, sys
from pathlib import Path
from tests.data.gathering import gathered, faults

for source in json.load(sys.stdin):
    folder = Path(sys.argv[1])
    found = gathered(folder, source)
    told_of = {"problems": faults(found), "test_of": found.sources[0].test_benchmarks, "clips": []}
    for clip in found.examples:
        (sound,) = clip.audio_segments
        first, size = sound.byte_range or (0, None)
        data = sound.path.read_bytes()[first:][:size]
        row = [clip.location, clip.target, clip.speaker, hashlib.sha256(data).hexdigest()]
        told_of["clips"].append([*row, str(sound.path)])
    print(json.dumps(told_of))
"""


class Datasets(HubRequestHandler):
    """What a hub says of datasets: what is in a folder, and the files."""

    def handle_request(self) -> None:
        asked = urlsplit(self.path)
        hub: FakeHub = self.server.hub
        kind, _, rest = unquote(asked.path).lstrip("/").removeprefix("api/").partition("/")
        words = rest.split("/")
        repository = hub.repositories.get("/".join(words[:2])) if kind == "datasets" else None
        hub.requests.append(f"{self.command} {asked.path}")
        if repository is None:
            self.send_failure(404, "RepoNotFound")
        elif repository.gated:
            self.send_failure(403, "GatedRepo")
        elif words[3:4] not in ([], ["main"], [repository.commit]):
            self.send_failure(404, "RevisionNotFound")
        elif words[2:3] == ["resolve"]:
            self.send_file(repository, "/".join(words[4:]))
        elif words[2:3] == ["tree"] and not _listed(repository, "/".join(words[4:])):
            self.send_failure(404, "EntryNotFound", commit=repository.commit)
        elif words[2:3] == ["tree"]:
            self.send_data(json.dumps(_listed(repository, "/".join(words[4:]))).encode())
        else:
            files = (path for path in repository.folder.rglob("*") if path.is_file())
            names = [path.relative_to(repository.folder).as_posix() for path in files]
            siblings = [{"rfilename": name} for name in names]
            known = {"id": "/".join(words[:2]), "sha": repository.commit, "siblings": siblings}
            self.send_data(json.dumps({**known, "tags": [], "private": False}).encode())


def _listed(repository: Repository, below: str) -> list[dict[str, object]]:
    """What stands in a folder of a repository."""
    here = repository.folder / below
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(repository.folder).as_posix(),
            "size": 0 if path.is_dir() else path.stat().st_size,
            "oid": hashlib.sha1(path.name.encode()).hexdigest(),
        }
        for path in sorted(here.iterdir() if here.is_dir() else ())
    ]


def laid_out(folder: Path) -> Path:
    """A dataset with two parts, of which one lies in two files."""
    rows = rows_with_bytes(folder)
    (folder / "data").mkdir()
    parts = {"train-00000-of-00002": rows[:2], "train-00001-of-00002": rows[2:]}
    for name, some in {**parts, "test-00000-of-00001": rows}.items():
        table = pyarrow.Table.from_pylist(some)
        pyarrow.parquet.write_table(table, folder / f"data/{name}.parquet")
    return folder


def ask(hub: FakeHub, folder: Path, *sources: dict[str, Any], **more: str) -> list[dict[str, Any]]:
    """What documents give in a process that asks this hub, one with each of the sources."""
    (folder / "home").mkdir(exist_ok=True)
    cache = str(folder / "cache/datasets")
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder / "home")],
        input=json.dumps(sources),
        env=hub.make_environment(folder / "cache", HF_DATASETS_CACHE=cache, **more),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def wanted(folder: Path) -> list[list[str]]:
    """What is said in each recording of the dataset, by whom, and the sha256 of its bytes."""
    return [
        [said.text, said.speaker, hashlib.sha256(path.read_bytes()).hexdigest()]
        for said, path in zip(SAID, sorted((folder / "away").glob("*.wav")), strict=True)
    ]


def test_a_dataset_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    folder = laid_out(tmp_path / "repository")
    more = "org/gone org/shut org/words/fr words org/words@v0".split()
    asked = [{"path": "hf:org/words"}, {"path": "hf:org/words", "split": "dev"}]
    asked += [{"path": "hf:google/fleurs", "split": "test"}, {"path": "hf:org/away"}]
    asked += [{"path": "hf:org/files"}, {"path": "hf:org/files", "stream": True}]
    asked += [{"path": f"hf:{name}"} for name in more]
    away = pyarrow.Table.from_pylist([{"audio": {"path": "/etc/hosts"}, "text": "Hi."}])
    (tmp_path / "away").mkdir()
    pyarrow.parquet.write_table(away, tmp_path / "away/0.parquet")
    with serve_hub(Datasets) as site:
        for name in ("org/words", "google/fleurs", "org/shut"):
            site.repositories[name] = Repository(folder, gated=name == "org/shut")
        site.repositories["org/away"] = Repository(tmp_path / "away")
        audiofolder_csv(tmp_path)
        site.repositories["org/files"] = Repository(tmp_path / "corpus")
        found = ask(site, tmp_path, *asked)
        seen = len(site.requests)
        again, new = ask(site, tmp_path, asked[0], {"path": "hf:org/new"}, HF_HUB_OFFLINE="1")
        assert len(site.requests) == seen
    plain, other, test, out, files, stream = found[:6]
    assert plain["problems"] == [] and [each[1:4] for each in plain["clips"]] == wanted(folder)
    assert [each[0] for each in plain["clips"]] == [f"hf:org/words/train:{n}" for n in (1, 2, 3)]
    assert all(each[4].endswith(".arrow") for each in plain["clips"])
    assert again["clips"] == plain["clips"]
    assert other["clips"] == []
    assert "no split dev: it has test, train; say which with split:" in other["problems"][0]
    assert test["test_of"] == ["FLEURS"]
    assert any("FLEURS" in line for line in test["problems"])
    assert out["problems"][0] == (
        "hf:org/away/train:1: it leads to /etc/hosts; download the dataset, and name its folder"
    )
    assert files == stream and files["problems"] == []
    assert [each[0] for each in files["clips"]] == [
        f"hf:org/files/metadata.csv:{line}" for line in (2, 3, 4)
    ]
    assert [each[3] for each in files["clips"]] == [digest for *_, digest in wanted(folder)]
    gone, shut, config, name, revision = (each["problems"][0] for each in found[6:])
    refused = "; check the name, accept its licence, or log in with"
    assert f"my.dlm:7: the hub does not give hf:org/gone{refused} `hf auth login`" in gone
    assert f"the hub does not give hf:org/shut{refused}" in shut
    assert "hf:org/words/fr cannot be loaded: BuilderConfig 'fr' not found. Available: " in config
    assert "hf:words is no name of a dataset; write hf:org/name, or hf:org/name/config" in name
    assert f"the hub does not give hf:org/words@v0{refused}" in revision
    assert "HF_HUB_OFFLINE" in new["problems"][0]


def test_a_stream_is_read_from_any_row_on(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    folder = laid_out(tmp_path / "repository")
    source = SourceConfig(path="repository", format="hub", stream=True)
    origin = SourceContext(folder, source)
    one, two = list_hub_shards(origin)
    assert (one.name, two.name) == ("repository/train-0", "repository/train-1")
    heard = [clip for shard in (one, two) for clip in shard.read(0) if isinstance(clip, Example)]
    assert [clip.location for clip in heard] == [f"{one.name}:1", f"{one.name}:2", f"{two.name}:1"]
    files = [clip.audio_segments[0].path for clip in heard]
    told_of = [[clip.target, clip.speaker, clip.audio_segments[0].path.stem] for clip in heard]
    assert told_of == wanted(folder)
    assert all(sha256_file(path) == path.stem and path.suffix == ".wav" for path in files)
    assert all(path.is_relative_to(os.environ["HF_DATASETS_CACHE"]) for path in files)
    assert list(one.read(1)) == heard[1:2] and list(one.read(2)) == []


def test_a_row_of_a_stream_without_a_recording(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"audio": {"bytes": None, "path": "/etc/a.wav"}, "text": "Hi."}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data/0.parquet")
    source = {"path": "data", "format": "hub", "stream": True}
    assert faults(gathered(tmp_path, source)) == [
        "data/train-0:1: no recording; leave `stream` out, so that its files are downloaded"
    ]


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    missing = "my.dlm:7: datasets is not installed; pip install 'dlm[data]'"
    assert faults(gathered(tmp_path, {"path": "hf:org/words"})) == [missing]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Hi."]}), tmp_path / "a.parquet")
    assert faults(gathered(tmp_path, {"path": "a.parquet"})) == [missing]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.arrow").write_bytes(b"")
    assert faults(gathered(tmp_path, {"path": "a.arrow"})) == [
        missing.replace("datasets", "pyarrow")
    ]


def test_strict_has_no_hub(tmp_path: Path) -> None:
    (line,) = faults(gathered(tmp_path, {"path": "hf:org/words"}, policy="strict"))
    assert "hf:org/words lies outside the document's folder, and sources_policy is strict" in line


def test_a_stream_that_is_damaged_further_on(tmp_path: Path) -> None:
    path = tmp_path / "data/train-00000-of-00001.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_with_bytes(tmp_path)), path)
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(20) + data[40:])
    (line,) = faults(gathered(tmp_path, {"path": "data", "format": "hub", "stream": True}))
    assert line.startswith("data/train: data cannot be loaded: ")
