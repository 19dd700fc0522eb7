"""What the model hears of one sound: mel or wave, or, while the encoder is frozen, features.

    Sound --decode--> samples --log_mel--> mel  --+
                              ----windows---> wave --hear--> features --> memory, then disk

Each sound is prepared once and kept in memory as far as the budget goes. Features also go to disk,
keyed by the recording's bytes, the span, the encoder's revision and the preprocessing.

What is heard of another version of each sound in every pass over the clips.

    Sound --decode--> samples --augment(pass)--> samples --> mel or wave --augment(pass)--> Heard
              kept in memory                                             masks

The encoder hears every version itself, batch by batch: nothing that it heard is kept.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import torch

from dlm.data.audio_file import Waveform
from dlm.data.audio_io import hash_recording, load_audio
from dlm.data.types import AudioSegment
from dlm.features.augment import Augmenter
from dlm.features.disk_cache import read_cached_tensors, write_cached_tensors
from dlm.features.log_mel import compute_log_mel
from dlm.plan.audio_lengths import (
    AudioTokenizerSpec,
    ceil_div,
    compute_window_lengths,
    count_mel_frames,
    count_window_tokens,
)
from dlm.plan.model_spec import ModelSpec

FEATURE_MEMORY_BYTES = 3 << 30  # enough for the mels of about 50,000 short clips

EncodeFn = Callable[[torch.Tensor, int], torch.Tensor]  # mel or wave, its frames -> (frames, width)
CachedT = TypeVar("CachedT")


@dataclass(frozen=True)
class AudioFeatures:
    """One window of a sound: mel as (bins, frames and tail), wave (1, samples) or features.

    Features are (frames, width). `frames` are those that hold sound, of a wave its samples;
    `samples` and `tokens` are what they stand for.
    """

    values: torch.Tensor
    num_frames: int
    num_samples: int
    num_tokens: int
    is_encoded: bool


class LruByteCache(Generic[CachedT]):
    """What is remembered of sounds, the oldest let go when the budget is used up."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[AudioSegment, tuple[CachedT, int]] = OrderedDict()
        self._free_bytes = max_bytes
        self._lock = Lock()  # several threads listen

    def get(self, segment: AudioSegment) -> CachedT | None:
        """What is remembered of it, if anything is."""
        found = self._entries.get(segment)
        return found[0] if found else None

    def put(self, segment: AudioSegment, value: CachedT, num_bytes: int) -> None:
        """Remember it, which takes `size` bytes."""
        with self._lock:
            if segment in self._entries:
                return
            self._entries[segment] = (value, num_bytes)
            self._free_bytes -= num_bytes
            while self._free_bytes < 0 and len(self._entries) > 1:
                _, (_, oldest) = self._entries.popitem(last=False)
                self._free_bytes += oldest


class AudioFeatureExtractor:
    """Turns sounds into what a base hears, each once."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        auto_resample: bool,
        max_windows: int | None = None,
        encode_fn: EncodeFn | None = None,
        cache_dir: Path | None = None,
        memory_bytes: int = FEATURE_MEMORY_BYTES,
    ) -> None:
        """`hear` is the frozen encoder, `folder` where its features are kept between runs.

        A sound of more windows than `most_windows` is cut off there.
        """
        self._spec, self._auto_resample, self._max_windows = spec, auto_resample, max_windows
        self._encode_fn, self._cache_dir = encode_fn, cache_dir
        self._memory_cache: LruByteCache[tuple[AudioFeatures, ...]] = LruByteCache(memory_bytes)

    def __call__(self, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        """The windows of `sound`. Raises ClipError where it cannot be decoded."""
        kept = self._memory_cache.get(segment)
        if kept is None:
            hear = self._encode_fn
            kept = (
                self._load_or_encode(segment, hear)
                if hear
                else self.extract_features(self.load_audio(segment))
            )
            self._memory_cache.put(segment, kept, sum(each.values.nbytes for each in kept))
        return kept

    def load_audio(self, segment: AudioSegment) -> Waveform:
        """The samples of `sound`. Raises ClipError where it cannot be decoded."""
        return load_audio(
            segment, sample_rate=self._spec.audio_spec.sample_rate, resample=self._auto_resample
        )

    def extract_features(self, waveform: Waveform) -> tuple[AudioFeatures, ...]:
        """What the encoder takes of each window of samples (samples,)."""
        strides = self._spec.audio_spec
        lengths = compute_window_lengths(len(waveform), strides, self._max_windows)
        cut = self._extract_waveforms if self._spec.encoder_input == "wave" else self._extract_mels
        return tuple(
            AudioFeatures(
                each,
                count_mel_frames(length, strides),
                length,
                count_window_tokens(length, strides),
                False,
            )
            for each, length in zip(cut(waveform, lengths), lengths, strict=True)
        )

    def _extract_waveforms(
        self, waveform: np.ndarray, lengths: tuple[int, ...]
    ) -> list[torch.Tensor]:
        """The wave of each window, (1, samples), with the silence that counts."""
        strides = self._spec.audio_spec
        starts = [number * strides.window_samples for number in range(len(lengths))]
        spans = zip(starts, [count_mel_frames(length, strides) for length in lengths], strict=True)
        wave = torch.zeros(1, starts[-1] + strides.window_samples)
        kept = waveform[: wave.shape[1]]
        wave[0, : len(kept)] = torch.from_numpy(kept)
        return [wave[:, start : start + length].clone() for start, length in spans]

    def _extract_mels(self, waveform: np.ndarray, lengths: tuple[int, ...]) -> list[torch.Tensor]:
        """The mel of each window, (bins, frames and tail)."""
        base, strides = self._spec, self._spec.audio_spec
        mel = partial(
            compute_log_mel,
            rate=strides.sample_rate,
            hop_length=strides.hop_length,
            num_mel_bins=base.num_mel_bins,
            right_context=strides.right_context,
        )
        whole = (
            sum(lengths) if strides.pad_mode == "none" else len(lengths) * strides.window_samples
        )
        waveform = np.pad(waveform, (0, max(whole - len(waveform), 0)))
        if base.mel_before_chunking:
            frames = strides.window_samples // strides.hop_length
            heard = ceil_div(len(waveform), strides.window_samples) * strides.window_samples
            edge = len(waveform) if strides.reflect_right else heard
            return list(mel(waveform, reflect_at=edge).split(frames, dim=1))[: len(lengths)]
        starts = [number * strides.window_samples for number in range(len(lengths))]
        spans = [waveform[start : start + strides.window_samples] for start in starts]
        return [mel(span, reflect_at=strides.window_samples) for span in spans]

    def _load_or_encode(
        self, segment: AudioSegment, encode_fn: EncodeFn
    ) -> tuple[AudioFeatures, ...]:
        """Features from disk, or heard now and put there."""
        path = (
            self._cache_dir / f"{self._make_cache_key(segment)}.safetensors"
            if self._cache_dir
            else None
        )
        stored = read_cached_tensors(path) if path else None
        if stored is None:
            heard = self.extract_features(self.load_audio(segment))
            stored = {
                str(at): encode_fn(each.values, each.num_frames).contiguous()
                for at, each in enumerate(heard)
            }
            stored["samples"] = torch.tensor([each.num_samples for each in heard])
            if path:
                write_cached_tensors(path, stored)
        return tuple(
            _make_encoded_features(stored[str(at)], int(samples), self._spec.audio_spec)
            for at, samples in enumerate(stored["samples"])
        )

    def _make_cache_key(self, segment: AudioSegment) -> str:
        """The recording's hash, by which `dlm gc` finds it, and that of all the rest."""
        base, told = self._spec, make_audio_key(segment)
        parts = (told, base.key, base.revision, base.audio_spec, base.num_mel_bins)
        encoders = base.composition and base.composition.encoders
        how = (
            base.mel_before_chunking,
            base.encoder_input,
            encoders,
            self._auto_resample,
            self._max_windows,
        )
        return f"{told.split()[0]}-{hashlib.sha256(repr((*parts, *how)).encode()).hexdigest()}"


def _make_encoded_features(
    features: torch.Tensor, num_samples: int, audio_spec: AudioTokenizerSpec
) -> AudioFeatures:
    return AudioFeatures(
        features, len(features), num_samples, count_window_tokens(num_samples, audio_spec), True
    )


def make_audio_key(segment: AudioSegment) -> str:
    """The hash of the recording's bytes, and the span: the same wherever the recording lies.

    Raises ClipError where it cannot be read.
    """
    path, inside = segment.recording
    try:
        stat = path.stat()
    except OSError:
        return hash_recording(segment)  # which says what is wrong
    blob = _hash_recording(path, inside, stat.st_mtime_ns, stat.st_size)
    return f"{blob} {segment.start} {segment.end}"


@lru_cache(maxsize=100_000)
def _hash_recording(
    path: Path, byte_range: tuple[int, int] | None, mtime_ns: int, num_bytes: int
) -> str:
    """The recording's hash; the two numbers make a changed file another one."""
    return hash_recording(AudioSegment(path, byte_range=byte_range))


WaveformCache = LruByteCache[tuple[str, Waveform]]  # whose samples they are, and the samples


class AugmentedExtractor:
    """An ear that hears each pass over the clips otherwise."""

    def __init__(
        self, extractor: AudioFeatureExtractor, augmenter: Augmenter, waveform_cache: WaveformCache
    ) -> None:
        """`ear` says what a base hears of samples; they are `kept` as they were recorded."""
        self._extractor, self._augmenter, self._waveform_cache = (
            extractor,
            augmenter,
            waveform_cache,
        )

    def for_epoch(self, epoch: int) -> Callable[[AudioSegment], tuple[AudioFeatures, ...]]:
        """How the pass `epoch` listens, counted from 0."""
        return partial(self._extract_augmented, epoch)

    def _extract_augmented(self, epoch: int, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        """The windows of the version of `sound`. Raises ClipError where it cannot be decoded."""
        who, samples = self._load_keyed_waveform(segment)
        changed = self._augmenter.augment_waveform(samples, who, epoch)
        masked = partial(self._augmenter.mask_mel, audio_key=who, epoch=epoch)
        return tuple(
            replace(each, values=masked(each.values, each.num_frames, number))
            for number, each in enumerate(self._extractor.extract_features(changed))
        )

    def _load_keyed_waveform(self, segment: AudioSegment) -> tuple[str, Waveform]:
        """Whose samples they are, and the samples."""
        kept = self._waveform_cache.get(segment)
        if kept is None:
            samples = self._extractor.load_audio(segment)
            kept = (make_audio_key(segment), samples)
            self._waveform_cache.put(segment, kept, samples.nbytes)
        return kept
