"""How a recording becomes samples, and which recordings are refused.

    Sound -> listen -> Span, in blocks (samples, channels) -> decode -> mono float32 at one rate

Nothing but a regular file is opened, a span is found by seeking, and every refusal is a ClipError
with the mend. All that the program knows of soundfile, soxr and scipy stands here.
"""

import hashlib
import math
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import FileIO
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from dlm.clips.clip import Sound
from dlm.errors import ClipError

Wave = NDArray[np.float32]
Resampler = Callable[[Wave, int, int], Wave]

BLOCK_SAMPLES = 1 << 16  # per channel: what is held at once while a recording is read
ROUNDING_SECONDS = 0.01  # an end written with two decimals may lie this far past the last sample
STREAMED_BYTES = 0x7FFFF000  # a wav written to a pipe promises this much or more
LENGTH_UNKNOWN = 1 << 62  # samples; a flac written to a pipe does not say how long it is
MP3_SLACK_SAMPLES = 2304  # two frames: headers of mp3 files are that vague
UNREADABLE = "allow it to be read, or name another file"


@dataclass(frozen=True)
class Header:
    """What a recording says of itself. `samples` is per channel."""

    rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.rate


@dataclass(frozen=True)
class Span:
    """The part of an open recording that a Sound names, to be read once.

    `blocks` yields float32 (samples, channels) at the recording's own rate.
    """

    header: Header
    first: int
    samples: int
    blocks: Iterator[Wave]


def probe(path: Path) -> Header:
    """Rate, channels and length of a recording, from its header alone."""
    with listen(Sound(path)) as span:
        return span.header


def decode(sound: Sound, *, rate: int, resample: bool) -> Wave:
    """A sound as mono samples (samples,) at `rate`; another rate is refused unless `resample`."""
    with listen(sound) as span:
        native = span.header.rate
        if native != rate and not resample:
            raise rate_refusal(sound.name, native, rate)
        convert = None if native == rate else resampler()
        wave = np.concatenate([mono(block) for block in span.blocks])
    return wave if convert is None else convert(wave, native, rate)


def mono(block: Wave) -> Wave:
    """The mean over channels: (samples, channels) -> (samples,)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def digest(sound: Sound) -> str:
    """The sha256 of the recording's bytes, as found."""
    with _opened(sound) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ClipError("it cannot be read", where=sound.name, mend=UNREADABLE) from error


def rate_refusal(name: str, native: int, rate: int) -> ClipError:
    """Why a recording at another rate is not used."""
    return ClipError(
        f"native sample_rate={native} Hz does not match pinned {rate} Hz",
        where=name,
        mend="set `training.audio.auto_resample: true` in the document, or convert it with "
        f"`ffmpeg -i in.wav -ar {rate} out.wav`",
    )


def resampler() -> Resampler:
    """The best resampler that is installed."""
    for library, resample in (("soxr", _with_soxr), ("scipy.signal", _with_scipy)):
        try:
            import_module(library)
        except ImportError:
            continue
        return resample
    raise ClipError(
        "AudioResampleUnavailable: requires either soxr or scipy",
        mend="pip install soxr, or else pip install scipy",
    )


def _with_soxr(wave: Wave, native: int, rate: int) -> Wave:
    import soxr

    converted: Wave = soxr.resample(wave, native, rate, quality="HQ")
    return converted


def _with_scipy(wave: Wave, native: int, rate: int) -> Wave:
    shared = math.gcd(native, rate)
    resample_poly = import_module("scipy.signal").resample_poly
    converted: Wave = resample_poly(wave, rate // shared, native // shared).astype(np.float32)
    return converted


@contextmanager
def listen(sound: Sound) -> Iterator[Span]:
    """Open the recording at the beginning of the span that `sound` names."""
    with _opened(sound) as file:
        try:
            _refuse_cut_wav(file, sound.name)
            recording = soundfile.SoundFile(file.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            raise _not_sound(file, sound) from error
        except OSError as error:
            raise ClipError("it cannot be read", where=sound.name, mend=UNREADABLE) from error
        with recording:
            header = Header(recording.samplerate, recording.channels, recording.frames)
            first, samples = _span(sound, header)
            yield Span(header, first, samples, _blocks(recording, first, samples, sound.name))


@contextmanager
def _opened(sound: Sound) -> Iterator[FileIO]:
    """The file itself, unbuffered; only a regular file with something in it."""
    missing = f"audio not found: {sound.name}"
    try:
        status = sound.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(status.st_mode, sound.name)
        if status.st_size == 0:
            raise _empty(sound.name, "the file is empty (0 bytes)")
        file = sound.path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        mend = "put the file there or mend the path"
        raise ClipError(missing, mend=_of_link(sound.path) or mend) from error
    except OSError as error:
        what = f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
        raise ClipError(what, where=sound.name, mend=UNREADABLE) from error
    except ValueError as error:  # a null byte in the path
        raise ClipError(missing, mend="mend the path") from error
    with file:
        yield file


def _of_link(path: Path) -> str | None:
    return "the link leads nowhere: mend it" if path.is_symlink() else None


def _not_a_file(mode: int, name: str) -> ClipError:
    if stat.S_ISDIR(mode):
        mend = "name a file in it, or list it under training.sources"
        return ClipError("it is a directory, not a recording", where=name, mend=mend)
    what = "it is not a regular file (a pipe, a socket or a device)"
    return ClipError(what, where=name, mend="save the recording in a file first")


def _empty(name: str, what: str) -> ClipError:
    return ClipError(what, where=name, mend="record it again or take the clip out")


def _refuse_cut_wav(file: FileIO, name: str) -> None:
    """Compare what a wav promises with what is there: soundfile plays what is left, in silence."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    while head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        chunk = file.read(8)
        promised, left = int.from_bytes(chunk[4:], "little"), size - file.tell()
        if len(chunk) == 8 and chunk[:4] == b"data" and left < promised < STREAMED_BYTES:
            raise _cut(name, f"{promised} bytes of sound", f"{left}")
        if promised >= left or chunk[:4] == b"data":
            break
        file.seek(promised + promised % 2, 1)
    file.seek(0)


def _cut(name: str, promised: str, left: str) -> ClipError:
    what = f"it is cut short: its header promises {promised}, the file holds {left}"
    mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
    return ClipError(what, where=name, mend=mend)


def _not_sound(file: FileIO, sound: Sound) -> ClipError:
    """Why libsndfile could not open it, as far as its first bytes tell."""
    file.seek(0)
    head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        mend = "fetch the recording with `git lfs pull`"
        return ClipError("it is a Git LFS pointer, not sound", where=sound.name, mend=mend)
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        mend = "put a wav, flac, ogg, mp3 or opus file there"
        return ClipError("it holds text, not sound", where=sound.name, mend=mend)
    target = f"{sound.path.stem}.wav" if sound.path.suffix != ".wav" else "out.wav"
    return ClipError(
        "it is not sound that can be decoded (wav, flac, ogg, mp3 and opus are)",
        where=sound.name,
        mend=f"convert it with `ffmpeg -i {shlex.quote(sound.name)} {shlex.quote(target)}`",
    )


def _span(sound: Sound, header: Header) -> tuple[int, int]:
    """The first sample of the span and how many it has."""
    if header.samples == 0:
        raise _empty(sound.name, "it holds no samples")
    if header.samples >= LENGTH_UNKNOWN:
        mend = "convert it with `ffmpeg -i in.flac out.flac`"
        raise ClipError("its header does not say how long it is", where=sound.name, mend=mend)
    start = 0.0 if sound.start is None else sound.start
    end = header.seconds if sound.end is None else sound.end
    written = f"the span from {start:g} s to {end:g} s"
    if not (0 <= start < header.seconds and end <= header.seconds + ROUNDING_SECONDS):
        what = f"{written} lies outside the recording, which lasts {header.seconds:.2f} s"
        raise ClipError(what, where=sound.name, mend="mend start and end")
    if not round(start * header.rate) < round(end * header.rate):
        raise ClipError(f"{written} is empty", where=sound.name, mend="mend start and end")
    first = round(start * header.rate)
    return first, min(round(end * header.rate), header.samples) - first


def _blocks(
    recording: soundfile.SoundFile, first: int, samples: int, name: str
) -> Iterator[Wave]:  # each (samples, channels)
    """Read `samples` from `first` on, and refuse what is damaged."""
    slack = MP3_SLACK_SAMPLES if recording.format == "MP3" else 0
    done = 0
    try:
        _go_to(recording, first)
        while done < samples:
            wanted = min(BLOCK_SAMPLES, samples - done)
            block: Wave = recording.read(wanted, dtype="float32", always_2d=True)
            if not np.isfinite(block).all():
                what = "it holds samples that are no numbers (NaN or infinite)"
                raise ClipError(what, where=name, mend="export it again from its source")
            done += len(block)
            if len(block):
                yield block
            if len(block) < wanted:
                break
    except (soundfile.SoundFileError, OSError) as error:
        mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
        raise ClipError("it is damaged or cut short", where=name, mend=mend) from error
    if done + slack < samples or done == 0:
        raise _cut(name, f"{recording.frames} samples", f"{first + done}")


def _go_to(recording: soundfile.SoundFile, first: int) -> None:
    """Seek, with a second of run-up: mp3 and opus need what came before to decode exactly."""
    if first == 0:
        return
    exact = recording.format not in ("MP3", "OGG")
    entry = first if exact else max(0, first - recording.samplerate)
    recording.seek(entry)
    if entry < first:
        recording.read(first - entry, dtype="float32")
