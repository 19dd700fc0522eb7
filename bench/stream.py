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
    from dlm.batches.bucket import pack
    from dlm.batches.buffered import buffer
    from dlm.batches.forms import chat_of
    from dlm.clips.sources import gather
    from dlm.clips.streams import feeds
    from dlm.document.parse import read
    from dlm.features.ear import Ear
    from dlm.model.load import tokenizer_of
    from dlm.plan.draw import draw_up
    from dlm.plan.hardware import survey
    from dlm.plan.resolve import resolve

    path = folder / f"{way}.dlm"
    path.write_text(DOCUMENT % str(way == "stream").lower())
    base = resolve("sparrow", folder)
    chat = chat_of(tokenizer_of(base), base)
    count = sum(1 for _ in (folder / "clips/list.jsonl").open())
    plan = replace(draw_up(read(path), base, count, survey(folder)).batches, heard=False)
    ear = Ear(base, auto_resample=True, memory_bytes=0)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if way == "list":
        batches = pack(list(gather(read(path)).clips), plan, chat, ear)
    else:
        batches = buffer(feeds(read(path)), plan, chat, ear, lambda clip: clip)
    first = 0.0
    for _ in batches.stream(0, -(-count // CLIPS_PER_STEP)):
        first = first or time.monotonic() - began
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "first": first, "bytes": (after - before) * 1024}


if __name__ == "__main__":
    main()
