"""What each change to a sound costs: seconds of sound that a core changes in a second.

    python bench/augment.py [--json]

Clips of 2 to 14 s at 16 kHz, on one thread; each change is measured 3 times over all of them, and
the median counts. Beside them: the mel of the same clips, and reading them from wav and flac.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.features.augment import NOISE_GENERATORS, Augmenter, Rng
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.types import AugmentationSpec, SpecAugmentMasks

RUNS = 3
BASE = MODEL_CATALOG["sparrow"]
RATE = BASE.audio_spec.sample_rate
SECONDS = np.tile(np.linspace(2, 14, 13), 6)
SNR = {"noise": "synthetic", "snr_db": (5.0, 20.0)}
WAVES: dict[str, dict[str, object]] = {
    "speed": {"speed_percent": (90, 110)},
    "room": {"room_share": 1.0, "rt60_seconds": (0.2, 0.8)},
    "noise, synthetic": SNR,
    "gain": {"gain_db": (-6.0, 6.0)},
    "codec mulaw": {"codecs": ("mulaw",)},
    "codec telephone": {"codecs": ("telephone",)},
    "codec lowpass": {"codecs": ("lowpass",)},
}
ALL = {key: value for each in WAVES.values() for key, value in each.items()}


def main() -> None:
    """Measure everything and say it."""
    torch.set_num_threads(1)
    chance = np.random.Generator(np.random.PCG64(0))
    waves = [0.1 * chance.standard_normal(round(s * RATE), dtype=np.float32) for s in SECONDS]
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: speed(work, waves) for name, work in works(waves, Path(folder), chance)}
    if "--json" in sys.argv[1:]:
        print(json.dumps(rows, indent=2))
        return
    for name, times in rows.items():
        print(f"{name:24} {times:10,.0f} x real time")


def works(
    waves: list[np.ndarray], folder: Path, chance: Rng
) -> list[tuple[str, Callable[[], None]]]:
    """Everything that is measured, by name: each goes over all clips once."""
    ear = AudioFeatureExtractor(BASE, auto_resample=False)
    mels = [(each.values, each.num_frames) for wave in waves for each in ear.extract_features(wave)]
    found = [
        (name, partial(change, waves, AugmentationSpec(1.0, **how))) for name, how in WAVES.items()
    ]
    found.append(("all of these", partial(change, waves, AugmentationSpec(1.0, **{**ALL, **SNR}))))
    masks = AugmentationSpec(
        1.0, time_masks=SpecAugmentMasks(2, 100, 0.2), frequency_masks=SpecAugmentMasks(2, 27)
    )
    found.append(("masks", partial(mask, mels, masks)))
    for name, make in NOISE_GENERATORS.items():
        found.append(
            (
                f"  noise, {name}",
                partial(each_wave, waves, lambda wave, make=make: make(len(wave), RATE, chance)),
            )
        )
    found.append(("mel", partial(each_wave, waves, ear.extract_features)))
    for suffix in ("wav", "flac"):
        sounds = [AudioSegment(folder / f"{n}.{suffix}") for n in range(len(waves))]
        for sound, wave in zip(sounds, waves, strict=True):
            soundfile.write(sound.path, wave, RATE)
        heard = partial(load_audio, sample_rate=RATE, resample=False)
        found.append((f"decode {suffix}", partial(each_wave, sounds, heard)))
    return found


def change(waves: list[np.ndarray], changes: AugmentationSpec) -> None:
    """Another version of every clip."""
    augment = Augmenter(changes, BASE.audio_spec, "0")
    for number, wave in enumerate(waves):
        augment.augment_waveform(wave, str(number), 0)


def mask(mels: list[tuple[torch.Tensor, int]], changes: AugmentationSpec) -> None:
    """Masks on every mel."""
    augment = Augmenter(changes, BASE.audio_spec, "0")
    for number, (mel, frames) in enumerate(mels):
        augment.mask_mel(mel, frames, 0, audio_key=str(number), epoch=0)


def each_wave(waves: list, work: Callable[..., object]) -> None:
    """The same work on every clip."""
    for wave in waves:
        work(wave)


def speed(work: Callable[[], None], waves: list[np.ndarray]) -> float:
    """How many times faster than the clips last, by the median of RUNS."""
    work()
    seconds = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return sum(map(len, waves)) / RATE / statistics.median(seconds)


if __name__ == "__main__":
    main()
