"""The feature extractor: from an audio segment to what the encoder takes, or to its output.

    segment -> load_audio -> encoder windows -> log-mel or waveform -> [frozen encoder]
                                                                    -> memory, disk cache

Each segment is extracted once and kept in memory as far as the budget goes. Encoder output also
goes to disk, keyed by the recording's bytes, the span, the encoder's revision and the
preprocessing. A recording that the scan did not hash is hashed and decoded from one open file. With
augmentation, waveforms are kept instead and every epoch extracts a new variant:

    segment -> load_audio -> augment waveform (epoch) -> log-mel or waveform -> masks (epoch)
               kept in memory
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import torch

from dlm.data.audio_file import BinaryFile, Waveform, open_recording
from dlm.data.audio_io import RecordingFn, hash_open_recording, load_audio, verify_recording
from dlm.data.types import AudioSegment
from dlm.features.augment import Augmenter
from dlm.features.disk_cache import read_cached_tensors, write_cached_tensors
from dlm.features.log_mel import compute_log_mel
from dlm.plan.audio_lengths import (
    ceil_div,
    compute_window_lengths,
    count_mel_frames,
    count_window_tokens,
)
from dlm.plan.model_spec import ModelSpec

FEATURE_MEMORY_BYTES = 3 << 30  # enough for the log-mels of about 50,000 short clips
MAX_REMEMBERED_HASHES = 100_000  # of recordings that the scan did not hash

# log-mel or waveform of one window, its number of frames -> encoder output (frames, hidden_size)
EncodeFn = Callable[[torch.Tensor, int], torch.Tensor]
CachedT = TypeVar("CachedT")


@dataclass(frozen=True)
class AudioFeatures:
    """One encoder window of an audio segment.

    Attributes:
        values: log-mel (num_mel_bins, frames + right context), waveform (1, samples), or encoder
            output (frames, hidden_size).
        num_frames: frames that hold audio; for a waveform, its samples.
        num_samples: samples of audio in the window.
        num_tokens: placeholders the window takes in a prompt.
        is_encoded: whether `values` are encoder output.
    """

    values: torch.Tensor
    num_frames: int
    num_samples: int
    num_tokens: int
    is_encoded: bool


class LruByteCache(Generic[CachedT]):
    """A cache that drops the least recently used values above `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[Hashable, tuple[CachedT, int]] = OrderedDict()
        self._free_bytes = max_bytes
        self._lock = Lock()  # several threads extract

    def get(self, key: Hashable) -> CachedT | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: CachedT, num_bytes: int) -> None:
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = (value, num_bytes)
            self._free_bytes -= num_bytes
            while self._free_bytes < 0 and len(self._entries) > 1:
                _, (_, dropped_bytes) = self._entries.popitem(last=False)
                self._free_bytes += dropped_bytes


class AudioFeatureExtractor:
    """Extracts the features of audio segments, each segment once.

    Args:
        spec: the model whose encoder the features are for.
        auto_resample: whether recordings at other sample rates are converted.
        max_windows: windows after which a segment is truncated; None for no limit.
        encode_fn: the frozen encoder; without one, features are log-mels or waveforms.
        cache_dir: folder for encoder output between runs; None keeps it in memory alone.
        memory_bytes: budget of the memory cache.
        on_open: called with every recording that is opened, before it is decoded; by default the
            bytes of those whose features go to disk are verified.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        auto_resample: bool,
        max_windows: int | None = None,
        encode_fn: EncodeFn | None = None,
        cache_dir: Path | None = None,
        memory_bytes: int = FEATURE_MEMORY_BYTES,
        on_open: RecordingFn | None = None,
    ) -> None:
        self._on_open = on_open or (verify_recording if cache_dir else None)
        self._spec, self._auto_resample, self._max_windows = spec, auto_resample, max_windows
        self._encode_fn, self._cache_dir = encode_fn, cache_dir
        self._memory_cache: LruByteCache[tuple[AudioFeatures, ...]] = LruByteCache(memory_bytes)

    def __call__(self, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        """Extract the windows of a segment, from memory or disk where they are.

        Raises:
            AudioError: it cannot be read or decoded (`audio.*`).
        """
        features = self._memory_cache.get(segment)
        if features is None:
            if self._encode_fn is None:
                features = self.extract_features(self.load_audio(segment))
            else:
                features = self._load_or_encode(segment, self._encode_fn)
            num_bytes = sum(window.values.nbytes for window in features)
            self._memory_cache.put(segment, features, num_bytes)
        return features

    def load_audio(self, segment: AudioSegment, file: BinaryFile | None = None) -> Waveform:
        """Decode a segment at the encoder's sample rate: (samples,). Raises AudioError.

        Args:
            segment: what to decode.
            file: its recording, where the caller has it open.
        """
        return load_audio(
            segment,
            sample_rate=self._spec.audio_spec.sample_rate,
            resample=self._auto_resample,
            file=file,
            on_open=self._on_open,
        )

    def extract_features(self, waveform: Waveform) -> tuple[AudioFeatures, ...]:
        """Cut a waveform (samples,) into encoder windows, and extract what the encoder takes."""
        audio_spec = self._spec.audio_spec
        lengths = compute_window_lengths(len(waveform), audio_spec, self._max_windows)
        if self._spec.encoder_input == "wave":
            values = self._extract_waveforms(waveform, lengths)
        else:
            values = self._extract_log_mels(waveform, lengths)
        return tuple(
            AudioFeatures(
                window,
                num_frames=count_mel_frames(length, audio_spec),
                num_samples=length,
                num_tokens=count_window_tokens(length, audio_spec),
                is_encoded=False,
            )
            for window, length in zip(values, lengths, strict=True)
        )

    def _extract_waveforms(
        self, waveform: np.ndarray, lengths: tuple[int, ...]
    ) -> list[torch.Tensor]:
        """The waveform of each window, (1, samples), with the padding that has tokens."""
        audio_spec, window = self._spec.audio_spec, self._spec.audio_spec.window_samples
        padded = torch.zeros(1, len(lengths) * window)
        used = waveform[: padded.shape[1]]
        padded[0, : len(used)] = torch.from_numpy(used)
        return [
            padded[:, start : start + count_mel_frames(length, audio_spec)].clone()
            for start, length in zip(range(0, padded.shape[1], window), lengths, strict=True)
        ]

    def _extract_log_mels(
        self, waveform: np.ndarray, lengths: tuple[int, ...]
    ) -> list[torch.Tensor]:
        """The log-mel of each window, (num_mel_bins, frames + right context)."""
        audio_spec, window = self._spec.audio_spec, self._spec.audio_spec.window_samples
        log_mel = partial(
            compute_log_mel,
            rate=audio_spec.sample_rate,
            hop_length=audio_spec.hop_length,
            num_mel_bins=self._spec.num_mel_bins,
            right_context=audio_spec.right_context,
        )
        padded_samples = sum(lengths) if audio_spec.pad_mode == "none" else len(lengths) * window
        waveform = np.pad(waveform, (0, max(padded_samples - len(waveform), 0)))
        if self._spec.mel_before_chunking:
            window_end = ceil_div(len(waveform), window) * window
            reflect_at = len(waveform) if audio_spec.reflect_right else window_end
            windows = log_mel(waveform, reflect_at=reflect_at).split(
                window // audio_spec.hop_length, dim=1
            )
            return list(windows[: len(lengths)])
        starts = range(0, len(lengths) * window, window)
        return [log_mel(waveform[start : start + window], reflect_at=window) for start in starts]

    def _load_or_encode(
        self, segment: AudioSegment, encode_fn: EncodeFn
    ) -> tuple[AudioFeatures, ...]:
        """Encoder output from the disk cache, or computed and written there."""
        path: Path | None = None
        tensors: dict[str, torch.Tensor] | None = None
        with _open_at_most_once(segment) as open_fn:
            if self._cache_dir:
                key = self._make_cache_key(make_audio_key(segment, open_fn))
                path = self._cache_dir / f"{key}.safetensors"
                tensors = read_cached_tensors(path)
            if tensors is None:
                windows = self.extract_features(self.load_audio(segment, open_fn()))
                tensors = {
                    str(index): encode_fn(window.values, window.num_frames).contiguous()
                    for index, window in enumerate(windows)
                }
                tensors["samples"] = torch.tensor([window.num_samples for window in windows])
                if path:
                    write_cached_tensors(path, tensors)
        encoded = [tensors[str(index)] for index in range(len(tensors["samples"]))]
        return tuple(
            AudioFeatures(
                values,
                num_frames=len(values),
                num_samples=num_samples,
                num_tokens=count_window_tokens(num_samples, self._spec.audio_spec),
                is_encoded=True,
            )
            for values, num_samples in zip(encoded, tensors["samples"].tolist(), strict=True)
        )

    def _make_cache_key(self, audio_key: str) -> str:
        """The recording's sha256, by which `dlm gc` finds it, and a hash of all the rest."""
        spec = self._spec
        encoders = spec.composition and spec.composition.encoders
        parts = (
            audio_key,
            *(spec.key, spec.revision, spec.audio_spec, spec.num_mel_bins),
            *(spec.mel_before_chunking, spec.encoder_input, encoders),
            *(self._auto_resample, self._max_windows),
        )
        return f"{audio_key.split()[0]}-{hashlib.sha256(repr(parts).encode()).hexdigest()}"


@contextmanager
def _open_at_most_once(segment: AudioSegment) -> Iterator[Callable[[], BinaryFile]]:
    """A function that opens the recording when it is first called, and then returns that file."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(open_recording(segment)))


_recording_hashes = LruByteCache[str](MAX_REMEMBERED_HASHES)  # each counts as one byte


def make_audio_key(segment: AudioSegment, open_fn: Callable[[], BinaryFile]) -> str:
    """Name a segment by the sha256 of its recording and its span, wherever the recording lies.

    Args:
        segment: the segment.
        open_fn: opens its recording, which is done only if its sha256 is not known.

    Raises:
        AudioError: the recording cannot be read (`audio.*`).
    """
    sha256 = segment.sha256
    if not sha256:
        try:
            stat = segment.path.stat()
        except OSError:
            return hash_open_recording(open_fn(), segment.name)  # opening it raises what is wrong
        # a file that was changed is another one by its time and size
        version_key = (*segment.recording_key, stat.st_mtime_ns, stat.st_size)
        sha256 = _recording_hashes.get(version_key) or ""
        if not sha256:
            sha256 = hash_open_recording(open_fn(), segment.name)
            _recording_hashes.put(version_key, sha256, 1)
    return f"{sha256} {segment.start} {segment.end}"


WaveformCache = LruByteCache[tuple[str, Waveform]]  # audio key, waveform


class AugmentedExtractor:
    """Extracts another variant of each segment in every epoch.

    Args:
        extractor: what loads audio and extracts features.
        augmenter: what changes waveforms and log-mels.
        waveform_cache: waveforms as they were recorded, by segment.
    """

    def __init__(
        self, extractor: AudioFeatureExtractor, augmenter: Augmenter, waveform_cache: WaveformCache
    ) -> None:
        self._extractor, self._augmenter = extractor, augmenter
        self._waveform_cache = waveform_cache

    def for_epoch(self, epoch: int) -> Callable[[AudioSegment], tuple[AudioFeatures, ...]]:
        """Return the extractor of one epoch, counted from 0. It raises AudioError."""
        return partial(self._extract_variant, epoch)

    def _extract_variant(self, epoch: int, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        cached = self._waveform_cache.get(segment)
        if cached is None:
            with _open_at_most_once(segment) as open_fn:
                waveform = self._extractor.load_audio(segment, open_fn())
                cached = (make_audio_key(segment, open_fn), waveform)
            self._waveform_cache.put(segment, cached, waveform.nbytes)
        audio_key, waveform = cached
        augmented = self._augmenter.augment_waveform(waveform, audio_key, epoch)
        mask = partial(self._augmenter.mask_mel, audio_key=audio_key, epoch=epoch)
        return tuple(
            replace(window, values=mask(window.values, window.num_frames, index))
            for index, window in enumerate(self._extractor.extract_features(augmented))
        )
