"""What the model hears of one sound: its mel, or, while the encoder is frozen, its features.

    Sound --decode--> samples --log_mel--> mel, by windows --hear--> features --> memory, then disk

Each sound is prepared once and kept in memory as far as the budget goes. Features also go to disk,
keyed by the recording's bytes, the span, the encoder's revision and the preprocessing.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.clips.audio import decode
from dlm.clips.clip import Sound
from dlm.features.mel import log_mel
from dlm.files import disk_full, make_folder, sha256_file, writing
from dlm.plan.bases import Base
from dlm.plan.frames import Strides, ceil_div, mel_frames, window_tokens, windows

MEMORY_BYTES = 3 << 30  # enough for the mels of about 50,000 short clips

Hear = Callable[[torch.Tensor, int], torch.Tensor]  # mel (bins, frames), frames -> (frames, width)


@dataclass(frozen=True)
class Heard:
    """One window of a sound: mel as (bins, frames and tail), or features (frames, width).

    `frames` are those that hold sound, `samples` and `tokens` what they stand for.
    """

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
        self._kept: OrderedDict[Sound, tuple[Heard, ...]] = OrderedDict()
        self._free = memory_bytes

    def __call__(self, sound: Sound) -> tuple[Heard, ...]:
        """The windows of `sound`. Raises ClipError where it cannot be decoded."""
        kept = self._kept.get(sound)
        if kept is None:
            kept = self._mel(sound) if self._hear is None else self._encoded(sound, self._hear)
            self._keep(sound, kept)
        return kept

    def _mel(self, sound: Sound) -> tuple[Heard, ...]:
        strides = self._base.strides
        samples = decode(sound, rate=strides.rate, resample=self._resample)
        lengths = windows(len(samples), strides, self._most)
        return tuple(
            Heard(mel, mel_frames(length, strides), length, window_tokens(length, strides), False)
            for mel, length in zip(self._mels(samples, lengths), lengths, strict=True)
        )

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
        stored = _read(path) if path else None
        if stored is None:
            mels = self._mel(sound)
            stored = {
                str(at): hear(mel.values, mel.frames).contiguous() for at, mel in enumerate(mels)
            }
            stored["samples"] = torch.tensor([mel.samples for mel in mels])
            if path:
                _write(path, stored)
        return tuple(
            _window(stored[str(at)], int(samples), self._base.strides)
            for at, samples in enumerate(stored["samples"])
        )

    def _key(self, sound: Sound) -> str:
        base = self._base
        stat = sound.path.stat()
        blob = _blob(sound.path, stat.st_mtime_ns, stat.st_size)
        parts = (blob, sound.start, sound.end, base.key, base.revision, base.strides, base.bins)
        how = (base.whole_mel, self._resample, self._most)
        return hashlib.sha256(repr((*parts, *how)).encode()).hexdigest()

    def _keep(self, sound: Sound, heard: tuple[Heard, ...]) -> None:
        """Remember, letting go of the oldest when the budget is used up."""
        self._kept[sound] = heard
        self._free -= sum(each.values.nbytes for each in heard)
        while self._free < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._free += sum(each.values.nbytes for each in oldest)


def _window(features: torch.Tensor, samples: int, strides: Strides) -> Heard:
    return Heard(features, len(features), samples, window_tokens(samples, strides), True)


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
