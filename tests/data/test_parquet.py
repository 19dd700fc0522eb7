"""Datasets in files: where their recordings lie, and what is said of files that are none."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pyarrow import feather, ipc

from dlm.data.audio_io import load_audio
from dlm.data.readers.parquet import is_parquet
from dlm.data.types import AudioSegment
from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import RATE, noise, save

ARROW = {"path": "rows.arrow"}


def sound(folder: Path, seed: int = 0) -> bytes:
    return save(folder / f"away/{seed}.wav", noise(0.2 + seed / 10, seed=seed)).read_bytes()


def arrow(folder: Path, rows: list[dict[str, Any]] | pyarrow.Table, **form: Any) -> Path:
    """Write rows as `datasets` does, in batches of two."""
    table = rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows)
    path = folder / "rows.arrow"
    with ipc.new_stream(str(path), table.schema, **form) as file:
        file.write_table(table, max_chunksize=2)
    return path


def heard(folder: Path, found, source: Path) -> None:
    """Each clip is heard as the recording it was made of, from the file `source` itself."""
    for number, clip in enumerate(found.examples):
        (part,) = clip.audio_segments
        assert part.path == source
        whole = load_audio(
            AudioSegment(folder / f"away/{number}.wav"), sample_rate=RATE, resample=False
        )
        np.testing.assert_array_equal(load_audio(part, sample_rate=RATE, resample=False), whole)


@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
def test_recordings_stay_in_the_file(tmp_path: Path, kind: str) -> None:
    held = [sound(tmp_path, number) for number in range(5)]
    if kind == "struct":
        audio = pyarrow.array([{"bytes": each, "path": "a.wav"} for each in held])
    else:
        form = pyarrow.binary() if kind == "binary" else pyarrow.large_binary()
        audio = pyarrow.array(held, form)
    table = pyarrow.table({"audio": audio, "text": [f"Text {number}." for number in range(5)]})
    path = arrow(tmp_path, table.slice(0, 5))
    found = gathered(tmp_path, ARROW)
    assert faults(found) == []
    assert spoken(found)[4] == ("rows.arrow:5", "Text 4.", None, None)
    heard(tmp_path, found, path)
    assert found.sources[0].audio_bytes == path.stat().st_size


def test_a_file_in_one_piece_is_read_in_parts(tmp_path: Path) -> None:
    audio = pyarrow.array([{"bytes": b"%05d" % number} for number in range(3000)])
    table = pyarrow.table({"audio": audio, "text": [f"{number}." for number in range(3000)]})
    with ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as file:
        file.write_batch(table.to_batches()[0].slice(7))
    whole = (tmp_path / "rows.arrow").read_bytes()
    found = gathered(tmp_path, ARROW).examples
    assert [clip.target for clip in found] == [f"{number}." for number in range(7, 3000)]
    for clip in found[::500]:
        first, size = clip.audio_segments[0].byte_range or (0, 0)
        assert whole[first : first + size] == b"%05d" % int(clip.target[:-1])


def test_the_name_of_a_recording_is_its_row(tmp_path: Path) -> None:
    audio = {"bytes": sound(tmp_path), "path": "deep/a.wav"}
    arrow(tmp_path, [{"audio": audio, "text": "Hi.", "client_id": "ann", "locale": "pt-BR"}])
    found = gathered(tmp_path, ARROW)
    assert spoken(found) == [("rows.arrow:1", "Hi.", "ann", "pt")]
    assert found.examples[0].audio_segments[0].name == "rows.arrow:1 deep/a.wav"
    for pattern, count in (("**/*.wav", 1), ("**/*.flac", 0)):
        assert len(gathered(tmp_path, {**ARROW, "include": [pattern]}).examples) == count


def test_a_path_is_a_file_beside(tmp_path: Path) -> None:
    path = save(tmp_path / "clips/a.wav")
    rows = [
        {"audio": {"bytes": None, "path": "clips/a.wav"}, "text": "Hi."},
        {"audio": {"bytes": None, "path": None}, "text": "Hi."},
        {"audio": None, "text": "Hi."},
        {"audio": {"bytes": b"", "path": "https://x.org/a.wav"}, "text": "Hi."},
        {"audio": {"bytes": None, "path": str(path)}, "text": None},
    ]
    arrow(tmp_path, rows)
    found = gathered(tmp_path, ARROW)
    assert [clip.audio_segments[0].path for clip in found.examples] == [path]
    none = "no recording; give its bytes or its path, or take the row out"
    assert faults(found) == [
        f"rows.arrow:2: {none}",
        f"rows.arrow:3: {none}",
        "rows.arrow:4: https://x.org/a.wav is not on this machine; download the recording first",
        "rows.arrow:5: AUDIO section has empty transcript; write what is said as text",
    ]
    (tmp_path / "far").mkdir()
    (tmp_path / "rows.arrow").rename(tmp_path / "far/rows.arrow")
    (clip,) = gathered(tmp_path, {"path": "far/rows.arrow", "audio": "."}).examples
    assert clip.audio_segments[0].path == path


def test_a_packed_file_is_unpacked_once(tmp_path: Path) -> None:
    rows = [
        {"audio": {"bytes": sound(tmp_path, number), "path": "a.wav"}, "text": f"Text {number}."}
        for number in range(3)
    ]
    for name in ("train-00000-of-00001", "dev-00000-of-00001"):
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / f"data/{name}.parquet", row_group_size=2)
    found = gathered(tmp_path, {"path": "data", "split": "validation"}, policy="strict")
    assert faults(found) == []
    name = "data/dev-00000-of-00001.parquet"
    assert [place for place, *_ in spoken(found)] == [f"{name}:{number}" for number in (1, 2, 3)]
    assert found.sources[0].skipped_other_split == 3
    source = found.examples[0].audio_segments[0].path
    assert source.is_relative_to(os.environ["HF_DATASETS_CACHE"])
    heard(tmp_path, found, source)
    again = gathered(tmp_path, {"path": "data", "split": "validation"})
    assert again.examples[0].audio_segments[0].path == source


def test_strict_keeps_recordings_beside_inside(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    (tmp_path / "here").mkdir()
    arrow(tmp_path / "here", [{"audio": str(path), "text": "Hi."}])
    (line,) = faults(gathered(tmp_path / "here", ARROW, policy="strict"))
    assert "lies outside the document's folder, and sources_policy is strict" in line


def test_what_is_no_arrow(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    path.write_bytes(b"words and words and more of them")
    (line,) = faults(gathered(tmp_path, ARROW))
    assert line.startswith("rows.arrow: it cannot be read as Arrow or Parquet (")
    path.write_bytes(b"")
    (line,) = faults(gathered(tmp_path, ARROW))
    assert line.startswith("rows.arrow: it cannot be read as Arrow or Parquet (")
    path.unlink()
    os.mkfifo(path)
    (line,) = faults(gathered(tmp_path, ARROW))
    assert line == "rows.arrow: it is not a regular file; name an .arrow or a .parquet file"


def test_an_arrow_that_is_cut_short(tmp_path: Path) -> None:
    rows = [{"audio": sound(tmp_path), "text": "Hi."} for _ in range(4)]
    path = arrow(tmp_path, rows)
    path.write_bytes(path.read_bytes()[:-9000])
    found = gathered(tmp_path, ARROW)
    assert len(found.examples) == 2
    assert faults(found)[-1].startswith("rows.arrow: it cannot be read as Arrow or Parquet (")


def test_offsets_that_lead_out_of_the_file(tmp_path: Path) -> None:
    path = arrow(tmp_path, [{"audio": b"x" * 500, "text": "Hi."}])
    whole = path.read_bytes()
    ends = (0).to_bytes(4, "little") + (500).to_bytes(4, "little")
    head, tail = whole.rsplit(ends, 1)  # the batch's own; its schema comes first
    for start, end in ((0, 1 << 30), (-4, 500), (400, 300)):
        bad = start.to_bytes(4, "little", signed=True) + end.to_bytes(4, "little")
        path.write_bytes(head + bad + tail)
        found = gathered(tmp_path, ARROW)
        assert found.examples == () and faults(found)[0].startswith("rows.arrow: ")


def test_a_compressed_arrow(tmp_path: Path) -> None:
    table = pyarrow.table({"audio": [bytes(90_000)] * 3, "text": ["Hi."] * 3})
    feather.write_feather(table, str(tmp_path / "rows.arrow"), compression="lz4")
    (line,) = faults(gathered(tmp_path, ARROW))
    assert line.startswith("rows.arrow: the file is compressed; write it without: ")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"sound": b"x", "text": "Hi."}, "no column of recordings: it has sound, text; say which"),
        ({"audio": b"x", "words": "Hi."}, "no column of text: it has audio, words; say which"),
        ({"audio": [0.5], "text": "Hi."}, "column audio holds no recordings but list<"),
        (
            {"audio": {"array": [0.5]}, "text": "Hi."},
            "column audio holds no recordings but struct<",
        ),
    ],
)
def test_columns_that_are_not_what_is_needed(tmp_path: Path, row: dict, what: str) -> None:
    arrow(tmp_path, [row])
    (line,) = faults(gathered(tmp_path, ARROW))
    assert line.startswith(f"rows.arrow: {what}")


def test_columns_may_be_said(tmp_path: Path) -> None:
    arrow(tmp_path, [{"sound": sound(tmp_path), "caption": "A dog.", "text": "x"}])
    columns = {"audio": "sound", "text": "caption"}
    assert [text for _, text, *_ in spoken(gathered(tmp_path, {**ARROW, "columns": columns}))] == [
        "A dog."
    ]
    (line,) = faults(gathered(tmp_path, {**ARROW, "columns": {"audio": "wave"}}))
    assert line == "rows.arrow: no column wave; correct columns: {audio: ...}"


def test_a_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1" + bytes(100))
    (line,) = faults(gathered(tmp_path, {"path": "rows.parquet"}))
    assert line.startswith("rows.parquet: it cannot be read as Arrow or Parquet (")
    table = pyarrow.Table.from_pylist([{"audio": sound(tmp_path), "text": "Hi."}])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    whole = bytearray((tmp_path / "rows.parquet").read_bytes())
    whole[4:40] = bytes(36)
    (tmp_path / "rows.parquet").write_bytes(whole)
    (line,) = faults(gathered(tmp_path, {"path": "rows.parquet"}))
    assert line.startswith("rows.parquet: it cannot be read as ")


def test_which_folders_are_datasets(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/metadata.parquet").write_bytes(b"")
    (tmp_path / "corpus/cache-0123.arrow").write_bytes(b"")
    assert not is_parquet(tmp_path / "corpus")
    (tmp_path / "corpus/train").mkdir()
    (tmp_path / "corpus/train/0.parquet").write_bytes(b"")
    assert is_parquet(tmp_path / "corpus")
    (tmp_path / "bare").mkdir()
    (line,) = faults(gathered(tmp_path, {"path": "bare", "format": "parquet"}))
    assert "no .parquet or .arrow in bare; correct the path" in line
