"""The scan of all audio: each recording is opened once for header, sha256 and signal statistics.

    few segments    each is decoded, and each recording hashed from the same open file
    many            a sample is decoded; of the others the header is read, and nothing is hashed
                    but what a training run asks for

Statistics are peak, RMS, DC offset, silence, clipping, a hash of the samples, and an envelope by
which a recording and its mp3 are recognised. Levels are fractions of full scale, of the mono mix;
clipping is that of each channel. Results stand in columns, a few dozen bytes for each segment.
"""

import hashlib
import os
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, starmap
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlm.data.audio_file import (
    AudioInfo,
    BinaryFile,
    Waveform,
    make_unreadable_audio_error,
    open_recording,
)
from dlm.data.audio_io import (
    AudioStream,
    hash_open_recording,
    open_audio,
    open_audio_stream,
    to_mono,
)
from dlm.data.types import AudioSegment, ContentPart, Example, Message, Recording, RecordingKey
from dlm.errors import DataError

SILENCE_AMPLITUDE = 10 ** (-60 / 20)  # -60 dBFS
CLIPPING_AMPLITUDE = 0.9999  # 16 bit: 32764 of 32768
SILENCE_FRAMES_PER_SECOND = 50  # silence is looked for in frames of 20 ms
NUM_ENVELOPE_BINS = 48  # of equal length; their levels are the envelope
ENVELOPE_STEPS_PER_DB = 4  # below the loudest bin, in a byte
SLOPE_REFERENCE_RATE = 16_000  # Hz: slopes are scaled to be as steep at any sample rate

MAX_FULL_SCAN_SEGMENTS = 2000  # of more, so many are decoded and the others have headers read
MAX_SCAN_THREADS = 8  # each holds one block of samples
MAX_SCAN_CHUNK_SEGMENTS = 64  # segments given to a thread at once
FINGERPRINT_BYTES = 1 << 16  # of each end of a file that is not hashed as a whole

ScanProgressFn = Callable[[int, int], None]  # segments done, segments in all
HashMethod = Literal["sha256", "fingerprint"]  # of all bytes, or see fingerprint_recording
HashMethodFn = Callable[[AudioSegment], HashMethod | None]  # None: it is not hashed


@dataclass(frozen=True, slots=True)
class AudioStats:
    """Signal statistics of a decoded segment.

    Attributes:
        num_samples: samples per channel, at the recording's own rate.
        sample_rate: in Hz.
        num_channels: channels, before they are mixed to mono.
        peak: largest magnitude of the mono mix.
        rms: root mean square of the mono mix.
        dc_offset: mean of the mono mix.
        channel_peak: largest magnitude of any channel.
        silent_fraction: frames of 20 ms below -60 dBFS.
        clipped_fraction: samples at full scale.
        content_sha256: of the decoded samples: the same in a wav and its flac.
        envelope: level by bin, then brightness by bin: nearly the same in its mp3.
    """

    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float
    rms: float
    dc_offset: float
    channel_peak: float
    silent_fraction: float
    clipped_fraction: float
    content_sha256: str
    envelope: bytes

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def compute_audio_stats(segment: AudioSegment) -> AudioStats:
    """Decode a segment block by block and compute its statistics. Raises AudioError."""
    with open_audio(segment) as stream:
        return _compute_stream_stats(stream)


def _compute_stream_stats(stream: AudioStream) -> AudioStats:
    accumulator = _StatsAccumulator(stream)
    for block in stream.blocks:
        accumulator.add_block(block)
    return accumulator.compute_stats()


class _StatsAccumulator:
    """Sums over the blocks read so far."""

    def __init__(self, stream: AudioStream) -> None:
        self._info, self._expected_samples = stream.info, stream.num_samples
        self._frame_samples = max(1, self._info.sample_rate // SILENCE_FRAMES_PER_SECOND)
        self._num_samples = self._num_clipped = self._num_frames = self._num_silent_frames = 0
        self._peak = self._channel_peak = self._sum_samples = self._sum_squares = 0.0
        self._power_by_bin = np.zeros(NUM_ENVELOPE_BINS)
        self._slope_power_by_bin = np.zeros(NUM_ENVELOPE_BINS)
        self._hash = hashlib.sha256(f"{self._info.sample_rate} {self._info.num_channels}".encode())

    def add_block(self, block: Waveform) -> None:
        """Add one block (samples, channels)."""
        mono, magnitudes = to_mono(block), np.abs(block)
        self._hash.update(block.tobytes())
        self._num_clipped += int(np.count_nonzero(magnitudes >= CLIPPING_AMPLITUDE))
        self._channel_peak = max(self._channel_peak, float(magnitudes.max()))
        self._peak = max(self._peak, float(np.abs(mono).max()))
        self._sum_samples += float(mono.sum(dtype=np.float64))
        self._sum_squares += float(np.square(mono, dtype=np.float64).sum())
        levels = _compute_frame_rms(mono, self._frame_samples)
        slopes = _compute_frame_rms(np.diff(mono, append=0), self._frame_samples)
        self._num_frames += len(levels)
        self._num_silent_frames += int(np.count_nonzero(levels < SILENCE_AMPLITUDE))
        self._power_by_bin += self._sum_power_by_bin(levels)
        self._slope_power_by_bin += self._sum_power_by_bin(slopes)
        self._num_samples += len(mono)

    def _sum_power_by_bin(self, levels: Waveform) -> NDArray[np.float64]:
        """The power in each bin, of frames that follow those added so far."""
        starts = self._num_samples + np.arange(len(levels)) * self._frame_samples
        bins = np.minimum(
            starts * NUM_ENVELOPE_BINS // self._expected_samples, NUM_ENVELOPE_BINS - 1
        )
        power = np.square(levels, dtype=np.float64)
        return np.bincount(bins, power, NUM_ENVELOPE_BINS).astype(np.float64)

    def compute_stats(self) -> AudioStats:
        slope_scale = (self._info.sample_rate / SLOPE_REFERENCE_RATE) ** 2
        levels = _encode_envelope(self._power_by_bin, self._power_by_bin.max())
        brightness = _encode_envelope(self._slope_power_by_bin * slope_scale, self._power_by_bin)
        return AudioStats(
            num_samples=self._num_samples,
            sample_rate=self._info.sample_rate,
            num_channels=self._info.num_channels,
            peak=self._peak,
            rms=float(np.sqrt(self._sum_squares / self._num_samples)),
            dc_offset=self._sum_samples / self._num_samples,
            channel_peak=self._channel_peak,
            silent_fraction=self._num_silent_frames / self._num_frames,
            clipped_fraction=self._num_clipped / (self._num_samples * self._info.num_channels),
            content_sha256=self._hash.hexdigest(),
            envelope=levels + brightness,
        )


def _compute_frame_rms(waveform: Waveform, frame_samples: int) -> Waveform:
    """Root mean square of each whole frame; a block shorter than one frame is a frame."""
    num_whole = len(waveform) // frame_samples * frame_samples
    if num_whole:
        frames = waveform[:num_whole].reshape(-1, frame_samples)
    else:
        frames = waveform.reshape(1, -1)
    levels: Waveform = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)).astype(np.float32)
    return levels


def _encode_envelope(power: NDArray[np.float64], reference: NDArray[np.float64] | float) -> bytes:
    """Power by bin in steps below the reference, as far down as a byte goes."""
    epsilon = np.finfo(np.float32).tiny
    decibels = 10 * np.log10((power + epsilon) / (np.asarray(reference) + epsilon))
    return np.clip(-decibels * ENVELOPE_STEPS_PER_DB, 0, 255).round().astype(np.uint8).tobytes()


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The scan of one segment.

    Attributes:
        segment: the segment.
        num_samples: its samples per channel; 0 where it cannot be read.
        info: the header of its recording.
        stats: its statistics, where it was decoded.
        error: why it cannot be used.
        sha256: of its recording's bytes, where they were hashed with this segment.
        fingerprint: of its recording, where that was computed instead.
    """

    segment: AudioSegment
    num_samples: int = 0
    info: AudioInfo | None = None
    stats: AudioStats | None = None
    error: DataError | None = None
    sha256: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class AudioScan:
    """What the scan read of every segment, by the segment's number.

    Attributes:
        segment_numbers: segments in the order in which examples name them.
        num_samples: samples per channel; 0 where a segment cannot be read.
        sample_rates: in Hz; 0 where a segment cannot be read.
        stats: statistics of the segments that were decoded.
        errors: why segments cannot be used.
        recordings: what each segment's recording is; None where its header cannot be read.
    """

    segment_numbers: dict[AudioSegment, int]
    num_samples: "array[int]" = field(default_factory=lambda: array("q"))
    sample_rates: "array[int]" = field(default_factory=lambda: array("i"))
    stats: dict[int, AudioStats] = field(default_factory=dict)
    errors: dict[int, DataError] = field(default_factory=dict)
    recordings: list[Recording | None] = field(default_factory=list)

    def get_seconds(self, number: int) -> float:
        """Return the length of a segment in seconds; 0 if it cannot be read."""
        num_samples = self.num_samples[number]
        return num_samples / self.sample_rates[number] if num_samples else 0.0

    def get_segment_numbers(self, example: Example) -> list[int] | None:
        """Return the numbers of an example's segments, or None if one cannot be read."""
        numbers = [self.segment_numbers[segment] for segment in example.audio_segments]
        return numbers if all(self.num_samples[number] for number in numbers) else None

    def get_total_seconds(self, example: Example) -> float:
        """Return the length of an example's audio in seconds; 0 if a segment cannot be read."""
        return sum(map(self.get_seconds, self.get_segment_numbers(example) or ()))

    def record_result(self, result: ScanResult, recording: Recording | None) -> None:
        """Add the result of the next segment."""
        number = len(self.recordings)
        self.recordings.append(recording)
        self.num_samples.append(result.num_samples)
        self.sample_rates.append(recording.sample_rate if recording and result.num_samples else 0)
        if result.stats:
            self.stats[number] = result.stats
        if result.error:
            self.errors[number] = result.error


def scan_audio(
    examples: Sequence[Example],
    *,
    full_scan: bool = False,
    hash_method_fn: HashMethodFn | None = None,
    progress: ScanProgressFn | None = None,
) -> AudioScan:
    """Scan each segment once, and hash each recording once, however many examples share it.

    Args:
        examples: whose audio to scan.
        full_scan: decode every segment, however many there are.
        hash_method_fn: how to hash a segment's recording, where there are very many; None hashes
            none of those.
        progress: called after each segment.
    """
    scan = AudioScan(number_segments(examples))
    num_segments = len(scan.segment_numbers)
    decoded_numbers = None
    if not full_scan and num_segments > MAX_FULL_SCAN_SEGMENTS:
        decoded_numbers = set(random.Random(0).sample(range(num_segments), MAX_FULL_SCAN_SEGMENTS))
    hashes: dict[RecordingKey, tuple[str, str]] = {}  # sha256, fingerprint
    shared: dict[Recording, Recording] = {}  # segments of one recording share its record
    for result in _scan_segments(scan.segment_numbers, decoded_numbers, hash_method_fn):
        if result.sha256 or result.fingerprint:
            hashes[result.segment.recording_key] = result.sha256, result.fingerprint
        recording = None
        if info := result.info:
            hash_pair = hashes.get(result.segment.recording_key, ()) if hashes else ()
            recording = Recording(info.sample_rate, info.num_channels, info.num_samples, *hash_pair)
            recording = shared.setdefault(recording, recording)
        scan.record_result(result, recording)
        if progress is not None:
            progress(len(scan.recordings), num_segments)
    return scan


def number_segments(examples: Sequence[Example]) -> dict[AudioSegment, int]:
    """Number the audio segments in the order in which examples name them; equal ones are one."""
    segments = (segment for example in examples for segment in example.audio_segments)
    return {segment: number for number, segment in enumerate(dict.fromkeys(segments))}


def _scan_segments(
    segment_numbers: dict[AudioSegment, int],
    decoded_numbers: set[int] | None,
    hash_method_fn: HashMethodFn | None,
) -> Iterator[ScanResult]:
    """Every segment, in order; those of `decoded_numbers` are decoded, or all for None."""
    hashed: set[RecordingKey] = set()

    def make_request(
        segment: AudioSegment, number: int
    ) -> tuple[AudioSegment, bool, HashMethod | None]:
        hash_method: HashMethod | None = "sha256"
        if decoded_numbers is not None:
            hash_method = hash_method_fn(segment) if hash_method_fn else None
        if hash_method and (key := segment.recording_key) in hashed:
            hash_method = None
        elif hash_method:
            hashed.add(key)
        return segment, decoded_numbers is None or number in decoded_numbers, hash_method

    requests = (make_request(segment, number) for segment, number in segment_numbers.items())
    num_threads = min(MAX_SCAN_THREADS, os.cpu_count() or 1)
    chunk_size = len(segment_numbers) // (4 * num_threads)
    chunk_size = max(1, min(MAX_SCAN_CHUNK_SEGMENTS, chunk_size))
    pending: deque[Future[list[ScanResult]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            while chunk := list(islice(requests, chunk_size)):
                pending.append(pool.submit(_scan_chunk, chunk))
                if len(pending) > 2 * num_threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:  # left where the scan is interrupted
                future.cancel()


def _scan_chunk(chunk: list[tuple[AudioSegment, bool, HashMethod | None]]) -> list[ScanResult]:
    return list(starmap(_scan_segment, chunk))


def _scan_segment(
    segment: AudioSegment, should_decode: bool, hash_method: HashMethod | None
) -> ScanResult:
    """Header, statistics and hash of a segment's recording, from one open file."""
    sha256, fingerprint, info = "", "", None
    try:
        with open_recording(segment) as file:
            if hash_method == "sha256":
                sha256 = hash_open_recording(file, segment.name)
            elif hash_method == "fingerprint":
                fingerprint = _fingerprint_open_recording(file, segment)
            with open_audio_stream(file, segment) as stream:
                info, num_samples = stream.info, stream.num_samples
                stats = _compute_stream_stats(stream) if should_decode else None
    except DataError as error:
        error.__traceback__ = error.__cause__ = error.__context__ = None  # frames hold samples
        return ScanResult(segment, 0, info, None, error, sha256, fingerprint)
    num_samples = stats.num_samples if stats else num_samples
    return ScanResult(segment, num_samples, info, stats, None, sha256, fingerprint)


def attach_recordings(
    examples: Sequence[Example], recording_fn: Callable[[AudioSegment], Recording | None]
) -> tuple[Example, ...]:
    """Return the examples, each audio segment with the recording that the function gives."""

    def attach(part: ContentPart) -> ContentPart:
        return part if isinstance(part, str) else replace(part, recording=recording_fn(part))

    return tuple(
        replace(
            example,
            messages=tuple(
                Message(message.role, tuple(map(attach, message.content)))
                for message in example.messages
            ),
        )
        if example.audio_segments
        else example
        for example in examples
    )


def fingerprint_recording(segment: AudioSegment) -> str:
    """Compute a sha256 of a recording's size, time of change, and first and last bytes.

    It stands for the sha256 of all bytes where there are too many recordings to read them.

    Raises:
        AudioError: it cannot be read.
    """
    with open_recording(segment) as file:
        return _fingerprint_open_recording(file, segment)


def _fingerprint_open_recording(file: BinaryFile, segment: AudioSegment) -> str:
    try:
        mtime_ns, num_bytes = segment.path.stat().st_mtime_ns, file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{num_bytes} {mtime_ns}".encode())
        for start in (0, max(num_bytes - FINGERPRINT_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(FINGERPRINT_BYTES) or b"")
    except OSError as error:
        raise make_unreadable_audio_error(segment.name, error) from error
    return digest.hexdigest()
