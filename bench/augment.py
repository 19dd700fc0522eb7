"""Measure each augmentation: seconds of audio that one core augments per second.

    python bench/augment.py [--json]

Clips of 2 to 14 s at 16 kHz, on one thread; each augmentation is measured 3 times over all of them,
and the median counts. For comparison: their log-mels, and decoding them from WAV and FLAC.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.features.augment import NOISE_GENERATORS, Augmenter
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.types import AugmentationSpec, SpecAugmentMasks

NUM_RUNS = 3
SPEC = MODEL_CATALOG["sparrow"]
SAMPLE_RATE = SPEC.audio_spec.sample_rate
DURATIONS = np.tile(np.linspace(2, 14, 13), 6)  # seconds
NOISE = {"noise_source": "synthetic", "snr_db": (5.0, 20.0)}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "speed": {"speed_percent": (90, 110)},
    "room": {"reverb_probability": 1.0, "rt60_seconds": (0.2, 0.8)},
    "noise, synthetic": NOISE,
    "gain": {"gain_db": (-6.0, 6.0)},
    "codec mulaw": {"codecs": ("mulaw",)},
    "codec telephone": {"codecs": ("telephone",)},
    "codec lowpass": {"codecs": ("lowpass",)},
}
ALL_OPTIONS = {key: value for options in AUGMENTATIONS.values() for key, value in options.items()}


def main() -> None:
    """Measure everything, and print the results."""
    torch.set_num_threads(1)
    rng = np.random.Generator(np.random.PCG64(0))
    waveforms = [
        0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE), dtype=np.float32)
        for seconds in DURATIONS
    ]
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: measure_speed(run, waveforms)
            for name, run in make_benchmarks(waveforms, Path(folder), rng).items()
        }
    if "--json" in sys.argv[1:]:
        print(json.dumps(results, indent=2))
        return
    for name, speed in results.items():
        print(f"{name:24} {speed:10,.0f} x real time")


def make_benchmarks(
    waveforms: list[np.ndarray], folder: Path, rng: np.random.Generator
) -> dict[str, Callable[[], None]]:
    """Return what is measured, by name; each function processes all clips once."""
    extractor = AudioFeatureExtractor(SPEC, auto_resample=False)
    mels = [
        (window.values, window.num_frames)
        for waveform in waveforms
        for window in extractor.extract_features(waveform)
    ]
    masks = AugmentationSpec(
        1.0, time_masks=SpecAugmentMasks(2, 100, 0.2), frequency_masks=SpecAugmentMasks(2, 27)
    )
    benchmarks: dict[str, Callable[[], None]] = {}
    for name, options in (AUGMENTATIONS | {"all of these": ALL_OPTIONS}).items():
        benchmarks[name] = partial(augment_waveforms, waveforms, AugmentationSpec(1.0, **options))
    benchmarks["masks"] = partial(mask_mels, mels, masks)
    for name, noise_fn in NOISE_GENERATORS.items():
        benchmarks[f"  noise, {name}"] = partial(
            run_on_all,
            waveforms,
            lambda waveform, noise_fn=noise_fn: noise_fn(len(waveform), SAMPLE_RATE, rng),
        )
    benchmarks["mel"] = partial(run_on_all, waveforms, extractor.extract_features)
    for suffix in ("wav", "flac"):
        segments = [AudioSegment(folder / f"{n}.{suffix}") for n in range(len(waveforms))]
        for segment, waveform in zip(segments, waveforms, strict=True):
            soundfile.write(segment.path, waveform, SAMPLE_RATE)
        decode = partial(load_audio, sample_rate=SAMPLE_RATE, resample=False)
        benchmarks[f"decode {suffix}"] = partial(run_on_all, segments, decode)
    return benchmarks


def augment_waveforms(waveforms: list[np.ndarray], augmentation: AugmentationSpec) -> None:
    """Augment every waveform."""
    augmenter = Augmenter(augmentation, SPEC.audio_spec, "0")
    for number, waveform in enumerate(waveforms):
        augmenter.augment_waveform(waveform, str(number), 0)


def mask_mels(mels: list[tuple[torch.Tensor, int]], augmentation: AugmentationSpec) -> None:
    """Mask every log-mel."""
    augmenter = Augmenter(augmentation, SPEC.audio_spec, "0")
    for number, (mel, num_frames) in enumerate(mels):
        augmenter.mask_mel(mel, num_frames, 0, audio_key=str(number), epoch=0)


def run_on_all(items: list[Any], run: Callable[[Any], object]) -> None:
    """Call `run` with every item."""
    for item in items:
        run(item)


def measure_speed(run: Callable[[], None], waveforms: list[np.ndarray]) -> float:
    """Return the median speed of NUM_RUNS, in seconds of audio per CPU second."""
    run()
    seconds = []
    for _ in range(NUM_RUNS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return sum(map(len, waveforms)) / SAMPLE_RATE / statistics.median(seconds)


if __name__ == "__main__":
    main()
