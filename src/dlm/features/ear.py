"""What the model hears of one sound: its mel, or, while the encoder is frozen, its features.

    Sound --decode--> samples --log_mel--> mel --hear--> features --> memory, then disk

Each sound is prepared once and kept in memory as far as the budget goes. Features also go to disk,
keyed by the recording's bytes, the span, the encoder's revision and the preprocessing.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.clips.audio import decode
from dlm.clips.clip import Sound
from dlm.features.mel import log_mel
from dlm.files import sha256_file
from dlm.plan.bases import Base
from dlm.plan.frames import tokens

MEMORY_BYTES = 3 << 30  # enough for the mels of about 50,000 short clips

Hear = Callable[[torch.Tensor], torch.Tensor]  # mel (bins, frames) -> (encoder frames, width)


@dataclass(frozen=True)
class Heard:
    """One sound, ready for a batch: mel as (bins, frames), or features as (frames, width)."""

    values: torch.Tensor
    samples: int
    tokens: int
    encoded: bool


class Ear:
    """Turns sounds into what a base hears, each once."""

    def __init__(
        self,
        base: Base,
        *,
        auto_resample: bool,
        hear: Hear | None = None,
        folder: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`hear` is the frozen encoder, `folder` where its features are kept between runs."""
        self._base, self._resample = base, auto_resample
        self._hear, self._folder = hear, folder
        self._kept: OrderedDict[Sound, Heard] = OrderedDict()
        self._free = memory_bytes

    def __call__(self, sound: Sound) -> Heard:
        """What is heard of `sound`. Raises ClipError where it cannot be decoded."""
        kept = self._kept.get(sound)
        if kept is None:
            kept = self._mel(sound) if self._hear is None else self._encoded(sound, self._hear)
            self._keep(sound, kept)
        return kept

    def samples(self, values: np.ndarray) -> Heard:
        """What is heard of samples that lie in memory already, at the base's rate."""
        heard = self._of_samples(values)
        if self._hear is None:
            return heard
        return Heard(self._hear(heard.values), heard.samples, heard.tokens, True)

    def _mel(self, sound: Sound) -> Heard:
        rate = self._base.strides.rate
        return self._of_samples(decode(sound, rate=rate, resample=self._resample))

    def _of_samples(self, samples: np.ndarray) -> Heard:
        strides = self._base.strides
        mel = log_mel(samples, rate=strides.rate, hop=strides.hop, bins=self._base.bins)
        return Heard(mel, len(samples), tokens(len(samples), strides), False)

    def _encoded(self, sound: Sound, hear: Hear) -> Heard:
        """Features from disk, or heard now and put there."""
        path = self._folder / f"{self._key(sound)}.safetensors" if self._folder else None
        stored = _read(path) if path else None
        if stored is None:
            mel = self._mel(sound)
            features = hear(mel.values).contiguous()
            stored = {"features": features, "samples": torch.tensor(mel.samples)}
            if path:
                _write(path, stored)
        samples = int(stored["samples"])
        return Heard(stored["features"], samples, tokens(samples, self._base.strides), True)

    def _key(self, sound: Sound) -> str:
        base = self._base
        stat = sound.path.stat()
        blob = _blob(sound.path, stat.st_mtime_ns, stat.st_size)
        parts = (blob, sound.start, sound.end, base.key, base.revision, base.strides, base.bins)
        return hashlib.sha256(repr((*parts, self._resample)).encode()).hexdigest()

    def _keep(self, sound: Sound, heard: Heard) -> None:
        """Remember, letting go of the oldest when the budget is used up."""
        self._kept[sound] = heard
        self._free -= heard.values.nbytes
        while self._free < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._free += oldest.values.nbytes


@lru_cache(maxsize=100_000)
def _blob(path: Path, modified: int, size: int) -> str:
    """The recording's hash; the two numbers make a changed file another one."""
    return sha256_file(path)


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    """Stored features, or None when there are none or a kill left half a file."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_suffix(f".{os.getpid()}.pending")
    save_file(tensors, pending)
    pending.replace(path)
