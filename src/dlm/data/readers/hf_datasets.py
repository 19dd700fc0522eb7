"""Datasets of the Hugging Face hub, by name, and folders laid out as the hub has them.

    hf:org/name             hf:org/name/config             hf:org/name/config@revision
    path: folder            with `format: hub`: a dataset that was downloaded, or is to be pushed

    downloaded   <HF_DATASETS_CACHE>/.../*.arrow     recordings are decoded from there, by dlm
    streamed     <HF_DATASETS_CACHE>/dlm-stream/     with `stream: true`: a file for each recording,
                                                     named by its bytes, written as its row arrives

A dataset of files or tars is downloaded as it is, and read as an audiofolder or a webdataset. No
dataset may name a file of this machine outside the cache as its recording.
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
from dlm.data.readers.columns import ColumnMapping, SourceRecord, find_column
from dlm.data.readers.folders import list_audiofolder_shards
from dlm.data.readers.parquet import AUDIO_COLUMNS, import_datasets, read_arrow_examples
from dlm.data.readers.webdataset import list_webdataset_shards
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError
from dlm.io import write_atomic

HUB_NAME_RE = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
HUB_NAME_HINT = "write hf:org/name, or hf:org/name/config"
STREAM_CACHE_DIR = "dlm-stream"
# `datasets` would decode these itself
BUILDER_READERS = {"audiofolder": list_audiofolder_shards, "webdataset": list_webdataset_shards}

HfDataset = Any  # of `datasets`


@dataclass(frozen=True)
class HubDatasetRef:
    """A dataset as `datasets` loads it.

    Attributes:
        display_name: as the source's author writes it.
        path: its name on the hub, or a folder.
        config, revision: None for the default.
    """

    display_name: str
    path: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def from_context(cls, context: SourceContext) -> "HubDatasetRef":
        """Parse the path of a source. Raises DataError (`source.bad_hub_name`)."""
        if context.root.is_dir():
            return cls(context.name, str(context.root))
        match = HUB_NAME_RE.fullmatch(context.name)
        if match is None:
            what = f"{context.name} is not the name of a dataset"
            raise DataError(what, hint=HUB_NAME_HINT, code="source.bad_hub_name")
        return cls(context.name, match["name"], match["config"], match["revision"])


def is_hub_name(root: Path) -> bool:
    """Whether a path is none, but a name that begins with hf:."""
    return any(part.startswith("hf:") for part in root.parts) and not root.exists()


def list_hub_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each file that is downloaded or streamed.

    Raises:
        DataError: the hub cannot be reached or refuses, or `datasets` cannot load it (`source.*`).
        MissingExtra: `datasets` is not installed.
    """
    dataset_ref = HubDatasetRef.from_context(context)
    with _convert_hub_errors(dataset_ref) as datasets:
        info = datasets.get_dataset_config_info(
            dataset_ref.path, dataset_ref.config, revision=dataset_ref.revision
        )
    if info.builder_name in BUILDER_READERS:
        folder = context.root if context.root.is_dir() else _download_snapshot(dataset_ref)
        return BUILDER_READERS[info.builder_name](replace(context, root=folder))
    return [
        shard
        for split in resolve_splits(context, list(info.splits))
        for shard in _list_split_shards(context, dataset_ref, split)
    ]


def _download_snapshot(dataset_ref: HubDatasetRef) -> Path:
    """The folder of the cache with all files of a dataset."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    progress_bars = nullcontext() if sys.stderr.isatty() else disable_progress_bars()
    with _convert_hub_errors(dataset_ref), progress_bars:
        path, revision = dataset_ref.path, dataset_ref.revision
        return Path(snapshot_download(path, repo_type="dataset", revision=revision))


def _list_split_shards(
    context: SourceContext, dataset_ref: HubDatasetRef, split: str
) -> Iterator[SourceShard]:
    name, streaming = f"{dataset_ref.display_name}/{split}", context.source.stream
    test_benchmark = find_test_benchmark(dataset_ref.path, split)
    with _convert_hub_errors(dataset_ref) as datasets:
        dataset = datasets.load_dataset(
            dataset_ref.path,
            dataset_ref.config,
            split=split,
            revision=dataset_ref.revision,
            streaming=streaming,
        )
    if streaming:
        dataset = dataset.decode(False)
        for index in range(dataset.num_shards):
            read = partial(_read_streamed_shard, context, dataset, index, name)
            yield SourceShard(f"{name}-{index}", read, test_benchmark)
        return
    for index, file in enumerate(dataset.cache_files):
        shard_name = f"{name}-{index}" if index else name
        read_items = partial(_read_cached_arrow, context, Path(file["filename"]), shard_name)
        yield SourceShard.from_iterable(shard_name, read_items, test_benchmark=test_benchmark)


def _read_cached_arrow(context: SourceContext, arrow_path: Path, name: str) -> Iterator[ReaderItem]:
    is_local = context.root.is_dir()
    try:
        for item in read_arrow_examples(context, arrow_path, name):
            yield item if is_local or isinstance(item, Issue) else _require_cached(item, arrow_path)
    except DataError as error:
        yield Issue.from_error(error, name)


def _require_cached(example: Example, arrow_path: Path) -> ReaderItem:
    """The example if its recording was downloaded: a dataset may not name other files."""
    from datasets import config

    path = example.audio_segments[0].path
    if path == arrow_path or path.resolve().is_relative_to(Path(config.HF_CACHE_HOME).resolve()):
        return example
    what, hint = f"it leads to {path}", "download the dataset, and name its folder"
    return Issue(example.location, what, hint, fatal=True, code="data.outside_folder")


def _read_streamed_shard(
    context: SourceContext, dataset: HfDataset, index: int, name: str, start: int
) -> Iterator[ReaderItem]:
    """The rows of one shard, without the first `start`."""
    shard = dataset.shard(num_shards=dataset.num_shards, index=index).skip(start)
    columns: ColumnMapping | None = None
    try:
        with _convert_hub_errors(HubDatasetRef.from_context(context)):
            for number, record in enumerate(shard, start=start + 1):
                location = f"{name}-{index}:{number}"
                columns = columns or ColumnMapping.from_names(context, record)
                try:
                    audio_column = find_column(context, "audio", AUDIO_COLUMNS, record)
                    segment = _save_recording(record.get(audio_column or ""), location)
                    yield columns.make_example(segment, record, location)
                except DataError as error:
                    yield Issue.from_error(error, location)
    except DataError as error:
        yield Issue.from_error(error, name)


def _save_recording(audio: object, location: str) -> AudioSegment:
    """Write a recording that has arrived as a file of the cache, named by its bytes."""
    from datasets import config

    fields: SourceRecord = audio if isinstance(audio, dict) else {"bytes": audio}
    data = fields.get("bytes")
    if not isinstance(data, bytes) or not data:
        hint = "leave `stream` out, so that its files are downloaded"
        raise DataError("no recording", hint=hint, code="data.no_audio_path")
    sha256 = hashlib.sha256(data).hexdigest()
    suffix = PurePosixPath(str(fields.get("path") or "")).suffix
    path = Path(config.HF_DATASETS_CACHE, STREAM_CACHE_DIR, sha256[:2], f"{sha256}{suffix}")
    if not path.is_file():
        write_atomic(path, data)
    return AudioSegment(path, display_path=location)


@contextmanager
def _convert_hub_errors(dataset_ref: HubDatasetRef) -> Iterator[Any]:
    """Give `datasets`, and turn its errors into DataError with a code (`source.*`)."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    datasets, name = import_datasets(), dataset_ref.display_name
    try:
        yield datasets
    except ImportError as error:
        command = f"hf download {dataset_ref.path} --repo-type dataset --local-dir data"
        what, hint = f"`datasets` would decode {name}", f"`{command}`, and name data"
        raise DataError(what, hint=hint, code="source.hub_needs_decoding") from error
    except (OfflineModeIsEnabled, ConnectionError) as error:
        what = f"the hub cannot be reached for {name}"
        hint = "try again when it can be, or without HF_HUB_OFFLINE"
        raise DataError(what, hint=hint, code="source.hub_unreachable") from error
    except (HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        what = f"the hub does not give {name}"
        hint = "check the name, accept its licence, or log in with `hf auth login`"
        raise DataError(what, hint=hint, code="source.hub_refused") from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        what = f"{name} cannot be loaded: {reason}"
        raise DataError(what, hint=HUB_NAME_HINT, code="source.hub_bad_dataset") from error
