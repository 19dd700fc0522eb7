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

from dlm.clips.audio import decode
from dlm.clips.clip import Sound
from dlm.features.augment import Augment
from dlm.features.ear import Ear
from dlm.features.noise import KINDS, Chance
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.changes import Changes, Masks

RUNS = 3
BASE = CATALOGUE["sparrow"]
RATE = BASE.strides.rate
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
    waves: list[np.ndarray], folder: Path, chance: Chance
) -> list[tuple[str, Callable[[], None]]]:
    """Everything that is measured, by name: each goes over all clips once."""
    ear = Ear(BASE, auto_resample=False)
    mels = [(each.values, each.frames) for wave in waves for each in ear.taken(wave)]
    found = [(name, partial(change, waves, Changes(1.0, **how))) for name, how in WAVES.items()]
    found.append(("all of these", partial(change, waves, Changes(1.0, **{**ALL, **SNR}))))
    masks = Changes(1.0, time=Masks(2, 100, 0.2), frequency=Masks(2, 27))
    found.append(("masks", partial(mask, mels, masks)))
    for name, make in KINDS.items():
        found.append(
            (
                f"  noise, {name}",
                partial(each_wave, waves, lambda wave, make=make: make(len(wave), RATE, chance)),
            )
        )
    found.append(("mel", partial(each_wave, waves, ear.taken)))
    for suffix in ("wav", "flac"):
        sounds = [Sound(folder / f"{n}.{suffix}") for n in range(len(waves))]
        for sound, wave in zip(sounds, waves, strict=True):
            soundfile.write(sound.path, wave, RATE)
        heard = partial(decode, rate=RATE, resample=False)
        found.append((f"decode {suffix}", partial(each_wave, sounds, heard)))
    return found


def change(waves: list[np.ndarray], changes: Changes) -> None:
    """Another version of every clip."""
    augment = Augment(changes, BASE.strides, "0")
    for number, wave in enumerate(waves):
        augment.wave(wave, str(number), 0)


def mask(mels: list[tuple[torch.Tensor, int]], changes: Changes) -> None:
    """Masks on every mel."""
    augment = Augment(changes, BASE.strides, "0")
    for number, (mel, frames) in enumerate(mels):
        augment.mel(mel, frames, 0, who=str(number), epoch=0)


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
