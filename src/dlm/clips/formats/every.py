"""The formats that clips come in, and how the format of a source is found out.

A format is a function from an Origin to its Shards, and a look at the path that says whether it is
one. The first whose look fits is taken, so the particular stand before the general.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.formats.audiofolder import audiofolder, is_audiofolder
from dlm.clips.formats.captions import (
    audiocaps,
    clotho,
    is_audiocaps,
    is_clotho,
    is_musiccaps,
    musiccaps,
)
from dlm.clips.formats.commonvoice import commonvoice, is_commonvoice
from dlm.clips.formats.folder import folder, is_folder
from dlm.clips.formats.granary import granary, is_granary
from dlm.clips.formats.hub import hub, is_hub
from dlm.clips.formats.kaldi import is_kaldi, kaldi
from dlm.clips.formats.lhotse import is_lhotse, lhotse
from dlm.clips.formats.librispeech import is_librispeech, librispeech
from dlm.clips.formats.manifest import is_manifest, manifest
from dlm.clips.formats.nemo import is_nemo, nemo
from dlm.clips.formats.parquet import is_parquet, parquet
from dlm.clips.formats.tables import is_table, table
from dlm.clips.formats.webdataset import is_webdataset, webdataset
from dlm.clips.origin import Origin, Shard
from dlm.document.sources import SourceFormat
from dlm.errors import ClipError


@dataclass(frozen=True)
class Format:
    """A way to keep clips: what it looks like, for people, and the two functions."""

    name: SourceFormat
    told: str
    looks: Callable[[Path], bool]
    shards: Callable[[Origin], list[Shard]]


FORMATS = (
    Format("musiccaps", "table with ytid, start_s, end_s and caption", is_musiccaps, musiccaps),
    Format("audiocaps", "table with youtube_id, start_time and caption", is_audiocaps, audiocaps),
    Format("clotho", "table with file_name and caption_1 to caption_5", is_clotho, clotho),
    Format("lhotse", "cuts, or a folder of recordings and supervisions", is_lhotse, lhotse),
    Format("nemo", "manifest whose rows have an audio_filepath; tarred too", is_nemo, nemo),
    Format("granary", "rows of text with ids, joined with recordings", is_granary, granary),
    Format("json", ".jsonl or .json, a clip or a conversation a row", is_manifest, manifest),
    Format("table", ".csv or .tsv with columns of audio and text", is_table, table),
    Format("hub", "hf:org/name[/config], a dataset of the hub", is_hub, hub),
    Format("kaldi", "folder with wav.scp and text, and segments", is_kaldi, kaldi),
    Format("commonvoice", "folder with clips/ and train.tsv", is_commonvoice, commonvoice),
    Format("librispeech", "subsets with speaker/chapter/*.trans.txt", is_librispeech, librispeech),
    Format(
        "audiofolder", "folder with metadata.csv, .jsonl or .parquet", is_audiofolder, audiofolder
    ),
    Format(
        "webdataset",
        ".tar, a pattern such as {000..010}.tar, or a folder of them",
        is_webdataset,
        webdataset,
    ),
    Format(
        "parquet", ".parquet or .arrow, a folder of them, or a saved dataset", is_parquet, parquet
    ),
    Format("folder", "recordings, each with a .txt, .srt or .vtt beside it", is_folder, folder),
)
BY_NAME = {each.name: each for each in FORMATS}


def format_of(origin: Origin) -> Format:
    """The format that the source says, or the first that it looks like."""
    said = origin.source.format
    if said is not None:
        return BY_NAME[said]
    found = next((each for each in FORMATS if each.looks(origin.root)), None)
    if found is None:
        what = f"source is neither a folder nor audio: {origin.source.path}"
        raise ClipError(
            what, mend="name a folder of clips, a list or a table of them, or say its format"
        )
    return found
