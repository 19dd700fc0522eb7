"""What one pass over a sound tells: how long, how loud, how much of it is silent or clipped.

Levels are shares of full scale, taken at the recording's own rate; loudness is that of the mono
mix, which is what the model hears, and clipping that of each channel.

What is known of every sound: all of it where it was heard, or what its header says.

    few sounds    each is decoded and measured, each file hashed
    many          a sample is decoded; of the others the header is read, and nothing is hashed

Numbers stand in columns and what was measured in records, so a clip more costs a few dozen bytes.
"""

import hashlib
import os
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlm.data.audio_file import Waveform, make_unreadable_audio_error, open_recording
from dlm.data.audio_io import AudioStream, hash_recording, open_audio, to_mono
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

SILENCE_AMPLITUDE = 10 ** (-60 / 20)  # -60 dBFS
CLIPPING_AMPLITUDE = 0.9999  # 16 bit: 32764 of 32768
SILENCE_FRAMES_PER_SECOND = 50  # silence is looked for in frames of 20 ms
NUM_ENVELOPE_BINS = 48  # of equal length, whose levels are the shape of a sound
ENVELOPE_STEPS_PER_DB = 4  # to the decibel, below the loudest stretch, in a byte
SLOPE_REFERENCE_RATE = (
    16_000  # samples per second: slopes are as steep at any rate as they are at this one
)


@dataclass(frozen=True, slots=True)
class AudioStats:
    """One sound, measured. `samples` is per channel, at the recording's own `rate`."""

    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float
    rms: float
    dc_offset: float
    channel_peak: float
    silent_fraction: float
    clipped_fraction: float
    content_sha256: str  # sha256 of the decoded samples: the same in a wav and its flac
    envelope: bytes  # how it rises and falls, then how bright it is: nearly the same in its mp3

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.num_samples / self.sample_rate


def compute_audio_stats(segment: AudioSegment) -> AudioStats:
    """Measure a sound, holding one block of it at a time."""
    with open_audio(segment) as span:
        tally = _StatsAccumulator(span)
        for block in span.blocks:
            tally.add_block(block)
    return tally.compute_stats()


class _StatsAccumulator:
    """Sums over the blocks read so far."""

    def __init__(self, stream: AudioStream) -> None:
        self.info, self.expected_samples = stream.info, stream.num_samples
        self.frame_samples = max(1, self.info.sample_rate // SILENCE_FRAMES_PER_SECOND)
        self.num_samples = self.num_clipped = self.num_frames = self.num_silent_frames = 0
        self.peak = self.channel_peak = self.sum_samples = self.sum_squares = 0.0
        self.energy_by_bin, self.slope_energy_by_bin = (
            np.zeros(NUM_ENVELOPE_BINS),
            np.zeros(NUM_ENVELOPE_BINS),
        )
        self.hash = hashlib.sha256(f"{self.info.sample_rate} {self.info.num_channels}".encode())

    def add_block(self, block: Waveform) -> None:
        """Take in one block (samples, channels)."""
        heard, size = to_mono(block), np.abs(block)
        self.hash.update(block.tobytes())
        self.num_clipped += int(np.count_nonzero(size >= CLIPPING_AMPLITUDE))
        self.channel_peak = max(self.channel_peak, float(size.max()))
        self.peak = max(self.peak, float(np.abs(heard).max()))
        self.sum_samples += float(heard.sum(dtype=np.float64))
        self.sum_squares += float(np.square(heard, dtype=np.float64).sum())
        levels = _compute_frame_rms(heard, self.frame_samples)
        self.num_frames += len(levels)
        self.num_silent_frames += int(np.count_nonzero(levels < SILENCE_AMPLITUDE))
        self.energy_by_bin += self._sum_power_by_bin(levels)
        self.slope_energy_by_bin += self._sum_power_by_bin(
            _compute_frame_rms(np.diff(heard, append=0), self.frame_samples)
        )
        self.num_samples += len(heard)

    def _sum_power_by_bin(self, levels: Waveform) -> NDArray[np.float64]:
        """Power by stretch, of frames that follow what was taken in so far."""
        at = (self.num_samples + np.arange(len(levels)) * self.frame_samples) * NUM_ENVELOPE_BINS
        stretch = np.minimum(at // self.expected_samples, NUM_ENVELOPE_BINS - 1)
        power = np.square(levels, dtype=np.float64)
        summed: NDArray[np.float64] = np.bincount(stretch, power, NUM_ENVELOPE_BINS).astype(
            np.float64
        )
        return summed

    def compute_stats(self) -> AudioStats:
        slopes = self.slope_energy_by_bin * (self.info.sample_rate / SLOPE_REFERENCE_RATE) ** 2
        return AudioStats(
            num_samples=self.num_samples,
            sample_rate=self.info.sample_rate,
            num_channels=self.info.num_channels,
            peak=self.peak,
            rms=float(np.sqrt(self.sum_squares / self.num_samples)),
            dc_offset=self.sum_samples / self.num_samples,
            channel_peak=self.channel_peak,
            silent_fraction=self.num_silent_frames / self.num_frames,
            clipped_fraction=self.num_clipped / (self.num_samples * self.info.num_channels),
            content_sha256=self.hash.hexdigest(),
            envelope=_encode_envelope(self.energy_by_bin, self.energy_by_bin.max())
            + _encode_envelope(slopes, self.energy_by_bin),
        )


def _compute_frame_rms(waveform: Waveform, frame_samples: int) -> Waveform:
    """Root mean square of each frame; a block shorter than one frame is a frame."""
    whole = len(waveform) // frame_samples * frame_samples
    frames = waveform[:whole].reshape(-1, frame_samples) if whole else waveform.reshape(1, -1)
    levels: Waveform = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)).astype(np.float32)
    return levels


def _encode_envelope(power: NDArray[np.float64], reference: NDArray[np.float64] | float) -> bytes:
    """Power by stretch in steps below `full`, as far down as a byte goes."""
    nothing = np.finfo(np.float32).tiny
    decibels = 10 * np.log10((power + nothing) / (np.asarray(reference) + nothing))
    return np.clip(-decibels * ENVELOPE_STEPS_PER_DB, 0, 255).round().astype(np.uint8).tobytes()


MAX_FULL_SCAN_SEGMENTS = (
    2000  # sounds; of more, so many are heard and the others have their headers read
)
MAX_SCAN_THREADS = 8  # sounds; each holds one block
MAX_SCAN_CHUNK_SEGMENTS = 64  # sounds handed to a thread together
FINGERPRINT_BYTES = 1 << 16  # of each end of a file, told of it where it is not hashed whole

ScanProgressFn = Callable[[int, int], None]
RecordingKey = tuple[Path, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What a sound's header says of it. `samples` is per channel, at the recording's `rate`."""

    num_samples: int
    sample_rate: int
    num_channels: int


ScanResult = AudioStats | SegmentInfo | DataError
_ScanRequest = tuple[AudioSegment, bool, bool]  # decode it, hash its recording
_ScannedSegment = tuple[AudioSegment, ScanResult, str]


@dataclass(frozen=True)
class AudioScan:
    """Every sound by its number, in the order that clips name them; 0 samples are not heard."""

    segment_numbers: dict[AudioSegment, int]
    num_samples: "array[int]" = field(default_factory=lambda: array("q"))
    sample_rates: "array[int]" = field(default_factory=lambda: array("i"))
    num_channels: "array[int]" = field(default_factory=lambda: array("i"))
    stats: dict[int, AudioStats] = field(default_factory=dict)  # of those that were decoded
    errors: dict[int, DataError] = field(default_factory=dict)
    recording_hashes: dict[RecordingKey, str] = field(
        default_factory=dict
    )  # empty where there are many

    def get_seconds(self, number: int) -> float:
        """How long a sound lasts; nothing if it cannot be heard."""
        return (
            self.num_samples[number] / self.sample_rates[number]
            if self.num_samples[number]
            else 0.0
        )

    def get_segment_numbers(self, example: Example) -> list[int] | None:
        """The numbers of a clip's sounds, or None if one of them cannot be heard."""
        found = [self.segment_numbers[sound] for sound in example.audio_segments]
        return found if all(self.num_samples[number] for number in found) else None

    def get_total_seconds(self, example: Example) -> float:
        """Seconds of a clip's sounds together; 0 if one of them cannot be heard."""
        return sum(map(self.get_seconds, self.get_segment_numbers(example) or ()))

    def record_result(self, number: int, result: ScanResult) -> None:
        """Note what was found of the next sound."""
        if isinstance(result, DataError):
            self.errors[number] = result
            result = SegmentInfo(0, 0, 0)
        elif isinstance(result, AudioStats):
            self.stats[number] = result
        self.num_samples.append(result.num_samples)
        self.sample_rates.append(result.sample_rate)
        self.num_channels.append(result.num_channels)


def scan_audio(
    examples: Sequence[Example], *, full_scan: bool, progress: ScanProgressFn | None
) -> AudioScan:
    """Look at each sound once, and hash each recording once, however many clips share it."""
    heard = AudioScan(_number_segments(examples))
    count = len(heard.segment_numbers)
    every = full_scan or count <= MAX_FULL_SCAN_SEGMENTS
    drawn = None if every else set(random.Random(0).sample(range(count), MAX_FULL_SCAN_SEGMENTS))
    for number, (sound, found, sha256) in enumerate(_scan_segments(heard.segment_numbers, drawn)):
        heard.record_result(number, found)
        if sha256:
            heard.recording_hashes[sound.recording] = sha256
        if progress is not None:
            progress(number + 1, count)
    return heard


def fingerprint_recording(segment: AudioSegment) -> str:
    """A sha256 that tells a recording from others without reading all of it.

    It is that of its size, when it was changed, and the first and last bytes. Where there are many
    recordings it stands for the sha256 of their bytes.
    """
    with open_recording(segment) as file:
        try:
            changed, size = segment.path.stat().st_mtime_ns, file.seek(0, os.SEEK_END)
            told = hashlib.sha256(f"{size} {changed}".encode())
            for start in (0, max(size - FINGERPRINT_BYTES, 0)):
                file.seek(start)
                told.update(file.read(FINGERPRINT_BYTES) or b"")
        except OSError as error:
            raise make_unreadable_audio_error(segment.name, error) from error
    return told.hexdigest()


def _number_segments(examples: Sequence[Example]) -> dict[AudioSegment, int]:
    numbers: dict[AudioSegment, int] = {}
    for clip in examples:
        for sound in clip.audio_segments:
            numbers.setdefault(sound, len(numbers))
    return numbers


def _scan_segments(
    segment_numbers: dict[AudioSegment, int], decoded_numbers: set[int] | None
) -> Iterator[_ScannedSegment]:
    """Every sound, in order: those `drawn` are decoded, or all of them where that is None."""
    hashed: set[RecordingKey] = set()

    def wanted(sound: AudioSegment, number: int) -> _ScanRequest:
        fresh = decoded_numbers is None and sound.recording not in hashed
        if fresh:
            hashed.add(sound.recording)
        return sound, decoded_numbers is None or number in decoded_numbers, fresh

    rest = (wanted(sound, number) for sound, number in segment_numbers.items())
    threads = min(MAX_SCAN_THREADS, os.cpu_count() or 1)
    most = max(1, min(MAX_SCAN_CHUNK_SEGMENTS, len(segment_numbers) // (4 * threads)))
    ahead: deque[Future[list[_ScannedSegment]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while lot := list(islice(rest, most)):
            ahead.append(pool.submit(_scan_chunk, lot))
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        for looked in ahead:
            yield from looked.result()


def _scan_chunk(requests: list[_ScanRequest]) -> list[_ScannedSegment]:
    return [(sound, *_scan_segment(sound, whole, fresh)) for sound, whole, fresh in requests]


def _scan_segment(
    segment: AudioSegment, should_decode: bool, should_hash: bool
) -> tuple[ScanResult, str]:
    """What is in a sound, and the sha256 of its recording if nobody has asked for it yet."""
    sha256 = ""
    try:
        sha256 = hash_recording(segment) if should_hash else ""
        if should_decode:
            return compute_audio_stats(segment), sha256
        with open_audio(segment) as span:
            return SegmentInfo(
                span.num_samples, span.info.sample_rate, span.info.num_channels
            ), sha256
    except DataError as error:
        return error.with_traceback(None), sha256  # the frames hold blocks of samples
