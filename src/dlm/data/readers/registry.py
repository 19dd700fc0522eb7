"""The sixteen formats of a source, and which of them a path is.

    path -> is_musiccaps? is_audiocaps? ... is_parquet? is_folder?   the first that matches
         -> list_shards(context) -> shards of examples

A source may name its `format`; otherwise the first reader that matches is used, so specific formats
stand before general ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlm.config.data_schema import SourceFormat
from dlm.data.readers.base import SourceContext, SourceShard
from dlm.data.readers.captions import (
    is_audiocaps,
    is_clotho,
    is_musiccaps,
    list_audiocaps_shards,
    list_clotho_shards,
    list_musiccaps_shards,
)
from dlm.data.readers.corpora import (
    is_commonvoice,
    is_kaldi,
    is_librispeech,
    list_commonvoice_shards,
    list_kaldi_shards,
    list_librispeech_shards,
)
from dlm.data.readers.folders import (
    is_audiofolder,
    is_folder,
    list_audiofolder_shards,
    list_folder_shards,
)
from dlm.data.readers.hf_datasets import is_hub_name, list_hub_shards
from dlm.data.readers.manifests import (
    is_granary,
    is_lhotse,
    is_nemo,
    list_granary_shards,
    list_lhotse_shards,
    list_nemo_shards,
)
from dlm.data.readers.parquet import is_parquet, list_parquet_shards
from dlm.data.readers.tables import is_json_list, is_table, list_json_shards, list_table_shards
from dlm.data.readers.webdataset import is_webdataset, list_webdataset_shards
from dlm.errors import DataError


@dataclass(frozen=True)
class SourceReader:
    """The reader of one format.

    Attributes:
        name: as `format` of a source names it.
        description: what it looks like, for people.
        matches: whether a path looks like it.
        list_shards: the shards of a source; raises DataError.
    """

    name: SourceFormat
    description: str
    matches: Callable[[Path], bool]
    list_shards: Callable[[SourceContext], list[SourceShard]]


READERS = (
    SourceReader(
        "musiccaps",
        "table with ytid, start_s, end_s and caption",
        is_musiccaps,
        list_musiccaps_shards,
    ),
    SourceReader(
        "audiocaps",
        "table with youtube_id, start_time and caption",
        is_audiocaps,
        list_audiocaps_shards,
    ),
    SourceReader(
        "clotho", "table with file_name and caption_1 to caption_5", is_clotho, list_clotho_shards
    ),
    SourceReader(
        "lhotse", "cuts, or a folder of recordings and supervisions", is_lhotse, list_lhotse_shards
    ),
    SourceReader(
        "nemo", "manifest whose rows have an audio_filepath; tarred too", is_nemo, list_nemo_shards
    ),
    SourceReader(
        "granary", "rows of text with ids, joined with recordings", is_granary, list_granary_shards
    ),
    SourceReader(
        "json", ".jsonl or .json, a clip or a conversation a row", is_json_list, list_json_shards
    ),
    SourceReader(
        "table", ".csv or .tsv with columns of audio and text", is_table, list_table_shards
    ),
    SourceReader("hub", "hf:org/name[/config], a dataset of the hub", is_hub_name, list_hub_shards),
    SourceReader(
        "kaldi", "folder with wav.scp and text, and segments", is_kaldi, list_kaldi_shards
    ),
    SourceReader(
        "commonvoice", "folder with clips/ and train.tsv", is_commonvoice, list_commonvoice_shards
    ),
    SourceReader(
        "librispeech",
        "subsets with speaker/chapter/*.trans.txt",
        is_librispeech,
        list_librispeech_shards,
    ),
    SourceReader(
        "audiofolder",
        "folder with metadata.csv, .jsonl or .parquet",
        is_audiofolder,
        list_audiofolder_shards,
    ),
    SourceReader(
        "webdataset",
        ".tar, a pattern such as {000..010}.tar, or a folder of them",
        is_webdataset,
        list_webdataset_shards,
    ),
    SourceReader(
        "parquet",
        ".parquet or .arrow, a folder of them, or a saved dataset",
        is_parquet,
        list_parquet_shards,
    ),
    SourceReader(
        "folder",
        "recordings, each with a .txt, .srt or .vtt beside it",
        is_folder,
        list_folder_shards,
    ),
)
READERS_BY_NAME = {reader.name: reader for reader in READERS}


def find_reader(context: SourceContext) -> SourceReader:
    """Return the reader of the format that the source names, or the first that matches.

    Raises:
        DataError: none does (`source.unknown_format`).
    """
    if context.source.format is not None:
        return READERS_BY_NAME[context.source.format]
    reader = next((reader for reader in READERS if reader.matches(context.root)), None)
    if reader is None:
        raise DataError(
            f"source is neither a folder nor audio: {context.source.path}",
            hint="name a folder of clips, a list or a table of them, or give its format",
            code="source.unknown_format",
        )
    return reader
