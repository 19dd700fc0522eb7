"""Measure batches from a stream against batches from a list: clips per second and memory.

    python bench/stream.py [--counts 1000 10000] [--json]

The clips are those of bench/ingest.py. A measurement is one epoch up to finished batches of 8, with
sparrow's feature extractor and without a model, in a process of its own. `first_batch_seconds` is
the time from reading the document to the first batch.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ingest import read_peak_bytes, write_clips
from isolation import run_isolated

METHODS = ("list", "stream")
BATCH_SIZE = 8
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
    """Measure all, or run one measurement in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure_method(args.method, args.folder)))
        return
    results = {count: measure_count(count) for count in args.counts}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    for count, by_method in results.items():
        for method, result in by_method.items():
            rate, megabytes = count / result["seconds"], result["bytes"] / 1e6
            first = f"{result['first_batch_seconds']:.2f} s to the first batch"
            print(
                f"{count:>8,} {method:7} {rate:>8,.0f} clips/s  {first}  {megabytes:>7.1f} MB more"
            )


def measure_count(count: int) -> dict[str, dict[str, float]]:
    """Measure each method over `count` clips in turn; the second of two runs counts."""
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder), count)
        results = {}
        for method in (*METHODS, *METHODS):
            results[method] = run_isolated(__file__, "--method", method, "--folder", folder)
        return results


def measure_method(method: str, folder: Path) -> dict[str, float]:
    """Measure one epoch over all clips."""
    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.batching.samplers import build_batches
    from dlm.batching.stream_sampler import build_stream_batches
    from dlm.config.parser import read_document
    from dlm.data.load import load_examples
    from dlm.data.streaming import open_stream_sources
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.models.load import load_tokenizer
    from dlm.plan.audio_lengths import ceil_div
    from dlm.plan.hardware import detect_hardware
    from dlm.plan.planner import make_plan
    from dlm.plan.resolve import resolve_model_spec
    from dlm.plan.types import TrainSetInfo

    path = folder / f"{method}.dlm"
    path.write_text(DOCUMENT % str(method == "stream").lower())
    spec = resolve_model_spec("sparrow", folder)
    chat_encoder = build_chat_encoder(load_tokenizer(spec), spec)
    count = sum(1 for _ in (folder / "clips/list.jsonl").open())
    training, hardware = read_document(path).config.training, detect_hardware(folder)
    plan = make_plan(training, spec, TrainSetInfo(count), hardware)
    batch_plan = replace(plan.batches, use_cached_features=False)
    extractor = AudioFeatureExtractor(spec, auto_resample=True, memory_bytes=0)
    bytes_before, start = read_peak_bytes(), time.monotonic()
    if method == "list":
        examples = list(load_examples(read_document(path)).examples)
        batches = build_batches(examples, batch_plan, chat_encoder, extractor)
    else:
        sources = open_stream_sources(read_document(path))
        batches = build_stream_batches(
            sources, batch_plan, chat_encoder, extractor, lambda example: example
        )
    first_batch_seconds = 0.0
    for _ in batches.iter_batches(0, ceil_div(count, BATCH_SIZE)):
        first_batch_seconds = first_batch_seconds or time.monotonic() - start
    return {
        "seconds": time.monotonic() - start,
        "first_batch_seconds": first_batch_seconds,
        "bytes": read_peak_bytes() - bytes_before,
    }


if __name__ == "__main__":
    main()
