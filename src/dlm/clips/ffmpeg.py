"""What libsndfile does not read, through the ffmpeg and ffprobe programs where they are there.

    first bytes -> container -> ffprobe: Stream -> ffmpeg: float32 through a pipe -> Reader

A file's first bytes say what it is, and the programs are told so: nothing in it makes them open
another, and no name is ever a command. They see no network, and one that falls silent is ended.

A span is the same samples as in the whole, but in Matroska (mkv, webm), whose times are rounded:
from 30 s on it may begin up to 10 ms off.
"""

import json
import os
import re
import selectors
import subprocess
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from shutil import which
from typing import Any

import numpy as np

from dlm.clips.clip import Sound
from dlm.clips.disk import unreadable
from dlm.clips.reader import BLOCK_SAMPLES, Header, Reader, Wave
from dlm.errors import ClipError

PATIENCE_SECONDS = 60  # without a byte from a program, until it is ended
RUN_UP_SECONDS = 2  # heard before a span: most codecs need what came before to decode exactly
NEAR_SECONDS = 30  # a span that begins earlier is found by decoding from the beginning
SLACK_SECONDS = 0.1  # a few frames of a codec
PIPE_BYTES = 1 << 20
WHY_LETTERS = 80  # of what ffprobe complains about

CLOCK = re.compile(r"(\d+:)*\d+(\.\d+)?")
INSTALL = "`apt-get install ffmpeg` or `brew install ffmpeg`"

# What ffmpeg calls a container, and the bytes it begins with, by where they stand.
CONTAINERS: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
    *(("mov", ((4, kind),)) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    ("matroska", ((0, b"\x1aE\xdf\xa3"),)),
    ("asf", ((0, b"0&\xb2u\x8ef\xcf\x11"),)),
    ("amr", ((0, b"#!AMR"),)),
    *(("aac", ((0, kind),)) for kind in (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9")),
    ("aac", ((0, b"ID3"),)),
    ("wav", ((0, b"RIFF"), (8, b"WAVE"))),
    ("avi", ((0, b"RIFF"), (8, b"AVI "))),
    ("aiff", ((0, b"FORM"), (8, b"AIF"))),
    ("caf", ((0, b"caff"),)),
    ("ogg", ((0, b"OggS"),)),
    ("flv", ((0, b"FLV"),)),
    ("mpegts", ((0, b"G"), (188, b"G"), (376, b"G"))),
    ("mpeg", ((0, b"\0\0\1\xba"),)),
    ("ape", ((0, b"MAC "),)),
    ("wv", ((0, b"wvpk"),)),
)
SURE = {"mov", "matroska", "ogg", "caf", "aiff", "ape", "wv"}  # these say how long they last
SOUGHT = SURE | {"aac", "mpegts", "mpeg"}  # in these a place is found without decoding up to it


@dataclass(frozen=True)
class _File:
    """A file as the programs are told it; the two numbers make a changed file another one."""

    kind: str
    url: str
    modified: int
    size: int

    @property
    def words(self) -> tuple[str, ...]:
        return "-protocol_whitelist", "file,subfile", "-f", self.kind


@dataclass(frozen=True)
class _Stream:
    """The first sound in a file. It begins `late` seconds after the file does."""

    header: Header
    late: float


def container(head: bytes) -> str | None:
    """What ffmpeg calls a file that begins with these bytes, if it is one that it is asked for."""
    fits = (kind for kind, marks in CONTAINERS if all(head[at:].startswith(m) for at, m in marks))
    return next(fits, None)


@lru_cache
def installed() -> bool:
    """Whether the programs are here."""
    return bool(which("ffmpeg") and which("ffprobe"))


def release() -> str | None:
    """What ffmpeg calls itself, such as 7.1."""
    told = b"".join(piped(["ffmpeg", "-version"])) if installed() else b""
    version = re.match(rb"ffmpeg version ([\w.+~-]+)", told)
    return version[1].decode() if version else None


def reader(sound: Sound, kind: str) -> Reader:
    """The first sound in a file of this container."""
    if not installed():
        what = f"it is a recording ({kind}) that is read with ffmpeg, which is not installed"
        raise ClipError(what, where=sound.name, mend=INSTALL)
    try:
        status = sound.path.stat()
        file = _File(kind, _url(sound), status.st_mtime_ns, status.st_size)
        stream = _stream(file)
    except OSError as error:
        raise unreadable(sound.name, error) from error
    except ClipError as error:
        raise ClipError(error.what, where=sound.name, mend=error.mend) from error
    slack = round(SLACK_SECONDS * stream.header.rate)
    return Reader(stream.header, slack, partial(_span, file, stream, name=sound.name))


def _url(sound: Sound) -> str:
    """Where the recording lies: a path, whatever it looks like."""
    path = f"file:{sound.path.absolute()}"
    if sound.inside is None:
        return path
    first, size = sound.inside
    return f"subfile,,start,{first},end,{first + size},,:{path}"


@lru_cache(maxsize=100_000)
def _stream(file: _File) -> _Stream:
    """What ffprobe says of the first sound; how long it lasts is counted where that is a guess."""
    told = _probed(file)
    stream: dict[str, Any] = next(iter(told.get("streams") or ()), {})
    rate, channels = int(stream.get("sample_rate") or 0), int(stream.get("channels") or 0)
    if rate <= 0 or channels <= 0:
        raise ClipError("there is no sound in it", mend="name a recording, or leave it out")
    late = _seconds(stream.get("start_time")) - _seconds(told["format"].get("start_time"))
    tagged = (stream.get("tags") or {}).get("DURATION")
    seconds = _seconds(stream.get("duration")) or _seconds(tagged)
    samples = round(seconds * rate) if file.kind in SURE else 0
    found = _Stream(Header(rate, channels, samples), max(late, 0.0))
    if samples:
        return found
    samples = sum(map(len, _blocks(file, found, 0)))
    return replace(found, header=Header(rate, channels, samples))


def _probed(file: _File) -> dict[str, Any]:
    """What ffprobe says, as it says it."""
    entries = (
        "stream=sample_rate,channels,start_time,duration:stream_tags=DURATION:format=start_time"
    )
    words = ["ffprobe", "-v", "error", *file.words, "-select_streams", "a:0", "-of", "json"]
    words += ["-show_entries", entries, "-i", file.url]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _silent("ffprobe", PATIENCE_SECONDS) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no reason given"]
        why = re.sub(r"^\[[^]]*\] ", "", lines[0]).removeprefix(f"{file.url}: ")
        what = f"ffprobe cannot read it ({''.join(filter(str.isprintable, why))[:WHY_LETTERS]})"
        raise ClipError(what, mend="copy it again: it may be damaged or cut short")
    found: dict[str, Any] = {"format": {}, **json.loads(done.stdout)}
    return found


def _span(file: _File, stream: _Stream, first: int, samples: int, *, name: str) -> Iterator[Wave]:
    """Up to `samples` from `first` on."""
    left = samples
    try:
        with closing(_blocks(file, stream, first)) as blocks:
            for block in blocks:
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return
    except OSError as error:
        raise unreadable(name, error) from error
    except ClipError as error:
        raise ClipError(error.what, where=name, mend=error.mend) from error


def _blocks(file: _File, stream: _Stream, first: int) -> Generator[Wave, None, None]:
    """Everything from sample `first` on, as ffmpeg decodes it, after a run-up that is dropped."""
    rate, channels = stream.header.rate, stream.header.channels
    near = first < NEAR_SECONDS * rate or file.kind not in SOUGHT
    entry = 0 if near else first - RUN_UP_SECONDS * rate
    place = ("-ss", f"{stream.late + entry / rate:.6f}") if entry else ()
    words = ["ffmpeg", "-nostdin", "-v", "quiet", "-threads", "1", *file.words, *place]
    words += ["-i", file.url, "-map", "0:a:0", "-vn", "-sn", "-dn"]
    words += ["-ac", str(channels), "-ar", str(rate), "-f", "f32le", "pipe:1"]
    size = 4 * channels
    held, early, whole = bytearray(), (first - entry) * size, BLOCK_SAMPLES * size
    with closing(piped(words)) as given:
        for piece in given:
            held += piece[early:]
            early = max(early - len(piece), 0)
            while len(held) >= whole:
                yield _wave(held[:whole], channels)
                del held[:whole]
    yield _wave(held[: len(held) - len(held) % size], channels)


def _wave(held: bytearray, channels: int) -> Wave:
    """Samples as they come through the pipe -> (samples, channels)."""
    return np.frombuffer(held, "<f4").reshape(-1, channels)


def piped(
    words: list[str], *, patience_seconds: float = PATIENCE_SECONDS
) -> Generator[bytes, None, None]:
    """What a program writes, until it ends or nobody asks any more; a silent one is ended."""
    with (
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program,
        selectors.DefaultSelector() as ready,
    ):
        try:
            if program.stdout is None:  # it was asked for, so it is there
                return
            pipe = ready.register(program.stdout, selectors.EVENT_READ).fd
            while ready.select(patience_seconds):
                piece = os.read(pipe, PIPE_BYTES)
                if not piece:
                    return
                yield piece
            raise _silent(words[0], patience_seconds)
        finally:
            program.kill()


def _silent(program: str, seconds: float) -> ClipError:
    what = f"{program} has said nothing for {seconds:g} s and was ended"
    return ClipError(what, mend="convert it to wav by hand, or leave it out")


def _seconds(told: object) -> float:
    """`3.5`, or `00:00:03.5` as a tag has it; 0 where it is not said."""
    if not isinstance(told, str) or not CLOCK.fullmatch(told):
        return 0.0
    seconds = 0.0
    for part in told.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
