"""The three clips as lists and tables name them."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.data.said import RATE, SAID, Said
from tests.data.sounds import save

YTIDS = ("-0Gj8-vB1q4", "a_b-c_d-e_f", "12345678901")


def recordings(folder: Path, suffix: str = ".wav") -> list[Path]:
    """The recordings, in `folder`."""
    return [save(folder / f"{said.stem}{suffix}", said.wave()[:, None]) for said in SAID]


def lines(rows: Iterable[object]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def write(path: Path, text: str) -> Path:
    """Write a list, compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = text.encode()
    path.write_bytes(gzip.compress(words) if path.suffix == ".gz" else words)
    return path


def grid(head: Sequence[str], rows: Iterable[Sequence[object]], **dialect: Any) -> str:
    """A table as text."""
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows([head, *rows])
    return file.getvalue()


def tar(path: Path, files: Iterable[Path]) -> Path:
    """A tar of files, under their names alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as held:
        for file in files:
            held.add(file, file.name)
    return path


def flat(said: Said) -> dict[str, Any]:
    return {"audio": f"clips/{said.stem}.wav", "text": said.text}


def json_of_clips(folder: Path) -> dict[str, Any]:
    recordings(folder / "data/clips")
    write(folder / "data/list.jsonl", lines(map(flat, SAID)))
    return {"path": "data/list.jsonl"}


def json_compressed(folder: Path) -> dict[str, Any]:
    recordings(folder / "data/clips")
    rows = [{"audio_path": f"clips/{said.stem}.wav", "sentence": said.text} for said in SAID]
    write(folder / "data/list.jsonl.gz", lines(rows))
    return {"path": "data/list.jsonl.gz"}


def json_array(folder: Path) -> dict[str, Any]:
    """With names of its own, and recordings elsewhere."""
    recordings(folder / "sounds")
    rows = [{"heard": f"{said.stem}.wav", "words": said.text, "text": "no"} for said in SAID]
    write(folder / "data/list.json", json.dumps(rows, indent=1))
    columns = {"audio": "heard", "text": "words"}
    return {"path": "data/list.json", "audio": "sounds", "columns": columns}


def talk(folder: Path, make: Callable[[Said], dict[str, Any]]) -> dict[str, Any]:
    recordings(folder / "data/clips")
    write(folder / "data/talk.jsonl", lines(map(make, SAID)))
    return {"path": "data/talk.jsonl"}


def json_conversation(folder: Path) -> dict[str, Any]:
    def make(said: Said) -> dict[str, Any]:
        asked = {"from": "human", "value": f"<audio>clips/{said.stem}.wav</audio>"}
        return {"conversations": [asked, {"from": "gpt", "value": said.text}]}

    return talk(folder, make)


def json_messages(folder: Path) -> dict[str, Any]:
    def make(said: Said) -> dict[str, Any]:
        asked = {"role": "user", "content": "<audio>"}
        turns = [asked, {"role": "assistant", "content": said.text}]
        return {"messages": turns, "audios": [f"clips/{said.stem}.wav"]}

    return talk(folder, make)


def json_openai(folder: Path) -> dict[str, Any]:
    def make(said: Said) -> dict[str, Any]:
        path = f"clips/{said.stem}.wav"
        heard = {"type": "audio_url", "audio_url": {"url": path}}
        answer = [{"type": "text", "text": said.text}]
        turns = [{"role": "user", "content": [heard]}, {"role": "assistant", "content": answer}]
        return {"messages": turns}

    return talk(folder, make)


def table_with_commas(folder: Path) -> dict[str, Any]:
    recordings(folder / "data/clips")
    rows = [(number, f"clips/{each.stem}.wav", each.text) for number, each in enumerate(SAID)]
    write(folder / "data/table.csv", grid(("", "path", "sentence"), rows))
    return {"path": "data/table.csv"}


def table_with_tabs(folder: Path) -> dict[str, Any]:
    recordings(folder / "data")
    rows = [(f"{each.stem}.wav", each.speaker, each.text) for each in SAID]
    head = ("heard", "speaker_id", "raw_text")
    write(folder / "data/table.tsv", grid(head, rows, delimiter="\t"))
    return {"path": "data/table.tsv", "columns": {"audio": "heard"}}


def videos(folder: Path, name: str) -> None:
    """The recordings as spans of ten seconds of three videos."""
    for said, ytid in zip(SAID, YTIDS, strict=True):
        save(folder / "data" / name.format(ytid=ytid), said.wave()[:, None])


def musiccaps(folder: Path) -> dict[str, Any]:
    videos(folder, "{ytid}_30_40.wav")
    rows = [(YTIDS[at], 30, 40, "[]", SAID[at].text, False) for at in range(len(SAID))]
    head = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    write(folder / "data/musiccaps-public.csv", grid(head, rows))
    return {"path": "data/musiccaps-public.csv"}


def audiocaps(folder: Path) -> dict[str, Any]:
    videos(folder, "Y{ytid}_30000_40000.wav")
    rows = [(at + 1, YTIDS[at], 30, SAID[at].text) for at in range(len(SAID))]
    head = ("audiocap_id", "youtube_id", "start_time", "caption")
    write(folder / "data/train.csv", grid(head, rows))
    return {"path": "data/train.csv"}


def clotho(folder: Path) -> dict[str, Any]:
    recordings(folder / "data/development")
    rows = [(f"{said.stem}.wav", said.text, "", "", "", "") for said in SAID]
    head = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    write(folder / "data/clotho_captions_development.csv", grid(head, rows))
    return {"path": "data/clotho_captions_development.csv"}


def heard_by_nemo(said: Said) -> dict[str, Any]:
    return {"audio_filepath": f"{said.stem}.wav", "duration": said.seconds, "text": said.text}


def nemo(folder: Path) -> dict[str, Any]:
    recordings(folder / "data")
    write(folder / "data/manifest.json", lines(map(heard_by_nemo, SAID)))
    return {"path": "data/manifest.json"}


def nemo_tarred(folder: Path) -> dict[str, Any]:
    files = recordings(folder / "loose")
    tar(folder / "data/audio_0.tar", files[:2])
    tar(folder / "data/audio_1.tar", files[2:])
    rows = [heard_by_nemo(said) | {"shard_id": at // 2} for at, said in enumerate(SAID)]
    write(folder / "data/tarred_audio_manifest.json", lines(rows))
    return {"path": "data/tarred_audio_manifest.json"}


def granary(folder: Path) -> dict[str, Any]:
    recordings(folder / "voxpopuli/fr/2019")
    rows = [{"utt_id": said.stem, "text": said.text, "duration": 1.0} for said in SAID]
    write(folder / "data/fr_asr.jsonl", lines(rows))
    return {"path": "data/fr_asr.jsonl", "audio": "voxpopuli"}


def granary_by_path(folder: Path) -> dict[str, Any]:
    recordings(folder / "voxpopuli/fr")
    rows = [
        {"utt_id": "x", "audio_filepath": f"/far/{said.stem}.opus", "text": said.text}
        for said in SAID
    ]
    rows = [row | {"utt_id": str(at)} for at, row in enumerate(rows)]
    write(folder / "data/fr_asr.jsonl", lines(rows))
    return {"path": "data/fr_asr.jsonl", "audio": "voxpopuli", "format": "granary"}


def recording(said: Said, source: str) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": source}]
    told = {"sampling_rate": RATE, "num_samples": round(RATE * said.seconds)}
    return {"id": said.stem, "sources": sources, "duration": said.seconds, **told}


def supervision(said: Said, start: float) -> dict[str, Any]:
    told = {"id": f"{said.stem}-1", "recording_id": said.stem, "channel": 0, "text": said.text}
    return told | {"start": start, "duration": said.seconds, "speaker": said.speaker}


def cut(said: Said) -> dict[str, Any]:
    """A cut that begins later than what is said in it, which counts from the cut."""
    told = {"id": f"{said.stem}-cut", "start": 0.125, "duration": said.seconds - 0.125}
    said_in_it = [supervision(said, -0.125)]
    heard = recording(said, f"{said.stem}.wav")
    return told | {"channel": 0, "supervisions": said_in_it, "recording": heard, "type": "MonoCut"}


def lhotse(folder: Path) -> dict[str, Any]:
    recordings(folder / "data")
    write(folder / "data/cuts.jsonl.gz", lines(map(cut, SAID)))
    return {"path": "data/cuts.jsonl.gz"}


def lhotse_folder(folder: Path) -> dict[str, Any]:
    recordings(folder / "sounds")
    listed = [recording(said, f"{said.stem}.wav") for said in SAID]
    write(folder / "data/mini_recordings_train.jsonl.gz", lines(reversed(listed)))
    told = [supervision(said, 0) for said in SAID]
    write(folder / "data/mini_supervisions_train.jsonl.gz", lines(told))
    return {"path": "data", "audio": "sounds"}


LISTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "json": json_of_clips,
    "json compressed": json_compressed,
    "json array": json_array,
    "json conversation": json_conversation,
    "json messages": json_messages,
    "json openai": json_openai,
    "table": table_with_commas,
    "table tsv": table_with_tabs,
    "musiccaps": musiccaps,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "nemo": nemo,
    "nemo tarred": nemo_tarred,
    "granary": granary,
    "granary paths": granary_by_path,
    "lhotse": lhotse,
    "lhotse folder": lhotse_folder,
}
