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

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.clips.audio import decode
from dlm.clips.clip import Sound
from dlm.features.mel import log_mel
from dlm.files import disk_full, make_folder, sha256_file, writing
from dlm.plan.bases import Base
from dlm.plan.frames import tokens

MEMORY_BYTES = 3 << 30  # enough for the mels of about 50,000 short clips

Hear = Callable[[torch.Tensor], torch.Tensor]  # mel (bins, frames) -> (encoder frames, width)


@dataclass(frozen=True)
class Heard:
    """One sound, ready for a batch: mel as (bins, frames and tail), or features (frames, width)."""

    values: torch.Tensor
    frames: int
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

    def _mel(self, sound: Sound) -> Heard:
        base, strides = self._base, self._base.strides
        samples = decode(sound, rate=strides.rate, resample=self._resample)
        mel = log_mel(
            samples, rate=strides.rate, hop=strides.hop, bins=base.bins, tail=strides.tail
        )
        count = tokens(len(samples), strides)
        return Heard(mel, mel.shape[1] - strides.tail, len(samples), count, False)

    def _encoded(self, sound: Sound, hear: Hear) -> Heard:
        """Features from disk, or heard now and put there."""
        path = self._folder / f"{self._key(sound)}.safetensors" if self._folder else None
        stored = _read(path) if path else None
        if stored is None:
            mel = self._mel(sound)
            heard = hear(mel.values).contiguous()
            stored = {"features": heard, "samples": torch.tensor(mel.samples)}
            if path:
                _write(path, stored)
        features, samples = stored["features"], int(stored["samples"])
        count = tokens(samples, self._base.strides)
        return Heard(features, len(features), samples, count, True)

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
    pending = path.with_suffix(f".{os.getpid()}.pending")
    try:
        with writing(path):
            make_folder(path.parent)
            save_file(tensors, pending)
            pending.replace(path)
    except SafetensorError as error:
        pending.unlink(missing_ok=True)
        raise disk_full(error, path) or error from error
