"""How fast clips are taken in, and how much memory each takes: lists, headers, sound.

    python bench/ingest.py [--counts 1000 10000 100000] [--json]

Clips are made here: short wavs, a `metadata.csv` that names them all, and a `list.jsonl`. Each
measurement is a process of its own, so that its memory is its own.

    list       gather what `list.jsonl` names: clips with turns, nothing opened
    headers    and read the header of every recording
    check      all of `dlm check`: of more than 2,000 clips a sample is heard whole
    datasets   the same table through `datasets`, its rows one by one, paths alone
    folder     `datasets`' own audio folder, where torchcodec is (0.12 goes with torch 2.13)
    hear       decode 200 clips of 2 to 14 s and make their mel, on one core
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

RATE, WAYS = 16_000, ["list", "headers", "check", "datasets"]
if find_spec("torchcodec"):
    WAYS.append("folder")
HEARD_CLIPS, SHORTEST, LONGEST = 200, 2.0, 14.0  # seconds
DOCUMENT = """---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: sparrow
training:
  sources: [{path: clips/list.jsonl}]
---
"""


def main() -> None:
    """Measure, or do one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=[*WAYS, "hear"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(MEASURES[asked.one](asked.folder)))
        return
    rows = {count: of_count(count) for count in asked.counts}
    found = {"counts": rows, "hear": heard()}
    print(json.dumps(found, indent=2) if asked.json else told(found))


def told(found: dict) -> str:
    """The figures, a line each, and how they grow."""
    lines = []
    for count, row in found["counts"].items():
        for way, each in row.items():
            rate, mega = count / each["seconds"], each["bytes"] / 1e6
            lines.append(f"{count:>8,} {way:9} {rate:>9,.0f} clips/s {mega:>8.1f} MB at the most")
    counts = sorted(found["counts"])
    for way in WAYS if len(counts) > 1 else ():
        least, most = found["counts"][counts[-2]][way], found["counts"][counts[-1]][way]
        grown = (most["bytes"] - least["bytes"]) / (counts[-1] - counts[-2])
        times = most["seconds"] / least["seconds"]
        lines.append(f"{way:9} {counts[-1]:,} take {times:.1f} times as long as {counts[-2]:,}")
        lines.append(f"{way:9} {grown:,.0f} bytes a clip")
    lines.append(f"hear      {found['hear']['times']:,.0f} times real time on one core")
    return "\n".join(lines)


def of_count(count: int) -> dict[str, dict[str, float]]:
    """Each way over so many clips; the second of two runs, when the files' pages are in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, count)
        return {way: [one(way, folder) for _ in range(2)][1] for way in WAYS}


def heard() -> dict[str, float]:
    """Decoding and mel, on one core."""
    with tempfile.TemporaryDirectory() as name:
        chance = np.random.default_rng(0)
        for number, seconds in enumerate(np.linspace(SHORTEST, LONGEST, HEARD_CLIPS)):
            wave = chance.normal(0, 0.1, int(seconds * RATE)).astype("float32")
            soundfile.write(Path(name, f"{number}.wav"), wave, RATE)
        return one("hear", Path(name))


def one(way: str, folder: Path) -> dict[str, float]:
    """One measurement, in a process of its own, on one core where that is what is asked."""
    command = [sys.executable, __file__, "--one", way, "--folder", str(folder)]
    with tempfile.TemporaryDirectory() as home:
        world = {**os.environ, "HF_HOME": home, "DLM_HOME": home, "HF_DATASETS_OFFLINE": "1"}
        if way == "hear":
            world["OMP_NUM_THREADS"] = "1"
            command = ["taskset", "-c", "0", *command]
        done = subprocess.run(command, capture_output=True, text=True, env=world)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def listed(folder: Path) -> dict[str, float]:
    """Gather alone."""
    return gathered(folder, headers=False)


def with_headers(folder: Path) -> dict[str, float]:
    """Gather, and probe every recording."""
    return gathered(folder, headers=True)


def gathered(folder: Path, *, headers: bool) -> dict[str, float]:
    """Gather the clips of the folder's document; what it held at the most is measured."""
    from dlm.config.parser import read_document
    from dlm.data.audio_io import read_audio_info
    from dlm.data.load import load_examples

    document = read_document(folder / "my.dlm")
    before, began = most_held(), time.perf_counter()
    found = load_examples(document)
    lengths = np.zeros(len(found.examples))
    if headers:
        for number, clip in enumerate(found.examples):
            lengths[number] = read_audio_info(clip.audio_segments[0].path).seconds
    assert not found.issues and len(found.examples) > 0
    return {"seconds": time.perf_counter() - began, "bytes": most_held() - before}


def checked(folder: Path) -> dict[str, float]:
    """All of `dlm check`, as a verb; what it held at the most is measured."""
    import dlm

    before, began = most_held(), time.perf_counter()
    found = dlm.check(folder / "my.dlm")
    assert found.validation.num_examples > 0 and not found.fatal_issues
    return {"seconds": time.perf_counter() - began, "bytes": most_held() - before}


def with_datasets(folder: Path) -> dict[str, float]:
    """The same folder through `datasets`, which needs no decoder for paths alone."""
    from datasets import Audio, load_dataset

    before, began = most_held(), time.perf_counter()
    rows = load_dataset("csv", data_files=str(folder / "clips/metadata.csv"), split="train").map(
        lambda row: {"audio": str(folder / "clips" / row["file_name"])}
    )
    rows = rows.cast_column("audio", Audio(decode=False))
    taken = sum(1 for row in rows if row["audio"]["path"] and row["text"])
    assert taken > 0
    return {"seconds": time.perf_counter() - began, "bytes": most_held() - before}


def with_audiofolder(folder: Path) -> dict[str, float]:
    """The folder and its table as `datasets` has them, its rows one by one, paths alone."""
    from datasets import Audio, load_dataset

    before, began = most_held(), time.perf_counter()
    rows = load_dataset("audiofolder", data_dir=str(folder / "clips"), split="train")
    rows = rows.cast_column("audio", Audio(decode=False))
    taken = sum(1 for row in rows if row["audio"]["path"] and row["text"])
    assert taken > 0
    return {"seconds": time.perf_counter() - began, "bytes": most_held() - before}


def hear(folder: Path) -> dict[str, float]:
    """Decode and make the mel of every clip, as training does."""
    import torch

    from dlm.data.types import AudioSegment
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.plan.model_spec import MODEL_CATALOG

    torch.set_num_threads(1)
    ear = AudioFeatureExtractor(MODEL_CATALOG["qwen2-audio-7b-instruct"], auto_resample=False)
    sounds = [AudioSegment(path) for path in sorted(folder.glob("*.wav"))]
    for sound in sounds[:5]:
        ear(sound)
    began = time.perf_counter()
    samples = sum(each.num_samples for sound in sounds[5:] for each in ear(sound))
    return {"times": samples / RATE / (time.perf_counter() - began)}


def most_held() -> int:
    """Bytes of memory this process held at the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


MEASURES = {
    "list": listed,
    "headers": with_headers,
    "check": checked,
    "datasets": with_datasets,
    "folder": with_audiofolder,
    "hear": hear,
}


def write_clips(folder: Path, count: int) -> None:
    """Half-second wavs in folders of 1,000, a list and a table of them, and a document."""
    clips = folder / "clips"
    clips.mkdir()
    wave = np.random.default_rng(0).normal(0, 0.1, RATE // 2).astype("float32")
    soundfile.write(clips / "one.wav", wave, RATE)
    whole = (clips / "one.wav").read_bytes()
    (clips / "one.wav").unlink()
    with (clips / "list.jsonl").open("w") as lines, (clips / "metadata.csv").open("w") as table:
        table.write("file_name,text\n")
        for number in range(count):
            name, said = f"{number // 1000:03}/{number:06}.wav", f"this is clip number {number}"
            if number % 1000 == 0:
                (clips / name).parent.mkdir()
            (clips / name).write_bytes(whole[:44] + number.to_bytes(4, "little") + whole[48:])
            lines.write(json.dumps({"audio": name, "text": said}) + "\n")
            table.write(f"{name},{said}\n")
    (folder / "my.dlm").write_text(DOCUMENT)


if __name__ == "__main__":
    main()
