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

from dlm.clips.clip import Sound
from dlm.clips.disk import Bytes, Window, empty, opened, unreadable
from dlm.clips.ffmpeg import container, installed, reader, release
from dlm.clips.reader import Header, Reader, Wave, cut_short
from dlm.clips.sndfile import LIBRARY, sndfile
from dlm.errors import ClipError

Resampler = Callable[[Wave, int, int], Wave]

ROUNDING_SECONDS = 0.01  # an end written with two decimals may lie this far past the last sample
MOST_SAMPLES_PER_BYTE = 1000  # per channel; silence packs to 500, and only a trap to more
MOST_SAMPLES_AT_ONCE = 1 << 29  # of one sound, held in 2 GiB; 9 hours at 16 kHz


@dataclass(frozen=True)
class Span:
    """The part of an open recording that a Sound names, to be read once.

    `blocks` yields float32 (samples, channels) at the recording's own rate.
    """

    header: Header
    first: int
    samples: int
    blocks: Iterator[Wave]


def probe(path: Path, inside: tuple[int, int] | None = None) -> Header:
    """Rate, channels and length of a recording, from its header alone."""
    with listen(Sound(path, inside=inside)) as span:
        return span.header


def decode(sound: Sound, *, rate: int, resample: bool) -> Wave:
    """A sound as mono samples (samples,) at `rate`; another rate is refused unless `resample`."""
    with listen(sound) as span:
        native = span.header.rate
        if native != rate and not resample:
            raise rate_refusal(sound.name, native, rate)
        if span.samples > MOST_SAMPLES_AT_ONCE:
            what = f"it lasts {span.samples / native / 3600:.1f} hours, too long to be heard whole"
            raise ClipError(what, where=sound.name, mend="cut it, or name start and end of a part")
        convert = None if native == rate else resampler()
        wave, done = np.empty(span.samples, np.float32), 0
        for block in span.blocks:
            wave[done : done + len(block)] = mono(block)
            done += len(block)
    wave = wave[:done]
    return wave if convert is None else convert(wave, native, rate)


def mono(block: Wave) -> Wave:
    """The mean over channels: (samples, channels) -> (samples,)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def digest(sound: Sound) -> str:
    """The sha256 of the recording's bytes, as found."""
    with opened(sound) as file:
        try:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(sound.name, error) from error
        if isinstance(file, Window) and file.failed:
            raise unreadable(sound.name, file.failed)
        return found


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


def heard_with() -> dict[str, str]:
    """What decodes and what resamples here, with their versions."""
    program = release()
    known = {"decoder": f"{LIBRARY}, ffmpeg {program}" if program else LIBRARY}
    for library in ("soxr", "scipy"):
        with suppress(PackageNotFoundError):
            known.setdefault("resampler", f"{library} {version(library)}")
    return known


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
    with opened(sound) as file:
        size = file.seek(0, 2)
        with _reader(file, sound) as found:
            _refuse_trap(found.header, size, sound.name)
            first, samples = _span(sound, found.header)
            with closing(_blocks(found, first, samples, name=sound.name)) as blocks:
                yield Span(found.header, first, samples, blocks)


@contextmanager
def _reader(file: Bytes, sound: Sound) -> Iterator[Reader]:
    """Whoever can read the recording: its bytes decide, never its suffix."""
    with sndfile(file, sound.name) as found:
        if found is not None:
            yield found
            return
    file.seek(0)
    head = file.read(512) or b""
    text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    kind = None if text else container(head)
    if kind is None:
        raise _not_sound(head, sound, text=text)
    yield reader(sound, kind)


def _not_sound(head: bytes, sound: Sound, *, text: bool) -> ClipError:
    """Why nobody can read it, as far as its first bytes tell."""
    if head.startswith(b"version https://git-lfs"):
        mend = "fetch the recording with `git lfs pull`"
        return ClipError("it is a Git LFS pointer, not sound", where=sound.name, mend=mend)
    if text:
        mend = "put a wav, flac, ogg, mp3 or opus file there"
        return ClipError("it holds text, not sound", where=sound.name, mend=mend)
    target = f"{sound.path.stem}.wav" if sound.path.suffix != ".wav" else "out.wav"
    mend = f"convert it with `ffmpeg -i {shlex.quote(sound.name)} {shlex.quote(target)}`"
    if sound.inside is not None:
        mend = f"put a recording that can be into {sound.path.name}, or leave this one out"
    also = " and, with ffmpeg, m4a, mp4, webm and more" if installed() else ""
    what = f"it is not sound that can be decoded (wav, flac, ogg, mp3 and opus are{also})"
    return ClipError(what, where=sound.name, mend=mend)


def _refuse_trap(header: Header, size: int, name: str) -> None:
    """A few bytes that promise days of sound would fill the memory or never end."""
    if header.samples > size * MOST_SAMPLES_PER_BYTE:
        hours = header.seconds / 3600
        what = f"it promises {hours:.1f} hours of sound in {size} bytes, which cannot be"
        raise ClipError(what, where=name, mend="export it again from its source")


def _span(sound: Sound, header: Header) -> tuple[int, int]:
    """The first sample of the span and how many it has."""
    if header.samples == 0:
        raise empty(sound.name, "it holds no samples")
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


def _blocks(found: Reader, first: int, samples: int, *, name: str) -> Generator[Wave, None, None]:
    """Read `samples` from `first` on, and refuse what is damaged."""
    done = 0
    for block in found.read(first, samples):
        if not np.isfinite(block).all():
            what = "it holds samples that are no numbers (NaN or infinite)"
            raise ClipError(what, where=name, mend="export it again from its source")
        done += len(block)
        if len(block):
            yield block
    if done + found.slack < samples or done == 0:
        raise cut_short(name, f"{found.header.samples} samples", f"{first + done}")
