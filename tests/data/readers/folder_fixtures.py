"""The three recordings in folders, archives and datasets."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pyarrow import ipc

from tests.data.readers.list_fixtures import write_recordings
from tests.data.readers.recordings import RECORDINGS


def write_folder_with_texts(folder: Path) -> dict[str, Any]:
    for audio, path in zip(RECORDINGS, write_recordings(folder / "corpus"), strict=True):
        path.with_suffix(".txt").write_text(f"{audio.text}\n", encoding="utf-8")
    return {"path": "corpus"}


def write_folder_with_subtitles(folder: Path) -> dict[str, Any]:
    for audio, path in zip(RECORDINGS, write_recordings(folder / "corpus"), strict=True):
        times = f"00:00:00,000 --> 00:00:0{audio.seconds:.3f}"
        cue = f"1\r\n{times}\r\n<i>{audio.text}</i>\r\n\r\n"
        path.with_suffix(".srt").write_text(cue, encoding="utf-8-sig", newline="")
    return {"path": "corpus"}


def make_tar_writer(path: Path) -> Callable[..., None]:
    """Return a function that adds a member to the tar at `path`: name, data, header fields."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def add_member(name: str, data: bytes = b"", **header: Any) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for field, value in header.items():
            setattr(entry, field, value)
        with tarfile.open(path, "a") as tar:
            tar.addfile(entry, io.BytesIO(data))

    return add_member


def write_webdataset(folder: Path) -> dict[str, Any]:
    """Two tars, one with texts, one with JSON."""
    first, second = (make_tar_writer(folder / f"shards/{number:03}.tar") for number in range(2))
    for audio, path in zip(RECORDINGS, write_recordings(folder / "away"), strict=True):
        if audio is RECORDINGS[-1]:
            second(f"./{audio.stem}.wav", path.read_bytes())
            second(f"./{audio.stem}.json", json.dumps({"text": audio.text}).encode())
        else:
            first(f"./{audio.stem}.wav", path.read_bytes())
            first(f"./{audio.stem}.txt", f"{audio.text}\n".encode())
    return {"path": "shards/{000..001}.tar"}


def write_audiofolder_csv(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "corpus")
    rows = ['"' + audio.text.replace('"', '""') + f'",{audio.stem}.wav\r\n' for audio in RECORDINGS]
    table = "\ufefftranscription,file_name\r\n" + "".join(rows)
    (folder / "corpus/metadata.csv").write_text(table, encoding="utf-8", newline="")
    return {"path": "corpus"}


def write_audiofolder_jsonl(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "corpus/train")
    lines = [
        json.dumps({"audio_file_name": f"{audio.stem}.wav", "text": audio.text})
        for audio in RECORDINGS
    ]
    (folder / "corpus/train/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"path": "corpus", "split": "train"}


def write_audiofolder_parquet(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "corpus/data/dev")
    rows = [{"file_name": f"{audio.stem}.wav", "sentence": audio.text} for audio in RECORDINGS]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "corpus/data/dev/metadata.parquet")
    return {"path": "corpus", "split": "validation"}


def make_dataset_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a dataset of the hub, with the recordings as bytes."""
    return [
        {
            "audio": {"bytes": path.read_bytes(), "path": path.name},
            "text": audio.text,
            "speaker_id": audio.speaker,
        }
        for audio, path in zip(RECORDINGS, write_recordings(folder / "away"), strict=True)
    ]


def write_parquet(folder: Path) -> dict[str, Any]:
    table = pyarrow.Table.from_pylist(make_dataset_rows(folder))
    (folder / "data").mkdir()
    for split in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")
    return {"path": "data"}


def write_arrow(folder: Path) -> dict[str, Any]:
    table = pyarrow.Table.from_pylist(make_dataset_rows(folder))
    with ipc.new_file(str(folder / "rows.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return {"path": "rows.arrow"}


def write_saved_dataset(folder: Path) -> dict[str, Any]:
    import datasets  # which takes two seconds

    datasets.disable_progress_bars()
    dataset = datasets.Dataset.from_list(make_dataset_rows(folder))
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(folder / "saved")
    return {"path": "saved"}


def write_parquet_with_paths(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data/clips")
    rows = [{"path": f"clips/{audio.stem}.wav", "text": audio.text} for audio in RECORDINGS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data/a[1].parquet")
    return {"path": "data/a[1].parquet"}


def write_hub_folder(folder: Path) -> dict[str, Any]:
    return {**write_parquet(folder), "format": "hub"}


def write_hub_stream(folder: Path) -> dict[str, Any]:
    return {**write_parquet(folder), "format": "hub", "stream": True}


def write_hub_tars(folder: Path) -> dict[str, Any]:
    write_webdataset(folder)
    for number, name in enumerate(("000.tar", "001.tar")):
        (folder / f"shards/{name}").rename(folder / f"shards/train-{number:03}.tar")
    (folder / "shards/test-000.tar").write_bytes((folder / "shards/train-000.tar").read_bytes())
    return {"path": "shards", "format": "hub"}


def write_librispeech(folder: Path) -> dict[str, Any]:
    """A chapter of each of three speakers, in two subsets."""
    paths = write_recordings(folder / "away")
    for subset in ("dev-clean", "train-clean-100"):
        for speaker, (audio, path) in enumerate(zip(RECORDINGS, paths, strict=True)):
            chapter, utterance_id = (
                folder / f"LibriSpeech/{subset}/{speaker}/7",
                f"{speaker}-7-0000",
            )
            chapter.mkdir(parents=True)
            (chapter / f"{utterance_id}.wav").write_bytes(path.read_bytes())
            line = f"{utterance_id} {audio.text}\n"
            (chapter / f"{speaker}-7.trans.txt").write_text(line, encoding="utf-8")
    return {"path": "LibriSpeech"}


def write_commonvoice(folder: Path) -> dict[str, Any]:
    corpus = folder / "cv-corpus/fr"
    write_recordings(corpus / "clips")
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    rows = [f"{audio.speaker}\t{audio.stem}.wav\t{audio.text}\t2\tfr\n" for audio in RECORDINGS]
    for name in ("train", "test", "validated"):
        (corpus / f"{name}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    return {"path": "cv-corpus"}


def write_kaldi(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "corpus/wav")
    lines = {
        "text": [f"utt-{audio.stem}\t{audio.text}\n" for audio in RECORDINGS],
        "wav.scp": [f"{audio.stem} wav/{audio.stem}.wav\n" for audio in RECORDINGS],
        "segments": [
            f"utt-{audio.stem} {audio.stem} 0.00 {audio.seconds}\n" for audio in RECORDINGS
        ],
    }
    for name, file_lines in lines.items():
        (folder / "corpus" / name).write_text("".join(file_lines), encoding="utf-8")
    return {"path": "corpus"}


FOLDER_FIXTURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": write_folder_with_texts,
    "folder srt": write_folder_with_subtitles,
    "webdataset": write_webdataset,
    "audiofolder csv": write_audiofolder_csv,
    "audiofolder jsonl": write_audiofolder_jsonl,
    "audiofolder parquet": write_audiofolder_parquet,
    "parquet": write_parquet,
    "parquet arrow": write_arrow,
    "parquet saved": write_saved_dataset,
    "parquet paths": write_parquet_with_paths,
    "hub": write_hub_folder,
    "hub streamed": write_hub_stream,
    "hub tars": write_hub_tars,
    "librispeech": write_librispeech,
    "commonvoice": write_commonvoice,
    "kaldi": write_kaldi,
}
