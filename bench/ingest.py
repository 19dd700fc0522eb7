"""Measure reading a data set: clips per second and memory, for lists, headers and all checks.

    python bench/ingest.py [--counts 1000 10000 100000] [--json]

The clips are made here: short WAV files, a `metadata.csv` and a `list.jsonl` that name them all.
Each measurement is a process of its own.

    list       load `list.jsonl` to examples; no audio file is opened
    headers    and read the header of every recording
    check      all of `dlm check`; of more than 2,000 clips only a sample is decoded
    datasets   the same table through `datasets`, row by row, paths alone
    folder     `datasets`' audiofolder, if torchcodec is installed (0.12 fits torch 2.13)
    log_mel    decode 200 clips of 2 to 14 s and compute their log-mels, on one core
"""

import argparse
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from isolation import run_isolated

SAMPLE_RATE = 16_000
METHODS = ["list", "headers", "check", "datasets"]
if find_spec("torchcodec"):
    METHODS.append("folder")
NUM_MEL_CLIPS, MIN_SECONDS, MAX_SECONDS = 200, 2.0, 14.0
DOCUMENT = """---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: sparrow
training:
  sources: [{path: clips/list.jsonl}]
---
"""


def main() -> None:
    """Measure all, or run one measurement in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--method", choices=MEASURE_FNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(MEASURE_FNS[args.method](args.folder)))
        return
    results = {
        "counts": {count: measure_count(count) for count in args.counts},
        "log_mel": measure_log_mel(),
    }
    print(json.dumps(results, indent=2) if args.json else format_results(results))


def measure_count(count: int) -> dict[str, dict[str, float]]:
    """Measure each method over `count` clips; the second of two runs counts, with files cached."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder), count)
        for method in METHODS:
            for _ in range(2):
                results[method] = run_isolated(__file__, "--method", method, "--folder", folder)
    return results


def measure_log_mel() -> dict[str, float]:
    """Measure decoding and log-mels on one core."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for number, seconds in enumerate(np.linspace(MIN_SECONDS, MAX_SECONDS, NUM_MEL_CLIPS)):
            noise = rng.normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype("float32")
            soundfile.write(Path(folder, f"{number}.wav"), noise, SAMPLE_RATE)
        return run_isolated(__file__, "--method", "log_mel", "--folder", folder, one_core=True)


def format_results(results: dict[str, Any]) -> str:
    """Format each measurement, and how time and memory grow."""
    lines, by_count = [], results["counts"]
    for count, by_method in by_count.items():
        for method, result in by_method.items():
            rate, megabytes = count / result["seconds"], result["bytes"] / 1e6
            lines.append(f"{count:>8,} {method:9} {rate:>9,.0f} clips/s {megabytes:>8.1f} MB peak")
    if len(by_count) > 1:
        smaller, larger = sorted(by_count)[-2:]
        for method in METHODS:
            low, high = by_count[smaller][method], by_count[larger][method]
            ratio = high["seconds"] / low["seconds"]
            bytes_per_clip = (high["bytes"] - low["bytes"]) / (larger - smaller)
            lines.append(f"{method:9} {larger:,} take {ratio:.1f} times as long as {smaller:,}")
            lines.append(f"{method:9} {bytes_per_clip:,.0f} bytes per clip")
    speed = results["log_mel"]["times_real_time"]
    lines.append(f"log_mel   {speed:,.0f} times real time on one core")
    return "\n".join(lines)


def measure_list(folder: Path, *, read_headers: bool = False) -> dict[str, float]:
    """Measure loading the examples of the folder's document."""
    from dlm.config.parser import read_document
    from dlm.data.audio_io import read_audio_info
    from dlm.data.load import load_examples

    document = read_document(folder / "my.dlm")
    bytes_before, start = read_peak_bytes(), time.perf_counter()
    loaded = load_examples(document)
    durations = np.zeros(len(loaded.examples))
    if read_headers:
        for index, example in enumerate(loaded.examples):
            durations[index] = read_audio_info(example.audio_segments[0].path).seconds
    assert not loaded.issues and len(loaded.examples) > 0
    return make_result(start, bytes_before)


def measure_headers(folder: Path) -> dict[str, float]:
    """Measure loading the examples, and reading the header of every recording."""
    return measure_list(folder, read_headers=True)


def measure_check(folder: Path) -> dict[str, float]:
    """Measure all of `dlm check`."""
    import dlm

    bytes_before, start = read_peak_bytes(), time.perf_counter()
    result = dlm.check(folder / "my.dlm")
    assert result.validation.num_examples > 0 and not result.fatal_issues
    return make_result(start, bytes_before)


def measure_datasets(folder: Path) -> dict[str, float]:
    """Measure the table through `datasets`, which needs no decoder for paths alone."""
    from datasets import load_dataset

    bytes_before, start = read_peak_bytes(), time.perf_counter()
    rows = load_dataset("csv", data_files=str(folder / "clips/metadata.csv"), split="train").map(
        lambda row: {"audio": str(folder / "clips" / row["file_name"])}
    )
    count_datasets_rows(rows)
    return make_result(start, bytes_before)


def measure_audiofolder(folder: Path) -> dict[str, float]:
    """Measure the folder through `datasets`' audiofolder."""
    from datasets import load_dataset

    bytes_before, start = read_peak_bytes(), time.perf_counter()
    count_datasets_rows(load_dataset("audiofolder", data_dir=str(folder / "clips"), split="train"))
    return make_result(start, bytes_before)


def count_datasets_rows(rows: Any) -> None:
    """Read every row of a `datasets` table, paths and texts, without decoding."""
    from datasets import Audio

    rows = rows.cast_column("audio", Audio(decode=False))
    assert sum(1 for row in rows if row["audio"]["path"] and row["text"]) > 0


def measure_features(folder: Path) -> dict[str, float]:
    """Measure decoding and the log-mel of every clip, as in training; five clips warm up."""
    import torch

    from dlm.data.types import AudioSegment
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.plan.model_spec import MODEL_CATALOG

    torch.set_num_threads(1)
    spec = MODEL_CATALOG["qwen2-audio-7b-instruct"]
    extractor = AudioFeatureExtractor(spec, auto_resample=False)
    segments = [AudioSegment(path) for path in sorted(folder.glob("*.wav"))]
    for segment in segments[:5]:
        extractor(segment)
    start = time.perf_counter()
    num_samples = sum(
        window.num_samples for segment in segments[5:] for window in extractor(segment)
    )
    return {"times_real_time": num_samples / SAMPLE_RATE / (time.perf_counter() - start)}


def make_result(start: float, bytes_before: int) -> dict[str, float]:
    """Return the seconds since `start`, and by how many bytes the peak memory grew."""
    return {"seconds": time.perf_counter() - start, "bytes": read_peak_bytes() - bytes_before}


def read_peak_bytes() -> int:
    """Return the peak memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


MEASURE_FNS = {
    "list": measure_list,
    "headers": measure_headers,
    "check": measure_check,
    "datasets": measure_datasets,
    "folder": measure_audiofolder,
    "log_mel": measure_features,
}


def write_clips(folder: Path, count: int) -> None:
    """Write WAV files of half a second in folders of 1,000, a list, a table and a document."""
    clips_dir = folder / "clips"
    clips_dir.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE // 2).astype("float32")
    soundfile.write(clips_dir / "template.wav", noise, SAMPLE_RATE)
    wav = (clips_dir / "template.wav").read_bytes()
    (clips_dir / "template.wav").unlink()
    with (
        (clips_dir / "list.jsonl").open("w") as jsonl,
        (clips_dir / "metadata.csv").open("w") as table,
    ):
        table.write("file_name,text\n")
        for number in range(count):
            name, text = f"{number // 1000:03}/{number:06}.wav", f"this is clip number {number}"
            if number % 1000 == 0:
                (clips_dir / name).parent.mkdir()
            # the number makes the samples of each file different
            (clips_dir / name).write_bytes(wav[:44] + number.to_bytes(4, "little") + wav[48:])
            jsonl.write(json.dumps({"audio": name, "text": text}) + "\n")
            table.write(f"{name},{text}\n")
    (folder / "my.dlm").write_text(DOCUMENT)


if __name__ == "__main__":
    main()
