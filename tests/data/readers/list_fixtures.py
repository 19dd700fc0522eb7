"""The three recordings in lists, tables and manifests."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.data.readers.recordings import RECORDINGS, TranscribedAudio
from tests.data.recordings import RATE, save_audio

YTIDS = ("-0Gj8-vB1q4", "a_b-c_d-e_f", "12345678901")


def write_recordings(folder: Path, suffix: str = ".wav") -> list[Path]:
    """Write the three recordings into `folder`."""
    return [
        save_audio(folder / f"{audio.stem}{suffix}", audio.make_waveform()[:, None])
        for audio in RECORDINGS
    ]


def format_json_lines(records: Iterable[object]) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def write_list(path: Path, text: str) -> Path:
    """Write a list, compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]], **dialect: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows([header, *rows])
    return file.getvalue()


def write_tar(path: Path, files: Iterable[Path]) -> Path:
    """Write a tar of files, under their names alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    return path


def write_json(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data/clips")
    records = [{"audio": f"clips/{audio.stem}.wav", "text": audio.text} for audio in RECORDINGS]
    write_list(folder / "data/list.jsonl", format_json_lines(records))
    return {"path": "data/list.jsonl"}


def write_json_compressed(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data/clips")
    records = [
        {"audio_path": f"clips/{audio.stem}.wav", "sentence": audio.text} for audio in RECORDINGS
    ]
    write_list(folder / "data/list.jsonl.gz", format_json_lines(records))
    return {"path": "data/list.jsonl.gz"}


def write_json_array(folder: Path) -> dict[str, Any]:
    """With column names of its own, and recordings elsewhere."""
    write_recordings(folder / "sounds")
    records = [
        {"heard": f"{audio.stem}.wav", "words": audio.text, "text": "no"} for audio in RECORDINGS
    ]
    write_list(folder / "data/list.json", json.dumps(records, indent=1))
    columns = {"audio": "heard", "text": "words"}
    return {"path": "data/list.json", "audio": "sounds", "columns": columns}


def write_conversations(
    folder: Path, make_record: Callable[[TranscribedAudio], dict[str, Any]]
) -> dict[str, Any]:
    write_recordings(folder / "data/clips")
    write_list(folder / "data/talk.jsonl", format_json_lines(map(make_record, RECORDINGS)))
    return {"path": "data/talk.jsonl"}


def write_json_conversation(folder: Path) -> dict[str, Any]:
    def make_record(audio: TranscribedAudio) -> dict[str, Any]:
        user = {"from": "human", "value": f"<audio>clips/{audio.stem}.wav</audio>"}
        return {"conversations": [user, {"from": "gpt", "value": audio.text}]}

    return write_conversations(folder, make_record)


def write_json_messages(folder: Path) -> dict[str, Any]:
    def make_record(audio: TranscribedAudio) -> dict[str, Any]:
        user = {"role": "user", "content": "<audio>"}
        messages = [user, {"role": "assistant", "content": audio.text}]
        return {"messages": messages, "audios": [f"clips/{audio.stem}.wav"]}

    return write_conversations(folder, make_record)


def write_json_openai(folder: Path) -> dict[str, Any]:
    def make_record(audio: TranscribedAudio) -> dict[str, Any]:
        part = {"type": "audio_url", "audio_url": {"url": f"clips/{audio.stem}.wav"}}
        answer = [{"type": "text", "text": audio.text}]
        user = {"role": "user", "content": [part]}
        return {"messages": [user, {"role": "assistant", "content": answer}]}

    return write_conversations(folder, make_record)


def write_csv(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data/clips")
    rows = [
        (number, f"clips/{audio.stem}.wav", audio.text) for number, audio in enumerate(RECORDINGS)
    ]
    write_list(folder / "data/table.csv", format_table(("", "path", "sentence"), rows))
    return {"path": "data/table.csv"}


def write_tsv(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data")
    rows = [(f"{audio.stem}.wav", audio.speaker, audio.text) for audio in RECORDINGS]
    header = ("heard", "speaker_id", "raw_text")
    write_list(folder / "data/table.tsv", format_table(header, rows, delimiter="\t"))
    return {"path": "data/table.tsv", "columns": {"audio": "heard"}}


def write_video_spans(folder: Path, name: str) -> None:
    """Write the recordings as spans of ten seconds of three videos."""
    for audio, ytid in zip(RECORDINGS, YTIDS, strict=True):
        save_audio(folder / "data" / name.format(ytid=ytid), audio.make_waveform()[:, None])


def write_musiccaps(folder: Path) -> dict[str, Any]:
    write_video_spans(folder, "{ytid}_30_40.wav")
    rows = [
        (ytid, 30, 40, "[]", audio.text, False)
        for ytid, audio in zip(YTIDS, RECORDINGS, strict=True)
    ]
    header = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    write_list(folder / "data/musiccaps-public.csv", format_table(header, rows))
    return {"path": "data/musiccaps-public.csv"}


def write_audiocaps(folder: Path) -> dict[str, Any]:
    write_video_spans(folder, "Y{ytid}_30000_40000.wav")
    rows = [
        (number, ytid, 30, audio.text)
        for number, (ytid, audio) in enumerate(zip(YTIDS, RECORDINGS, strict=True), start=1)
    ]
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    write_list(folder / "data/train.csv", format_table(header, rows))
    return {"path": "data/train.csv"}


def write_clotho(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data/development")
    rows = [(f"{audio.stem}.wav", audio.text, "", "", "", "") for audio in RECORDINGS]
    header = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    write_list(folder / "data/clotho_captions_development.csv", format_table(header, rows))
    return {"path": "data/clotho_captions_development.csv"}


def make_nemo_record(audio: TranscribedAudio) -> dict[str, Any]:
    return {"audio_filepath": f"{audio.stem}.wav", "duration": audio.seconds, "text": audio.text}


def write_nemo(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data")
    write_list(folder / "data/manifest.json", format_json_lines(map(make_nemo_record, RECORDINGS)))
    return {"path": "data/manifest.json"}


def write_nemo_tarred(folder: Path) -> dict[str, Any]:
    files = write_recordings(folder / "loose")
    write_tar(folder / "data/audio_0.tar", files[:2])
    write_tar(folder / "data/audio_1.tar", files[2:])
    records = [
        make_nemo_record(audio) | {"shard_id": index // 2} for index, audio in enumerate(RECORDINGS)
    ]
    write_list(folder / "data/tarred_audio_manifest.json", format_json_lines(records))
    return {"path": "data/tarred_audio_manifest.json"}


def write_granary(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "voxpopuli/fr/2019")
    records = [{"utt_id": audio.stem, "text": audio.text, "duration": 1.0} for audio in RECORDINGS]
    write_list(folder / "data/fr_asr.jsonl", format_json_lines(records))
    return {"path": "data/fr_asr.jsonl", "audio": "voxpopuli"}


def write_granary_with_paths(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "voxpopuli/fr")
    records = [
        {"utt_id": str(index), "audio_filepath": f"/far/{audio.stem}.opus", "text": audio.text}
        for index, audio in enumerate(RECORDINGS)
    ]
    write_list(folder / "data/fr_asr.jsonl", format_json_lines(records))
    return {"path": "data/fr_asr.jsonl", "audio": "voxpopuli", "format": "granary"}


def make_lhotse_recording(audio: TranscribedAudio, source: str) -> dict[str, Any]:
    return {
        "id": audio.stem,
        "sources": [{"type": "file", "channels": [0], "source": source}],
        "duration": audio.seconds,
        "sampling_rate": RATE,
        "num_samples": round(RATE * audio.seconds),
    }


def make_supervision(audio: TranscribedAudio, start: float) -> dict[str, Any]:
    return {
        "id": f"{audio.stem}-1",
        "recording_id": audio.stem,
        "channel": 0,
        "text": audio.text,
        "start": start,
        "duration": audio.seconds,
        "speaker": audio.speaker,
    }


def make_cut(audio: TranscribedAudio) -> dict[str, Any]:
    """A cut that begins after its supervision, whose start counts from the cut."""
    return {
        "id": f"{audio.stem}-cut",
        "start": 0.125,
        "duration": audio.seconds - 0.125,
        "channel": 0,
        "supervisions": [make_supervision(audio, -0.125)],
        "recording": make_lhotse_recording(audio, f"{audio.stem}.wav"),
        "type": "MonoCut",
    }


def write_lhotse_cuts(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "data")
    write_list(folder / "data/cuts.jsonl.gz", format_json_lines(map(make_cut, RECORDINGS)))
    return {"path": "data/cuts.jsonl.gz"}


def write_lhotse_folder(folder: Path) -> dict[str, Any]:
    write_recordings(folder / "sounds")
    recordings = [make_lhotse_recording(audio, f"{audio.stem}.wav") for audio in RECORDINGS]
    supervisions = [make_supervision(audio, 0) for audio in RECORDINGS]
    for kind, records in (("recordings", reversed(recordings)), ("supervisions", supervisions)):
        write_list(folder / f"data/mini_{kind}_train.jsonl.gz", format_json_lines(records))
    return {"path": "data", "audio": "sounds"}


LIST_FIXTURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "json": write_json,
    "json compressed": write_json_compressed,
    "json array": write_json_array,
    "json conversation": write_json_conversation,
    "json messages": write_json_messages,
    "json openai": write_json_openai,
    "table": write_csv,
    "table tsv": write_tsv,
    "musiccaps": write_musiccaps,
    "audiocaps": write_audiocaps,
    "clotho": write_clotho,
    "nemo": write_nemo,
    "nemo tarred": write_nemo_tarred,
    "granary": write_granary,
    "granary paths": write_granary_with_paths,
    "lhotse": write_lhotse_cuts,
    "lhotse folder": write_lhotse_folder,
}
