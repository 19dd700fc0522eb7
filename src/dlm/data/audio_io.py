"""How a recording becomes samples, and which recordings are refused.

    Sound -> listen -> Span, in blocks (samples, channels) -> decode -> mono float32 at one rate

Nothing but a regular file is opened, a span is found by seeking, and every refusal is a ClipError
with the mend. libsndfile reads what it knows, the ffmpeg programs the rest where they are there.
"""

import hashlib
import math
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from dlm.data.audio_decoders import (
    LIBSNDFILE_VERSION,
    detect_container,
    get_ffmpeg_version,
    is_ffmpeg_installed,
    make_ffmpeg_reader,
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
from dlm.errors import DataError

ResampleFn = Callable[[Waveform, int, int], Waveform]

SEGMENT_END_TOLERANCE_SECONDS = (
    0.01  # an end written with two decimals may lie this far past the last sample
)
MAX_SAMPLES_PER_BYTE = 1000  # per channel; silence packs to 500, and only a trap to more
MAX_LOADED_SAMPLES = 1 << 29  # of one sound, held in 2 GiB; 9 hours at 16 kHz


@dataclass(frozen=True)
class AudioStream:
    """The part of an open recording that a Sound names, to be read once.

    `blocks` yields float32 (samples, channels) at the recording's own rate.
    """

    info: AudioInfo
    start_sample: int
    num_samples: int
    blocks: Iterator[Waveform]


def read_audio_info(path: Path, byte_range: tuple[int, int] | None = None) -> AudioInfo:
    """Rate, channels and length of a recording, from its header alone."""
    with open_audio(AudioSegment(path, byte_range=byte_range)) as span:
        return span.info


def load_audio(segment: AudioSegment, *, sample_rate: int, resample: bool) -> Waveform:
    """A sound as mono samples (samples,) at `rate`; another rate is refused unless `resample`."""
    with open_audio(segment) as span:
        native = span.info.sample_rate
        if native != sample_rate and not resample:
            raise make_sample_rate_error(segment.name, native, sample_rate)
        if span.num_samples > MAX_LOADED_SAMPLES:
            what = (
                f"it lasts {span.num_samples / native / 3600:.1f} hours, too long to be heard whole"
            )
            raise DataError(
                what, where=segment.name, hint="cut it, or name start and end of a part"
            )
        convert = None if native == sample_rate else choose_resampler()
        wave, done = np.empty(span.num_samples, np.float32), 0
        for block in span.blocks:
            wave[done : done + len(block)] = to_mono(block)
            done += len(block)
    wave = wave[:done]
    return wave if convert is None else convert(wave, native, sample_rate)


def to_mono(block: Waveform) -> Waveform:
    """The mean over channels: (samples, channels) -> (samples,)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def hash_recording(segment: AudioSegment) -> str:
    """The sha256 of the recording's bytes, as found."""
    with open_recording(segment) as file:
        try:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise make_unreadable_audio_error(segment.name, error) from error
        if isinstance(file, FileSlice) and file.read_error:
            raise make_unreadable_audio_error(segment.name, file.read_error)
        return found


def make_sample_rate_error(name: str, native_rate: int, expected_rate: int) -> DataError:
    """Why a recording at another rate is not used."""
    return DataError(
        f"native sample_rate={native_rate} Hz does not match pinned {expected_rate} Hz",
        where=name,
        hint="set `training.audio.auto_resample: true` in the document, or convert it with "
        f"`ffmpeg -i in.wav -ar {expected_rate} out.wav`",
    )


def choose_resampler() -> ResampleFn:
    """The best resampler that is installed."""
    for library, resample in (
        ("soxr", _resample_with_soxr),
        ("scipy.signal", _resample_with_scipy),
    ):
        try:
            import_module(library)
        except ImportError:
            continue
        return resample
    raise DataError(
        "AudioResampleUnavailable: requires either soxr or scipy",
        hint="pip install soxr, or else pip install scipy",
    )


def get_audio_backends() -> dict[str, str]:
    """What decodes and what resamples here, with their versions."""
    program = get_ffmpeg_version()
    known = {
        "decoder": f"{LIBSNDFILE_VERSION}, ffmpeg {program}" if program else LIBSNDFILE_VERSION
    }
    for library in ("soxr", "scipy"):
        with suppress(PackageNotFoundError):
            known.setdefault("resampler", f"{library} {version(library)}")
    return known


def _resample_with_soxr(waveform: Waveform, native_rate: int, target_rate: int) -> Waveform:
    import soxr

    converted: Waveform = soxr.resample(waveform, native_rate, target_rate, quality="HQ")
    return converted


def _resample_with_scipy(waveform: Waveform, native_rate: int, target_rate: int) -> Waveform:
    shared = math.gcd(native_rate, target_rate)
    resample_poly = import_module("scipy.signal").resample_poly
    converted: Waveform = resample_poly(
        waveform, target_rate // shared, native_rate // shared
    ).astype(np.float32)
    return converted


@contextmanager
def open_audio(segment: AudioSegment) -> Iterator[AudioStream]:
    """Open the recording at the beginning of the span that `sound` names."""
    with open_recording(segment) as file:
        size = file.seek(0, 2)
        with _open_reader(file, segment) as found:
            _check_plausible_length(found.info, size, segment.name)
            first, samples = _find_sample_range(segment, found.info)
            with closing(_iter_checked_blocks(found, first, samples, name=segment.name)) as blocks:
                yield AudioStream(found.info, first, samples, blocks)


@contextmanager
def _open_reader(file: BinaryFile, segment: AudioSegment) -> Iterator[AudioReader]:
    """Whoever can read the recording: its bytes decide, never its suffix."""
    with open_with_soundfile(file, segment.name) as found:
        if found is not None:
            yield found
            return
    file.seek(0)
    head = file.read(512) or b""
    text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    kind = None if text else detect_container(head)
    if kind is None:
        raise _make_not_audio_error(head, segment, is_text=text)
    yield make_ffmpeg_reader(segment, kind)


def _make_not_audio_error(first_bytes: bytes, segment: AudioSegment, *, is_text: bool) -> DataError:
    """Why nobody can read it, as far as its first bytes tell."""
    if first_bytes.startswith(b"version https://git-lfs"):
        mend = "fetch the recording with `git lfs pull`"
        return DataError("it is a Git LFS pointer, not sound", where=segment.name, hint=mend)
    if is_text:
        mend = "put a wav, flac, ogg, mp3 or opus file there"
        return DataError("it holds text, not sound", where=segment.name, hint=mend)
    target = f"{segment.path.stem}.wav" if segment.path.suffix != ".wav" else "out.wav"
    mend = f"convert it with `ffmpeg -i {shlex.quote(segment.name)} {shlex.quote(target)}`"
    if segment.byte_range is not None:
        mend = f"put a recording that can be into {segment.path.name}, or leave this one out"
    also = " and, with ffmpeg, m4a, mp4, webm and more" if is_ffmpeg_installed() else ""
    what = f"it is not sound that can be decoded (wav, flac, ogg, mp3 and opus are{also})"
    return DataError(what, where=segment.name, hint=mend)


def _check_plausible_length(info: AudioInfo, file_size: int, name: str) -> None:
    """A few bytes that promise days of sound would fill the memory or never end."""
    if info.num_samples > file_size * MAX_SAMPLES_PER_BYTE:
        hours = info.seconds / 3600
        what = f"it promises {hours:.1f} hours of sound in {file_size} bytes, which cannot be"
        raise DataError(what, where=name, hint="export it again from its source")


def _find_sample_range(segment: AudioSegment, info: AudioInfo) -> tuple[int, int]:
    """The first sample of the span and how many it has."""
    if info.num_samples == 0:
        raise make_empty_audio_error(segment.name, "it holds no samples")
    start = 0.0 if segment.start is None else segment.start
    end = info.seconds if segment.end is None else segment.end
    written = f"the span from {start:g} s to {end:g} s"
    if not (0 <= start < info.seconds and end <= info.seconds + SEGMENT_END_TOLERANCE_SECONDS):
        what = f"{written} lies outside the recording, which lasts {info.seconds:.2f} s"
        raise DataError(what, where=segment.name, hint="mend start and end")
    if not round(start * info.sample_rate) < round(end * info.sample_rate):
        raise DataError(f"{written} is empty", where=segment.name, hint="mend start and end")
    first = round(start * info.sample_rate)
    return first, min(round(end * info.sample_rate), info.num_samples) - first


def _iter_checked_blocks(
    reader: AudioReader, start_sample: int, num_samples: int, *, name: str
) -> Generator[Waveform, None, None]:
    """Read `samples` from `first` on, and refuse what is damaged."""
    done = 0
    for block in reader.read_blocks(start_sample, num_samples):
        if not np.isfinite(block).all():
            what = "it holds samples that are no numbers (NaN or infinite)"
            raise DataError(what, where=name, hint="export it again from its source")
        done += len(block)
        if len(block):
            yield block
    if done + reader.max_missing_samples < num_samples or done == 0:
        raise make_truncated_audio_error(
            name, f"{reader.info.num_samples} samples", f"{start_sample + done}"
        )
