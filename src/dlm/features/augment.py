"""How one sound is changed: what is drawn is a function of the seed, the sound and the pass.

    samples --speed--> --room--> --noise--> --gain--> --codec--> samples
    mel --masks--> mel

Nothing else is asked: not the batch a sound rides in, not who makes it ready, not what came before.
Every change draws numbers of its own, so that one more leaves the others as they were.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from dlm.clips.audio import decode, resampler
from dlm.clips.clip import Sound
from dlm.clips.noises import Noise
from dlm.clips.reader import Wave
from dlm.features.noise import Chance, synthetic
from dlm.features.spaces import in_room, rms, through
from dlm.plan.changes import Changes, Masks, Range, pace, played
from dlm.plan.frames import Strides


class Augment:
    """Changes sounds as a plan has it, at one rate; `seed` tells two runs, or stages, apart."""

    def __init__(
        self, changes: Changes, strides: Strides, seed: str, recorded: Sequence[Noise] = ()
    ) -> None:
        """`recorded` is the noise to mix in; it is made up when there is none.

        Raises ClipError where speed is wanted and nothing resamples.
        """
        self._changes, self._strides, self._seed = changes, strides, seed
        self._recorded = recorded
        self._resample = resampler() if changes.speed_percent else None

    def wave(self, samples: Wave, who: str, epoch: int) -> Wave:
        """The version of a sound (samples,) that a pass hears; `who` says whose samples they are.

        Raises ClipError where a recording of noise cannot be decoded.
        """
        changes, rate = self._changes, self._strides.rate
        if not self.chosen(who, epoch):
            return samples
        wave = self._played(samples, self._chance(who, epoch, "speed"))
        chance = self._chance(who, epoch, "room")
        if chance.random() < changes.room_share:
            wave = in_room(wave, rate, chance.uniform(*changes.rt60_seconds), chance)
        if changes.noise:
            wave = self._mixed(wave, self._chance(who, epoch, "noise"))
        if changes.gain_db:
            wave = wave * _times(self._chance(who, epoch, "gain"), changes.gain_db)
        if changes.codecs:
            chance = self._chance(who, epoch, "codec")
            codec = changes.codecs[chance.integers(len(changes.codecs))]
            wave = through(wave, rate, codec, chance)
        return wave

    def mel(
        self, mel: torch.Tensor, frames: int, window: int, *, who: str, epoch: int
    ) -> torch.Tensor:
        """The version of a mel (bins, frames and tail) that a pass hears, of its `frames`.

        `window` is its number among those of the sound. What is masked becomes the mean, as in
        SpecAugment (Park et al. 2019, section 2).
        """
        time, frequency = self._changes.time, self._changes.frequency
        if not (time or frequency) or not self.chosen(who, epoch):
            return mel
        masked, mean = mel.clone(), mel[:, :frames].mean()
        if time:
            chance = self._chance(who, epoch, f"time {window}")
            for start, stop in _masks(chance, time, frames):
                masked[:, start:stop] = mean
        if frequency:
            chance = self._chance(who, epoch, f"frequency {window}")
            for start, stop in _masks(chance, frequency, len(mel)):
                masked[start:stop, :frames] = mean
        return masked

    def chosen(self, who: str, epoch: int) -> bool:
        """Whether a pass changes this sound."""
        return bool(self._chance(who, epoch, "share").random() < self._changes.share)

    def _chance(self, who: str, epoch: int, what: str) -> Chance:
        """The random numbers of one change to one sound in one pass."""
        told = f"{self._seed}/{epoch}/{what}/{who}".encode()
        number = int.from_bytes(hashlib.sha256(told).digest()[:16], "big")
        return np.random.Generator(np.random.PCG64(number))

    def _played(self, samples: Wave, chance: Chance) -> Wave:
        """Faster or slower, and with it higher or lower (Ko et al. 2015)."""
        if not self._resample or not self._changes.speed_percent:
            return samples
        slow, fast = self._changes.speed_percent
        window = self._strides.window
        drawn = int(chance.integers(slow, fast, endpoint=True))
        length = played(len(samples), drawn, window)
        wave = self._resample(samples, pace(len(samples), drawn, window), 100)[:length]
        return np.pad(wave, (0, length - len(wave)))

    def _mixed(self, wave: Wave, chance: Chance) -> Wave:
        """With noise, 20 log10(rms of the sound / rms of the noise) dB below it; silence stays."""
        below = _times(chance, self._changes.snr_db)
        noise = (
            self._cut(len(wave), chance)
            if self._recorded
            else synthetic(len(wave), self._strides.rate, chance)
        )
        loud = rms(noise) * below
        return wave + noise * np.float32(rms(wave) / loud) if loud else wave

    def _cut(self, samples: int, chance: Chance) -> Wave:
        """A stretch of a recording, both drawn; one that is too short begins again."""
        noise = self._recorded[int(chance.integers(len(self._recorded)))]
        rate, path = self._strides.rate, noise.sound.path
        needed = samples / rate
        start = chance.uniform(0, max(noise.seconds - needed, 0.0))
        end = min(start + needed, noise.seconds)
        span = Sound(path, start, end, written=noise.sound.written)
        return np.resize(decode(span, rate=rate, resample=True), samples)


def _times(chance: Chance, decibels: Range) -> np.float32:
    """A factor of so many decibels as are drawn."""
    return np.float32(10 ** (chance.uniform(*decibels) / 20))


def _masks(chance: Chance, masks: Masks, length: int) -> list[tuple[int, int]]:
    """Where each mask begins and ends: a width from 0 to the widest, anywhere it fits."""
    widest = min(masks.widest, int(masks.most * length))
    widths = chance.integers(0, widest, size=masks.count, endpoint=True)
    starts = [int(chance.integers(0, length - width, endpoint=True)) for width in widths]
    return [(start, start + int(width)) for start, width in zip(starts, widths, strict=True)]
