"""The three clips as folders, archives and datasets keep them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pyarrow import ipc

from tests.data.keepers_lists import recordings
from tests.data.said import SAID


def folder_with_texts(folder: Path) -> dict[str, Any]:
    for said, path in zip(SAID, recordings(folder / "corpus"), strict=True):
        path.with_suffix(".txt").write_text(f"{said.text}\n", encoding="utf-8")
    return {"path": "corpus"}


def folder_with_cues(folder: Path) -> dict[str, Any]:
    for said, path in zip(SAID, recordings(folder / "corpus"), strict=True):
        cue = f"1\r\n00:00:00,000 --> 00:00:0{said.seconds:.3f}\r\n<i>{said.text}</i>\r\n\r\n"
        path.with_suffix(".srt").write_text(cue, encoding="utf-8-sig", newline="")
    return {"path": "corpus"}


def webdataset(folder: Path) -> dict[str, Any]:
    """Two tars, one with texts, one with JSON."""
    one, two = (tar_of(folder / f"shards/{number:03}.tar") for number in range(2))
    for said, path in zip(SAID, recordings(folder / "away"), strict=True):
        add = two if said is SAID[-1] else one
        add(f"./{said.stem}.wav", path.read_bytes())
        if said is SAID[-1]:
            add(f"./{said.stem}.json", json.dumps({"text": said.text}).encode())
        else:
            add(f"./{said.stem}.txt", f"{said.text}\n".encode())
    return {"path": "shards/{000..001}.tar"}


def tar_of(path: Path) -> Callable[..., None]:
    """A tar at `path`, and how a member is added to it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def add(name: str, data: bytes = b"", **header: Any) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for field, value in header.items():
            setattr(entry, field, value)
        with tarfile.open(path, "a") as tar:
            tar.addfile(entry, io.BytesIO(data))

    return add


def audiofolder_csv(folder: Path) -> dict[str, Any]:
    recordings(folder / "corpus")
    rows = ['"' + said.text.replace('"', '""') + f'",{said.stem}.wav\r\n' for said in SAID]
    table = "\ufefftranscription,file_name\r\n" + "".join(rows)
    (folder / "corpus/metadata.csv").write_text(table, encoding="utf-8", newline="")
    return {"path": "corpus"}


def audiofolder_jsonl(folder: Path) -> dict[str, Any]:
    recordings(folder / "corpus/train")
    lines = [
        json.dumps({"audio_file_name": f"{each.stem}.wav", "text": each.text}) for each in SAID
    ]
    (folder / "corpus/train/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"path": "corpus", "split": "train"}


def audiofolder_parquet(folder: Path) -> dict[str, Any]:
    recordings(folder / "corpus/data/dev")
    rows = [{"file_name": f"{said.stem}.wav", "sentence": said.text} for said in SAID]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "corpus/data/dev/metadata.parquet")
    return {"path": "corpus", "split": "validation"}


def rows_with_bytes(folder: Path) -> list[dict[str, Any]]:
    """What a dataset of the hub holds."""
    return [
        {
            "audio": {"bytes": path.read_bytes(), "path": path.name},
            "text": said.text,
            "speaker_id": said.speaker,
        }
        for said, path in zip(SAID, recordings(folder / "away"), strict=True)
    ]


def parquet_packed(folder: Path) -> dict[str, Any]:
    table = pyarrow.Table.from_pylist(rows_with_bytes(folder))
    (folder / "data").mkdir()
    pyarrow.parquet.write_table(table, folder / "data/train-00000-of-00001.parquet")
    pyarrow.parquet.write_table(table, folder / "data/test-00000-of-00001.parquet")
    return {"path": "data"}


def parquet_arrow(folder: Path) -> dict[str, Any]:
    table = pyarrow.Table.from_pylist(rows_with_bytes(folder))
    with ipc.new_file(str(folder / "rows.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return {"path": "rows.arrow"}


def parquet_saved(folder: Path) -> dict[str, Any]:
    import datasets  # which takes two seconds

    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_list(rows_with_bytes(folder))
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(folder / "saved")
    return {"path": "saved"}


def parquet_paths(folder: Path) -> dict[str, Any]:
    recordings(folder / "data/clips")
    rows = [{"path": f"clips/{said.stem}.wav", "text": said.text} for said in SAID]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data/a[1].parquet")
    return {"path": "data/a[1].parquet"}


def hub_folder(folder: Path) -> dict[str, Any]:
    return {**parquet_packed(folder), "format": "hub"}


def hub_streamed(folder: Path) -> dict[str, Any]:
    return {**parquet_packed(folder), "format": "hub", "stream": True}


def hub_tars(folder: Path) -> dict[str, Any]:
    webdataset(folder)
    for number, name in enumerate(("000.tar", "001.tar")):
        (folder / f"shards/{name}").rename(folder / f"shards/train-{number:03}.tar")
    (folder / "shards/test-000.tar").write_bytes((folder / "shards/train-000.tar").read_bytes())
    return {"path": "shards", "format": "hub"}


def librispeech(folder: Path) -> dict[str, Any]:
    """A chapter of a speaker, and one of another subset."""
    for subset in ("dev-clean", "train-clean-100"):
        for number, said in enumerate(SAID):
            chapter = folder / f"LibriSpeech/{subset}/{number}/7"
            (path,) = (each for each in recordings(chapter) if each.stem == said.stem)
            for each in chapter.glob("*.wav"):
                if each != path:
                    each.unlink()
            path.rename(chapter / f"{number}-7-0000.wav")
            line = f"{number}-7-0000 {said.text}\n"
            (chapter / f"{number}-7.trans.txt").write_text(line, encoding="utf-8")
    return {"path": "LibriSpeech"}


def commonvoice(folder: Path) -> dict[str, Any]:
    corpus = folder / "cv-corpus/fr"
    recordings(corpus / "clips")
    head = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    rows = [f"{each.speaker}\t{each.stem}.wav\t{each.text}\t2\tfr\n" for each in SAID]
    for name in ("train", "test", "validated"):
        (corpus / f"{name}.tsv").write_text(head + "".join(rows), encoding="utf-8")
    return {"path": "cv-corpus"}


def kaldi(folder: Path) -> dict[str, Any]:
    recordings(folder / "corpus/wav")
    texts = "".join(f"utt-{said.stem}\t{said.text}\n" for said in SAID)
    (folder / "corpus/text").write_text(texts, encoding="utf-8")
    (folder / "corpus/wav.scp").write_text("".join(f"{s.stem} wav/{s.stem}.wav\n" for s in SAID))
    spans = "".join(f"utt-{said.stem} {said.stem} 0.00 {said.seconds}\n" for said in SAID)
    (folder / "corpus/segments").write_text(spans)
    return {"path": "corpus"}


TREES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": folder_with_texts,
    "folder srt": folder_with_cues,
    "webdataset": webdataset,
    "audiofolder csv": audiofolder_csv,
    "audiofolder jsonl": audiofolder_jsonl,
    "audiofolder parquet": audiofolder_parquet,
    "parquet": parquet_packed,
    "parquet arrow": parquet_arrow,
    "parquet saved": parquet_saved,
    "parquet paths": parquet_paths,
    "hub": hub_folder,
    "hub streamed": hub_streamed,
    "hub tars": hub_tars,
    "librispeech": librispeech,
    "commonvoice": commonvoice,
    "kaldi": kaldi,
}
