"""Reading audio: header, mono samples at one rate, sha256, and which recordings are refused.

    AudioSegment -> open_audio -> AudioStream, in blocks (samples, channels)
                 -> load_audio -> mono float32 (samples,) at one sample rate

A span is found by seeking. Refused are spans outside the recording, other sample rates without
`auto_resample`, headers that promise more than the file can hold, and samples that are not finite.
"""

import hashlib
import math
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from dlm.data.audio_decoders import (
    detect_container,
    get_decoder_versions,
    is_pyav_installed,
    open_with_pyav,
    open_with_soundfile,
)
from dlm.data.audio_file import (
    AudioInfo,
    AudioReader,
    BinaryFile,
    FileSlice,
    Waveform,
    make_empty_audio_error,
    make_truncated_audio_error,
    make_unreadable_audio_error,
    open_recording,
)
from dlm.data.types import AudioSegment
from dlm.errors import AudioError

RecordingFn = Callable[[AudioSegment, BinaryFile], None]
ResampleFn = Callable[[Waveform, int, int], Waveform]  # samples, their rate, the rate wanted

# an end written with two decimals may lie this far past the last sample
SEGMENT_END_TOLERANCE_SECONDS = 0.01
# tools count the padding of mp3 and aac, or round: a segment is cut where the recording ends
MAX_SEGMENT_OVERRUN_SECONDS = 0.5
# full scale is 1; a float wav may go a little beyond it, and one of 16-bit numbers to 32768
MAX_AMPLITUDE = 100.0
MAX_SAMPLES_PER_BYTE = 1000  # per channel; silence packs to 500, and only a trap to more
MAX_LOADED_SAMPLES = 1 << 29  # of one segment, held in 2 GiB; 9 hours at 16 kHz


@dataclass(frozen=True)
class AudioStream:
    """A segment opened for reading once.

    Attributes:
        info: header of the recording.
        start_sample: first sample of the segment.
        num_samples: samples of the segment, per channel.
        blocks: float32 (samples, channels) at the recording's own rate.
    """

    info: AudioInfo
    start_sample: int
    num_samples: int
    blocks: Iterator[Waveform]


def read_audio_info(path: Path, byte_range: tuple[int, int] | None = None) -> AudioInfo:
    """Read sample rate, channels and length of a recording from its header. Raises AudioError."""
    with open_audio(AudioSegment(path, byte_range=byte_range)) as stream:
        return stream.info


def load_audio(
    segment: AudioSegment,
    *,
    sample_rate: int,
    resample: bool,
    file: BinaryFile | None = None,
    on_open: RecordingFn | None = None,
) -> Waveform:
    """Decode a segment as mono: (samples,) float32 at `sample_rate`.

    Args:
        segment: what to decode.
        sample_rate: in Hz.
        resample: whether another rate is converted; else it is refused.
        file: its recording, where the caller has it open; None opens it.
        on_open: called with the open recording before it is decoded.

    Raises:
        AudioError: it cannot be read or decoded (`audio.*`).
    """
    with ExitStack() as stack:
        if file is None:
            file = stack.enter_context(open_recording(segment))
        if on_open is not None:
            on_open(segment, file)
        stream = stack.enter_context(open_audio_stream(file, segment))
        native_rate = stream.info.sample_rate
        if native_rate != sample_rate and not resample:
            raise make_sample_rate_error(segment.name, native_rate, sample_rate)
        if stream.num_samples > MAX_LOADED_SAMPLES:
            hours = stream.num_samples / native_rate / 3600
            raise AudioError(
                f"it lasts {hours:.1f} hours, too long to be decoded at once",
                where=segment.name,
                hint="cut it, or give a span with start and end",
                code="audio.too_large",
            )
        resample_fn = None if native_rate == sample_rate else choose_resampler()
        waveform, num_read = np.empty(stream.num_samples, np.float32), 0
        for block in stream.blocks:
            waveform[num_read : num_read + len(block)] = to_mono(block)
            num_read += len(block)
    waveform = waveform[:num_read]
    return waveform if resample_fn is None else resample_fn(waveform, native_rate, sample_rate)


def to_mono(block: Waveform) -> Waveform:
    """Average the channels: (samples, channels) -> (samples,)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def hash_recording(segment: AudioSegment) -> str:
    """Compute the sha256 of a recording's bytes, of all of it. Raises AudioError."""
    with open_recording(segment) as file:
        return hash_open_recording(file, segment.name)


def hash_open_recording(file: BinaryFile, name: str) -> str:
    """Compute the sha256 of an open recording, from first byte to last. Raises AudioError."""
    try:
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise make_unreadable_audio_error(name, error) from error
    if isinstance(file, FileSlice) and file.read_error:
        raise make_unreadable_audio_error(name, file.read_error)
    return sha256


def verify_recording(segment: AudioSegment, file: BinaryFile) -> None:
    """Check that an open recording holds the bytes that the scan hashed.

    Raises:
        AudioError: it was changed since (`audio.changed`), or cannot be read.
    """
    if segment.sha256 and hash_open_recording(file, segment.name) != segment.sha256:
        raise make_changed_audio_error(segment.name)


def make_changed_audio_error(name: str) -> AudioError:
    """Make the error of a recording that was changed after the scan."""
    hint = "leave recordings as they are while they are used, and run it again"
    return AudioError(
        "it was changed since it was checked", where=name, hint=hint, code="audio.changed"
    )


def make_sample_rate_error(name: str, native_rate: int, expected_rate: int) -> AudioError:
    """Make the error of a recording at another sample rate."""
    return AudioError(
        f"native sample_rate={native_rate} Hz does not match pinned {expected_rate} Hz",
        where=name,
        hint="set `training.audio.auto_resample: true` in the document, or convert it with "
        f"`ffmpeg -i in.wav -ar {expected_rate} out.wav`",
        code="audio.sample_rate_mismatch",
    )


def choose_resampler() -> ResampleFn:
    """Return the best resampler installed: soxr, else scipy. Raises AudioError without both."""
    for library, resample_fn in (
        ("soxr", _resample_with_soxr),
        ("scipy.signal", _resample_with_scipy),
    ):
        with suppress(ImportError):
            import_module(library)
            return resample_fn
    raise AudioError(
        "AudioResampleUnavailable: requires either soxr or scipy",
        hint="pip install soxr, or else pip install scipy",
        code="audio.no_resampler",
    )


def get_audio_backends() -> dict[str, str]:
    """Return the decoder and the resampler in use here, with their versions."""
    backends = {"decoder": get_decoder_versions()}
    for library in ("soxr", "scipy"):
        with suppress(PackageNotFoundError):
            backends.setdefault("resampler", f"{library} {version(library)}")
    return backends


def _resample_with_soxr(waveform: Waveform, native_rate: int, target_rate: int) -> Waveform:
    import soxr

    resampled: Waveform = soxr.resample(waveform, native_rate, target_rate, quality="HQ")
    return resampled


def _resample_with_scipy(waveform: Waveform, native_rate: int, target_rate: int) -> Waveform:
    divisor = math.gcd(native_rate, target_rate)
    resample_poly = import_module("scipy.signal").resample_poly
    resampled = resample_poly(waveform, target_rate // divisor, native_rate // divisor)
    return np.asarray(resampled, np.float32)


@contextmanager
def open_audio(segment: AudioSegment) -> Iterator[AudioStream]:
    """Open a segment for reading, at its first sample. Raises AudioError."""
    with open_recording(segment) as file, open_audio_stream(file, segment) as stream:
        yield stream


@contextmanager
def open_audio_stream(file: BinaryFile, segment: AudioSegment) -> Iterator[AudioStream]:
    """Open a segment for reading in its recording that is already open. Raises AudioError."""
    num_bytes = file.seek(0, 2)
    with _open_reader(file, segment) as reader:
        _check_plausible_length(reader.info, num_bytes, segment.name)
        start_sample, num_samples = _find_sample_range(segment, reader.info)
        blocks = _iter_checked_blocks(reader, start_sample, num_samples, name=segment.name)
        with closing(blocks):
            yield AudioStream(reader.info, start_sample, num_samples, blocks)


@contextmanager
def _open_reader(file: BinaryFile, segment: AudioSegment) -> Iterator[AudioReader]:
    """The recording opened by the decoder that its first bytes ask for."""
    with open_with_soundfile(file, segment.name) as reader:
        if reader is not None:
            yield reader
            return
    file.seek(0)
    first_bytes = file.read(512) or b""
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in first_bytes)
    container_format = None if is_text else detect_container(first_bytes)
    if container_format is None:
        raise _make_not_audio_error(first_bytes, segment, is_text=is_text)
    num_samples = segment.recording.num_samples if segment.recording else None
    with open_with_pyav(file, container_format, segment.name, num_samples) as reader:
        yield reader


def _make_not_audio_error(
    first_bytes: bytes, segment: AudioSegment, *, is_text: bool
) -> AudioError:
    """The error of a file that no decoder reads, as far as its first bytes tell."""
    if first_bytes.startswith(b"version https://git-lfs"):
        return AudioError(
            "it is a Git LFS pointer, not audio",
            where=segment.name,
            hint="fetch the recording with `git lfs pull`",
            code="audio.lfs_pointer",
        )
    if is_text:
        return AudioError(
            "it holds text, not audio",
            where=segment.name,
            hint="put a wav, flac, ogg, mp3 or opus file there",
            code="audio.not_audio",
        )
    target = f"{segment.path.stem}.wav" if segment.path.suffix != ".wav" else "out.wav"
    hint = f"convert it with `ffmpeg -i {shlex.quote(segment.name)} {shlex.quote(target)}`"
    if segment.byte_range is not None:
        hint = f"put a recording that can be into {segment.path.name}, or leave this one out"
    more = ", m4a, mp4, webm and more" if is_pyav_installed() else ""
    what = f"it is not audio that can be decoded (wav, flac, ogg, mp3, opus{more})"
    return AudioError(what, where=segment.name, hint=hint, code="audio.not_audio")


def _check_plausible_length(info: AudioInfo, num_bytes: int, name: str) -> None:
    """Refuse a few bytes that promise days: they would fill the memory or never end."""
    if info.num_samples > num_bytes * MAX_SAMPLES_PER_BYTE:
        raise AudioError(
            f"it promises {info.seconds / 3600:.1f} hours of audio in {num_bytes} bytes, "
            "which is impossible",
            where=name,
            hint="export it again from its source",
            code="audio.implausible_length",
        )


def _find_sample_range(segment: AudioSegment, info: AudioInfo) -> tuple[int, int]:
    """The first sample of the segment, and its number of samples."""
    if info.num_samples == 0:
        raise make_empty_audio_error(segment.name, "it holds no samples")
    start = 0.0 if segment.start is None else segment.start
    end = info.seconds if segment.end is None else segment.end
    span, hint = f"the span from {start:g} s to {end:g} s", "correct start and end"
    if not (0 <= start < info.seconds and end <= info.seconds + MAX_SEGMENT_OVERRUN_SECONDS):
        what = f"{span} lies outside the recording, which lasts {info.seconds:.2f} s"
        raise AudioError(what, where=segment.name, hint=hint, code="audio.span_outside")
    start_sample, end_sample = round(start * info.sample_rate), round(end * info.sample_rate)
    if not start_sample < end_sample:
        what = f"{span} is empty"
        raise AudioError(what, where=segment.name, hint=hint, code="audio.span_empty")
    return start_sample, min(end_sample, info.num_samples) - start_sample


def _iter_checked_blocks(
    reader: AudioReader, start_sample: int, num_samples: int, *, name: str
) -> Generator[Waveform, None, None]:
    """Read the samples of a segment, and refuse what is damaged."""
    num_read = 0
    for block in reader.read_blocks(start_sample, num_samples):
        peak = float(np.abs(block).max(initial=0))  # NaN where one is NaN
        if not math.isfinite(peak):
            raise AudioError(
                "it holds samples that are not finite (NaN or infinite)",
                where=name,
                hint="export it again from its source",
                code="audio.not_finite",
            )
        if peak > MAX_AMPLITUDE:
            raise AudioError(
                f"its samples reach {peak:,.0f}, and full scale is 1: they are 16-bit numbers",
                where=name,
                hint="scale it: `ffmpeg -i in.wav -af volume=1/32768 -c:a pcm_s16le out.wav`",
                code="audio.float_range",
            )
        num_read += len(block)
        if len(block):
            yield block
    if num_read + reader.max_missing_samples < num_samples or num_read == 0:
        raise make_truncated_audio_error(
            name, f"{reader.info.num_samples} samples", f"{start_sample + num_read}"
        )
