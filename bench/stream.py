"""How fast batches come from a stream, against the same clips as a list, and what each holds.

    python bench/stream.py [--counts 1000 10000] [--json]

Clips are made as bench/ingest.py makes them. A measurement is one pass over them, up to finished
batches of 8, on sparrow's ear and without a model: a process of its own, so that its memory is its
own. `first` is how long the first batch takes, from the document on.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ingest import write_clips

WAYS = ("list", "stream")
CLIPS_PER_STEP = 8
DOCUMENT = """---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: sparrow
training:
  micro_batch_size: 8
  steps: 1
  sources: [{path: clips/list.jsonl, stream: %s}]
---
"""


def main() -> None:
    """Measure, or do one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one, asked.folder)))
        return
    found = {count: of_count(count) for count in asked.counts}
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for count, row in found.items():
        for way, each in row.items():
            rate, mega = count / each["seconds"], each["bytes"] / 1e6
            first = f"{each['first']:.2f} s to the first batch"
            print(f"{count:>8,} {way:7} {rate:>8,.0f} clips/s  {first}  {mega:>7.1f} MB more")


def of_count(count: int) -> dict[str, dict[str, float]]:
    """Each way over so many clips, in turn; the second of two runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, count)
        found = {}
        for way in (*WAYS, *WAYS):
            words = [sys.executable, __file__, "--one", way, "--folder", name]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[way] = json.loads(done.stdout)
        return found


def measured(way: str, folder: Path) -> dict[str, float]:
    """One pass over all clips."""
    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.batching.samplers import build_batches
    from dlm.batching.stream_sampler import build_stream_batches
    from dlm.config.parser import read_document
    from dlm.data.load import load_examples
    from dlm.data.streaming import open_stream_sources
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.models.load import load_tokenizer
    from dlm.plan.hardware import detect_hardware
    from dlm.plan.planner import make_plan
    from dlm.plan.resolve import resolve_model_spec
    from dlm.plan.types import TrainSetInfo

    path = folder / f"{way}.dlm"
    path.write_text(DOCUMENT % str(way == "stream").lower())
    base = resolve_model_spec("sparrow", folder)
    chat = build_chat_encoder(load_tokenizer(base), base)
    count = sum(1 for _ in (folder / "clips/list.jsonl").open())
    plan = replace(
        make_plan(
            read_document(path).config.training,
            base,
            TrainSetInfo(count),
            detect_hardware(folder),
        ).batches,
        use_cached_features=False,
    )
    ear = AudioFeatureExtractor(base, auto_resample=True, memory_bytes=0)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if way == "list":
        batches = build_batches(list(load_examples(read_document(path)).examples), plan, chat, ear)
    else:
        batches = build_stream_batches(
            open_stream_sources(read_document(path)), plan, chat, ear, lambda clip: clip
        )
    first = 0.0
    for _ in batches.iter_batches(0, -(-count // CLIPS_PER_STEP)):
        first = first or time.monotonic() - began
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "first": first, "bytes": (after - before) * 1024}


if __name__ == "__main__":
    main()
