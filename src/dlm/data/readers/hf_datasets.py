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

from dlm.data.contamination import find_test_benchmark
from dlm.data.readers.base import ReaderItem, SourceContext, SourceShard, resolve_splits
from dlm.data.readers.folders import list_audiofolder_shards
from dlm.data.readers.parquet import AUDIO_COLUMNS, import_datasets, read_arrow_examples
from dlm.data.readers.records import ColumnMapping, find_column
from dlm.data.readers.webdataset import list_webdataset_shards
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError
from dlm.io import write_atomic

HUB_NAME_RE = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
HUB_NAME_HINT = "write hf:org/name, or hf:org/name/config"
STREAM_CACHE_DIR = "dlm-stream"  # below the cache of `datasets`

BUILDER_READERS = {
    "audiofolder": list_audiofolder_shards,
    "webdataset": list_webdataset_shards,
}  # `datasets` would decode them

HfDataset = Any  # of `datasets`


@dataclass(frozen=True)
class HubDatasetRef:
    """What `datasets` is asked for, and its name for people."""

    display_name: str
    path: str
    config: str | None
    revision: str | None

    @classmethod
    def from_context(cls, context: SourceContext) -> "HubDatasetRef":
        """The dataset that a source names."""
        if context.root.is_dir():
            return cls(context.name, str(context.root), None, None)
        found = HUB_NAME_RE.fullmatch(context.name)
        if found is None:
            raise DataError(f"{context.name} is no name of a dataset", hint=HUB_NAME_HINT)
        return cls(context.name, found["name"], found["config"], found["revision"])

    def fetch_info(self) -> HfDataset:
        """What `datasets` knows of it before anything is fetched: its kind and its parts."""
        with _convert_hub_errors(self) as datasets:
            return datasets.get_dataset_config_info(self.path, self.config, revision=self.revision)

    def download_snapshot(self) -> Path:
        """The folder of the cache with all of its files."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        quiet = nullcontext() if sys.stderr.isatty() else disable_progress_bars()
        with _convert_hub_errors(self), quiet:
            return Path(snapshot_download(self.path, repo_type="dataset", revision=self.revision))

    def load_split(self, split: str, *, streaming: bool) -> HfDataset:
        """One of its parts."""
        with _convert_hub_errors(self) as datasets:
            return datasets.load_dataset(
                self.path, self.config, split=split, revision=self.revision, streaming=streaming
            )


def list_hub_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each file that is fetched, or that is streamed."""
    dataset = HubDatasetRef.from_context(context)
    known = dataset.fetch_info()
    if known.builder_name in BUILDER_READERS:
        here = context.root if context.root.is_dir() else dataset.download_snapshot()
        return BUILDER_READERS[known.builder_name](replace(context, root=here))
    shards: list[SourceShard] = []
    for split in resolve_splits(context, list(known.splits)):
        name, test = f"{dataset.display_name}/{split}", find_test_benchmark(dataset.path, split)
        rows = dataset.load_split(split, streaming=context.source.stream)
        if context.source.stream:
            rows = rows.decode(False)
            for number in range(rows.num_shards):
                read = partial(_read_streamed_shard, context, rows, number, name)
                shards.append(SourceShard(f"{name}-{number}", read, test))
        else:
            for number, file in enumerate(rows.cache_files):
                shown = f"{name}-{number}" if number else name
                read_all = partial(_read_cached_arrow, context, Path(file["filename"]), shown)
                shards.append(SourceShard.from_iterable(shown, read_all, test_benchmark=test))
    return shards


def is_hub_name(root: Path) -> bool:
    """A name that begins with hf:, which is no path."""
    return any(part.startswith("hf:") for part in root.parts) and not root.exists()


def _read_cached_arrow(context: SourceContext, arrow_path: Path, name: str) -> Iterator[ReaderItem]:
    """The rows of one fetched file."""
    here = context.root.is_dir()
    try:
        for given in read_arrow_examples(context, arrow_path, name):
            yield (
                given
                if here or isinstance(given, Issue)
                else _require_downloaded(given, arrow_path)
            )
    except DataError as error:
        yield Issue.from_error(error, name)


def _require_downloaded(example: Example, arrow_path: Path) -> ReaderItem:
    """The clip, if its recording was fetched: a dataset does not lead to other files."""
    from datasets import config

    path = example.audio_segments[0].path
    if path == arrow_path or path.resolve().is_relative_to(Path(config.HF_CACHE_HOME).resolve()):
        return example
    mend = "fetch the dataset, and name its folder"
    return Issue(example.location, f"it leads to {path}", mend, fatal=True)


def _read_streamed_shard(
    context: SourceContext, dataset: HfDataset, shard_number: int, name: str, start: int
) -> Iterator[ReaderItem]:
    """The rows of one shard, from row `first` on."""
    shard = dataset.shard(num_shards=dataset.num_shards, index=shard_number).skip(start)
    columns: ColumnMapping | None = None
    try:
        with _convert_hub_errors(HubDatasetRef.from_context(context)):
            for at, row in enumerate(shard, start=start + 1):
                place = f"{name}-{shard_number}:{at}"
                columns = columns or ColumnMapping.from_names(context, row)
                try:
                    audio = find_column(context, "audio", AUDIO_COLUMNS, row)
                    yield _make_streamed_example(columns, row, row.get(audio or ""), place)
                except DataError as error:
                    yield Issue.from_error(error, place)
    except DataError as error:
        yield Issue.from_error(error, name)


def _make_streamed_example(
    columns: ColumnMapping, record: dict[str, object], audio: object, location: str
) -> Example:
    """A row whose recording has come, and is put where it can be heard."""
    held = audio if isinstance(audio, dict) else {"bytes": audio}
    sound = held.get("bytes")
    if not isinstance(sound, bytes) or not sound:
        raise DataError("no recording", hint="leave `stream` out, so that its files are fetched")
    from datasets import config

    digest = hashlib.sha256(sound).hexdigest()
    suffix = PurePosixPath(str(held.get("path") or "")).suffix
    path = Path(config.HF_DATASETS_CACHE, STREAM_CACHE_DIR, digest[:2], f"{digest}{suffix}")
    if not path.is_file():
        write_atomic(path, sound)
    return columns.make_example(AudioSegment(path, display_path=location), record, location)


@contextmanager
def _convert_hub_errors(dataset: HubDatasetRef) -> Iterator[Any]:
    """`datasets` itself; what it says of a dataset that it cannot give is a ClipError."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    datasets = import_datasets()
    here = f"hf download {dataset.path} --repo-type dataset --local-dir data"
    try:
        yield datasets
    except ImportError as error:
        what = f"`datasets` would decode {dataset.display_name}"
        raise DataError(what, hint=f"`{here}`, and name data") from error
    except (OfflineModeIsEnabled, ConnectionError) as error:
        mend = "try again when it can be, or without HF_HUB_OFFLINE"
        raise DataError(f"the hub cannot be asked for {dataset.display_name}", hint=mend) from error
    except (HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        mend = "check the name, accept its licence, or log in with `hf auth login`"
        raise DataError(f"{dataset.display_name} is not given by the hub", hint=mend) from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        told = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(
            f"{dataset.display_name} cannot be loaded: {told}", hint=HUB_NAME_HINT
        ) from error
