"""What the model hears of one sound: mel or wave, or, while the encoder is frozen, features.

    Sound --decode--> samples --log_mel--> mel  --+
                              ----windows---> wave --hear--> features --> memory, then disk

Each sound is prepared once and kept in memory as far as the budget goes. Features also go to disk,
keyed by the recording's bytes, the span, the encoder's revision and the preprocessing.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import torch

from dlm.clips.audio import decode, digest
from dlm.clips.clip import Sound
from dlm.clips.reader import Wave
from dlm.features.kept import keep, read_kept
from dlm.features.mel import log_mel
from dlm.plan.bases import Base
from dlm.plan.frames import Strides, ceil_div, mel_frames, window_tokens, windows

MEMORY_BYTES = 3 << 30  # enough for the mels of about 50,000 short clips

Hear = Callable[[torch.Tensor, int], torch.Tensor]  # mel or wave, its frames -> (frames, width)
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Heard:
    """One window of a sound: mel as (bins, frames and tail), wave (1, samples) or features.

    Features are (frames, width). `frames` are those that hold sound, of a wave its samples;
    `samples` and `tokens` are what they stand for.
    """

    values: torch.Tensor
    frames: int
    samples: int
    tokens: int
    encoded: bool


class Memory(Generic[Kept]):
    """What is remembered of sounds, the oldest let go when the budget is used up."""

    def __init__(self, budget_bytes: int) -> None:
        self._kept: OrderedDict[Sound, tuple[Kept, int]] = OrderedDict()
        self._free = budget_bytes
        self._lock = Lock()  # several threads listen

    def get(self, sound: Sound) -> Kept | None:
        """What is remembered of it, if anything is."""
        found = self._kept.get(sound)
        return found[0] if found else None

    def keep(self, sound: Sound, kept: Kept, size: int) -> None:
        """Remember it, which takes `size` bytes."""
        with self._lock:
            if sound in self._kept:
                return
            self._kept[sound] = (kept, size)
            self._free -= size
            while self._free < 0 and len(self._kept) > 1:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._free += oldest


class Ear:
    """Turns sounds into what a base hears, each once."""

    def __init__(
        self,
        base: Base,
        *,
        auto_resample: bool,
        most_windows: int | None = None,
        hear: Hear | None = None,
        folder: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`hear` is the frozen encoder, `folder` where its features are kept between runs.

        A sound of more windows than `most_windows` is cut off there.
        """
        self._base, self._resample, self._most = base, auto_resample, most_windows
        self._hear, self._folder = hear, folder
        self._kept: Memory[tuple[Heard, ...]] = Memory(memory_bytes)

    def __call__(self, sound: Sound) -> tuple[Heard, ...]:
        """The windows of `sound`. Raises ClipError where it cannot be decoded."""
        kept = self._kept.get(sound)
        if kept is None:
            hear = self._hear
            kept = self._encoded(sound, hear) if hear else self.taken(self.decoded(sound))
            self._kept.keep(sound, kept, sum(each.values.nbytes for each in kept))
        return kept

    def decoded(self, sound: Sound) -> Wave:
        """The samples of `sound`. Raises ClipError where it cannot be decoded."""
        return decode(sound, rate=self._base.strides.rate, resample=self._resample)

    def taken(self, samples: Wave) -> tuple[Heard, ...]:
        """What the encoder takes of each window of samples (samples,)."""
        strides = self._base.strides
        lengths = windows(len(samples), strides, self._most)
        cut = self._waves if self._base.ear == "wave" else self._mels
        return tuple(
            Heard(each, mel_frames(length, strides), length, window_tokens(length, strides), False)
            for each, length in zip(cut(samples, lengths), lengths, strict=True)
        )

    def _waves(self, samples: np.ndarray, lengths: tuple[int, ...]) -> list[torch.Tensor]:
        """The wave of each window, (1, samples), with the silence that counts."""
        strides = self._base.strides
        starts = [number * strides.window for number in range(len(lengths))]
        spans = zip(starts, [mel_frames(length, strides) for length in lengths], strict=True)
        wave = torch.zeros(1, starts[-1] + strides.window)
        kept = samples[: wave.shape[1]]
        wave[0, : len(kept)] = torch.from_numpy(kept)
        return [wave[:, start : start + length].clone() for start, length in spans]

    def _mels(self, samples: np.ndarray, lengths: tuple[int, ...]) -> list[torch.Tensor]:
        """The mel of each window, (bins, frames and tail)."""
        base, strides = self._base, self._base.strides
        mel = partial(
            log_mel, rate=strides.rate, hop=strides.hop, bins=base.bins, tail=strides.tail
        )
        whole = sum(lengths) if strides.fill == "none" else len(lengths) * strides.window
        samples = np.pad(samples, (0, max(whole - len(samples), 0)))
        if base.whole_mel:
            frames = strides.window // strides.hop
            heard = ceil_div(len(samples), strides.window) * strides.window
            edge = len(samples) if strides.mirrors else heard
            return list(mel(samples, edge=edge).split(frames, dim=1))[: len(lengths)]
        starts = [number * strides.window for number in range(len(lengths))]
        spans = [samples[start : start + strides.window] for start in starts]
        return [mel(span, edge=strides.window) for span in spans]

    def _encoded(self, sound: Sound, hear: Hear) -> tuple[Heard, ...]:
        """Features from disk, or heard now and put there."""
        path = self._folder / f"{self._key(sound)}.safetensors" if self._folder else None
        stored = read_kept(path) if path else None
        if stored is None:
            heard = self.taken(self.decoded(sound))
            stored = {
                str(at): hear(each.values, each.frames).contiguous()
                for at, each in enumerate(heard)
            }
            stored["samples"] = torch.tensor([each.samples for each in heard])
            if path:
                keep(path, stored)
        return tuple(
            _window(stored[str(at)], int(samples), self._base.strides)
            for at, samples in enumerate(stored["samples"])
        )

    def _key(self, sound: Sound) -> str:
        """The recording's hash, by which `dlm gc` finds it, and that of all the rest."""
        base, told = self._base, identity(sound)
        parts = (told, base.key, base.revision, base.strides, base.bins)
        encoders = base.recipe and base.recipe.encoders
        how = (base.whole_mel, base.ear, encoders, self._resample, self._most)
        return f"{told.split()[0]}-{hashlib.sha256(repr((*parts, *how)).encode()).hexdigest()}"


def _window(features: torch.Tensor, samples: int, strides: Strides) -> Heard:
    return Heard(features, len(features), samples, window_tokens(samples, strides), True)


def identity(sound: Sound) -> str:
    """The hash of the recording's bytes, and the span: the same wherever the recording lies.

    Raises ClipError where it cannot be read.
    """
    path, inside = sound.recording
    try:
        stat = path.stat()
    except OSError:
        return digest(sound)  # which says what is wrong
    blob = _blob(path, inside, stat.st_mtime_ns, stat.st_size)
    return f"{blob} {sound.start} {sound.end}"


@lru_cache(maxsize=100_000)
def _blob(path: Path, inside: tuple[int, int] | None, modified: int, size: int) -> str:
    """The recording's hash; the two numbers make a changed file another one."""
    return digest(Sound(path, inside=inside))
