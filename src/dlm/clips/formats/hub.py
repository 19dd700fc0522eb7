"""Datasets of the hub, by name, and folders laid out as the hub has them.

    hf:org/name             hf:org/name/config             hf:org/name/config@revision
    path: folder            with `format: hub`: a dataset that was fetched or is to be pushed

`datasets` fetches one into its cache as .arrow files, and recordings are heard from there; nothing
of them is decoded by it. One whose recordings are files or lie in tars is fetched as it is, and
read as an audiofolder or a webdataset. With `stream: true` no other is fetched first: a recording
is kept in <HF_DATASETS_CACHE>/dlm-stream, named by its bytes, once its row has come.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from dlm.clips.benchmarks import test_of
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.audiofolder import audiofolder
from dlm.clips.formats.columns import Columns, column_of
from dlm.clips.formats.parquet import AUDIO, clips_of, library
from dlm.clips.formats.parts import taken_of
from dlm.clips.formats.webdataset import webdataset
from dlm.clips.origin import Given, Origin, Shard
from dlm.errors import ClipError
from dlm.files import write_atomic

NAME = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
FORM = "write hf:org/name, or hf:org/name/config"
KEPT = "dlm-stream"  # below the cache of `datasets`

OURS = {"audiofolder": audiofolder, "webdataset": webdataset}  # `datasets` would decode them

Rows = Any  # of `datasets`


@dataclass(frozen=True)
class Dataset:
    """What `datasets` is asked for, and its name for people."""

    shown: str
    path: str
    config: str | None
    revision: str | None

    @classmethod
    def of(cls, origin: Origin) -> "Dataset":
        """The dataset that a source names."""
        if origin.root.is_dir():
            return cls(origin.name, str(origin.root), None, None)
        found = NAME.fullmatch(origin.name)
        if found is None:
            raise ClipError(f"{origin.name} is no name of a dataset", mend=FORM)
        return cls(origin.name, found["name"], found["config"], found["revision"])

    def known(self) -> Rows:
        """What `datasets` knows of it before anything is fetched: its kind and its parts."""
        with _answers(self) as datasets:
            return datasets.get_dataset_config_info(self.path, self.config, revision=self.revision)

    def fetched(self) -> Path:
        """The folder of the cache with all of its files."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        quiet = nullcontext() if sys.stderr.isatty() else disable_progress_bars()
        with _answers(self), quiet:
            return Path(snapshot_download(self.path, repo_type="dataset", revision=self.revision))

    def rows(self, split: str, *, stream: bool) -> Rows:
        """One of its parts."""
        with _answers(self) as datasets:
            return datasets.load_dataset(
                self.path, self.config, split=split, revision=self.revision, streaming=stream
            )


def hub(origin: Origin) -> list[Shard]:
    """A shard for each file that is fetched, or that is streamed."""
    dataset = Dataset.of(origin)
    known = dataset.known()
    if known.builder_name in OURS:
        here = origin.root if origin.root.is_dir() else dataset.fetched()
        return OURS[known.builder_name](replace(origin, root=here))
    shards: list[Shard] = []
    for split in taken_of(origin, list(known.splits)):
        name, test = f"{dataset.shown}/{split}", test_of(dataset.path, split)
        rows = dataset.rows(split, stream=origin.source.stream)
        if origin.source.stream:
            rows = rows.decode(False)
            for number in range(rows.num_shards):
                read = partial(_streamed, origin, rows, number, name)
                shards.append(Shard(f"{name}-{number}", read, test))
        else:
            for number, file in enumerate(rows.cache_files):
                shown = f"{name}-{number}" if number else name
                read_all = partial(_kept, origin, Path(file["filename"]), shown)
                shards.append(Shard.of(shown, read_all, test_of=test))
    return shards


def is_hub(root: Path) -> bool:
    """A name that begins with hf:, which is no path."""
    return any(part.startswith("hf:") for part in root.parts) and not root.exists()


def _kept(origin: Origin, arrow: Path, name: str) -> Iterator[Given]:
    """The rows of one fetched file."""
    here = origin.root.is_dir()
    try:
        for given in clips_of(origin, arrow, name):
            yield given if here or isinstance(given, Problem) else _fetched(given, arrow)
    except ClipError as error:
        yield Problem.of(error, name)


def _fetched(clip: Clip, arrow: Path) -> Given:
    """The clip, if its recording was fetched: a dataset does not lead to other files."""
    from datasets import config

    path = clip.sounds[0].path
    if path == arrow or path.resolve().is_relative_to(Path(config.HF_CACHE_HOME).resolve()):
        return clip
    mend = "fetch the dataset, and name its folder"
    return Problem(clip.place, f"it leads to {path}", mend, fatal=True)


def _streamed(origin: Origin, rows: Rows, number: int, name: str, first: int) -> Iterator[Given]:
    """The rows of one shard, from row `first` on."""
    shard = rows.shard(num_shards=rows.num_shards, index=number).skip(first)
    columns: Columns | None = None
    try:
        with _answers(Dataset.of(origin)):
            for at, row in enumerate(shard, start=first + 1):
                place = f"{name}-{number}:{at}"
                columns = columns or Columns.of(origin, row)
                try:
                    audio = column_of(origin, "audio", AUDIO, row)
                    yield _clip(columns, row, row.get(audio or ""), place)
                except ClipError as error:
                    yield Problem.of(error, place)
    except ClipError as error:
        yield Problem.of(error, name)


def _clip(columns: Columns, row: dict[str, object], audio: object, place: str) -> Clip:
    """A row whose recording has come, and is put where it can be heard."""
    held = audio if isinstance(audio, dict) else {"bytes": audio}
    sound = held.get("bytes")
    if not isinstance(sound, bytes) or not sound:
        raise ClipError("no recording", mend="leave `stream` out, so that its files are fetched")
    from datasets import config

    digest = hashlib.sha256(sound).hexdigest()
    suffix = PurePosixPath(str(held.get("path") or "")).suffix
    path = Path(config.HF_DATASETS_CACHE, KEPT, digest[:2], f"{digest}{suffix}")
    if not path.is_file():
        write_atomic(path, sound)
    return columns.clip(Sound(path, written=place), row, place)


@contextmanager
def _answers(dataset: Dataset) -> Iterator[Any]:
    """`datasets` itself; what it says of a dataset that it cannot give is a ClipError."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    datasets = library()
    here = f"hf download {dataset.path} --repo-type dataset --local-dir data"
    try:
        yield datasets
    except ImportError as error:
        what = f"`datasets` would decode {dataset.shown}"
        raise ClipError(what, mend=f"`{here}`, and name data") from error
    except (OfflineModeIsEnabled, ConnectionError) as error:
        mend = "try again when it can be, or without HF_HUB_OFFLINE"
        raise ClipError(f"the hub cannot be asked for {dataset.shown}", mend=mend) from error
    except (HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        mend = "check the name, accept its licence, or log in with `hf auth login`"
        raise ClipError(f"{dataset.shown} is not given by the hub", mend=mend) from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        told = str(error.__cause__ or error).strip().split("\n")[0]
        raise ClipError(f"{dataset.shown} cannot be loaded: {told}", mend=FORM) from error
