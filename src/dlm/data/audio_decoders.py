"""What libsndfile reads: wav, flac, ogg, mp3, opus, aiff, au, caf and more of that kind.

All that the program knows of soundfile stands here.

What libsndfile does not read, through the ffmpeg and ffprobe programs where they are there.

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
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from shutil import which
from typing import Any, Literal

import numpy as np
import soundfile

from dlm.data.audio_file import (
    MAX_BLOCK_SAMPLES,
    AudioInfo,
    AudioReader,
    BinaryFile,
    FileSlice,
    Waveform,
    make_damaged_audio_error,
    make_truncated_audio_error,
    make_unreadable_audio_error,
)
from dlm.data.types import AudioSegment
from dlm.errors import DataError

LIBSNDFILE_VERSION = f"libsndfile {soundfile.__libsndfile_version__}"
MIN_STREAMED_WAV_BYTES = 0x7FFFF000  # a wav written to a pipe promises this much or more
UNKNOWN_LENGTH_SAMPLES = 1 << 62  # samples; a flac written to a pipe does not say how long it is
MAX_MISSING_MP3_SAMPLES = 2304  # two frames: headers of mp3 files are that vague

# How the chunks of a file are written: first bytes, what follows their size, byte order, the sound.
CHUNK_FORMATS: tuple[tuple[bytes, tuple[bytes, ...], Literal["little", "big"], bytes], ...] = (
    (b"RIFF", (b"WAVE",), "little", b"data"),
    (b"FORM", (b"AIFF", b"AIFC"), "big", b"SSND"),
)


@contextmanager
def open_with_soundfile(file: BinaryFile, name: str) -> Iterator[AudioReader | None]:
    """The recording in `file`, or None where libsndfile knows none."""
    try:
        _check_not_truncated(file, name)
        given = file if isinstance(file, FileSlice) else file.fileno()
        recording = soundfile.SoundFile(given, closefd=False)
    except soundfile.SoundFileError:
        recording = None
    except OSError as error:
        raise make_unreadable_audio_error(name, error) from error
    if recording is None:
        yield None
        return
    with recording:
        header = AudioInfo(recording.samplerate, recording.channels, recording.frames)
        if header.num_samples >= UNKNOWN_LENGTH_SAMPLES:
            mend = "convert it with `ffmpeg -i in.flac out.flac`"
            raise DataError("its header does not say how long it is", where=name, hint=mend)
        vague = recording.subtype.startswith("MPEG")
        slack = (
            header.sample_rate
            if vague and recording.format != "MP3"
            else vague * MAX_MISSING_MP3_SAMPLES
        )

        def read(first: int, samples: int) -> Iterator[Waveform]:
            return _read_soundfile_blocks(recording, first, samples, name=name)

        yield AudioReader(header, slack, read)


def _check_not_truncated(file: BinaryFile, name: str) -> None:
    """Compare what is promised with what is there: libsndfile plays what is left, in silence."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12) or b""
    for first, kinds, order, sound in CHUNK_FORMATS:
        while head[:4] == first and head[8:12] in kinds:
            chunk = file.read(8) or b""
            promised, left = int.from_bytes(chunk[4:], order), size - file.tell()
            if len(chunk) == 8 and chunk[:4] == sound and left < promised < MIN_STREAMED_WAV_BYTES:
                raise make_truncated_audio_error(name, f"{promised} bytes of sound", f"{left}")
            if promised >= left or chunk[:4] == sound:
                break
            file.seek(promised + promised % 2, 1)
    file.seek(0)


def _read_soundfile_blocks(
    sound_file: soundfile.SoundFile, start_sample: int, num_samples: int, *, name: str
) -> Iterator[Waveform]:
    """Up to `samples` from `first` on."""
    try:
        _seek_with_preroll(sound_file, start_sample)
        while num_samples > 0:
            wanted = min(MAX_BLOCK_SAMPLES, num_samples)
            block: Waveform = sound_file.read(wanted, dtype="float32", always_2d=True)
            yield block
            if len(block) < wanted:
                return
            num_samples -= wanted
    except (soundfile.SoundFileError, OSError) as error:
        raise make_damaged_audio_error(name) from error


def _seek_with_preroll(sound_file: soundfile.SoundFile, start_sample: int) -> None:
    """Seek, with a second of run-up: mp3 and opus need what came before to decode exactly."""
    if start_sample == 0:
        return
    exact = sound_file.format not in ("MP3", "OGG")
    entry = start_sample if exact else max(0, start_sample - sound_file.samplerate)
    sound_file.seek(entry)
    if entry < start_sample:
        sound_file.read(start_sample - entry, dtype="float32")


FFMPEG_TIMEOUT_SECONDS = 60  # without a byte from a program, until it is ended
PREROLL_SECONDS = 2  # heard before a span: most codecs need what came before to decode exactly
MIN_SEEK_SECONDS = 30  # a span that begins earlier is found by decoding from the beginning
MAX_MISSING_SECONDS = 0.1  # a few frames of a codec
PIPE_CHUNK_BYTES = 1 << 20
MAX_ERROR_CHARS = 80  # of what ffprobe complains about

FFPROBE_DURATION_RE = re.compile(r"(\d+:)*\d+(\.\d+)?")
FFMPEG_INSTALL_HINT = "`apt-get install ffmpeg` or `brew install ffmpeg`"

# What ffmpeg calls a container, and the bytes it begins with, by where they stand.
CONTAINER_SIGNATURES: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
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
RELIABLE_DURATION_CONTAINERS = {
    "mov",
    "matroska",
    "ogg",
    "caf",
    "aiff",
    "ape",
    "wv",
}  # these say how long they last
SEEKABLE_CONTAINERS = RELIABLE_DURATION_CONTAINERS | {
    "aac",
    "mpegts",
    "mpeg",
}  # in these a place is found without decoding up to it


@dataclass(frozen=True)
class _FfmpegInput:
    """A file as the programs are told it; the two numbers make a changed file another one."""

    container: str
    url: str
    mtime_ns: int
    size: int

    @property
    def command_args(self) -> tuple[str, ...]:
        return "-protocol_whitelist", "file,subfile", "-f", self.container


@dataclass(frozen=True)
class _StreamInfo:
    """The first sound in a file. It begins `late` seconds after the file does."""

    info: AudioInfo
    delay_seconds: float


def detect_container(head: bytes) -> str | None:
    """What ffmpeg calls a file that begins with these bytes, if it is one that it is asked for."""
    fits = (
        kind
        for kind, marks in CONTAINER_SIGNATURES
        if all(head[at:].startswith(m) for at, m in marks)
    )
    return next(fits, None)


@lru_cache
def is_ffmpeg_installed() -> bool:
    """Whether the programs are here."""
    return bool(which("ffmpeg") and which("ffprobe"))


def get_ffmpeg_version() -> str | None:
    """What ffmpeg calls itself, such as 7.1."""
    told = b"".join(read_program_output(["ffmpeg", "-version"])) if is_ffmpeg_installed() else b""
    version = re.match(rb"ffmpeg version ([\w.+~-]+)", told)
    return version[1].decode() if version else None


def make_ffmpeg_reader(segment: AudioSegment, container: str) -> AudioReader:
    """The first sound in a file of this container."""
    if not is_ffmpeg_installed():
        what = f"it is a recording ({container}) that is read with ffmpeg, which is not installed"
        raise DataError(what, where=segment.name, hint=FFMPEG_INSTALL_HINT)
    try:
        status = segment.path.stat()
        file = _FfmpegInput(
            container, _format_ffmpeg_url(segment), status.st_mtime_ns, status.st_size
        )
        stream = _probe_stream(file)
    except OSError as error:
        raise make_unreadable_audio_error(segment.name, error) from error
    except DataError as error:
        raise DataError(error.what, where=segment.name, hint=error.hint) from error
    slack = round(MAX_MISSING_SECONDS * stream.info.sample_rate)
    return AudioReader(
        stream.info, slack, partial(_read_stream_samples, file, stream, name=segment.name)
    )


def _format_ffmpeg_url(segment: AudioSegment) -> str:
    """Where the recording lies: a path, whatever it looks like."""
    path = f"file:{segment.path.absolute()}"
    if segment.byte_range is None:
        return path
    first, size = segment.byte_range
    return f"subfile,,start,{first},end,{first + size},,:{path}"


@lru_cache(maxsize=100_000)
def _probe_stream(file: _FfmpegInput) -> _StreamInfo:
    """What ffprobe says of the first sound; how long it lasts is counted where that is a guess."""
    told = _run_ffprobe(file)
    stream: dict[str, Any] = next(iter(told.get("streams") or ()), {})
    rate, channels = int(stream.get("sample_rate") or 0), int(stream.get("channels") or 0)
    if rate <= 0 or channels <= 0:
        raise DataError("there is no sound in it", hint="name a recording, or leave it out")
    late = _parse_ffprobe_duration(stream.get("start_time")) - _parse_ffprobe_duration(
        told["format"].get("start_time")
    )
    tagged = (stream.get("tags") or {}).get("DURATION")
    seconds = _parse_ffprobe_duration(stream.get("duration")) or _parse_ffprobe_duration(tagged)
    samples = round(seconds * rate) if file.container in RELIABLE_DURATION_CONTAINERS else 0
    found = _StreamInfo(AudioInfo(rate, channels, samples), max(late, 0.0))
    if samples:
        return found
    samples = sum(map(len, _decode_ffmpeg_blocks(file, found, 0)))
    return replace(found, info=AudioInfo(rate, channels, samples))


def _run_ffprobe(file: _FfmpegInput) -> dict[str, Any]:
    """What ffprobe says, as it says it."""
    entries = (
        "stream=sample_rate,channels,start_time,duration:stream_tags=DURATION:format=start_time"
    )
    words = ["ffprobe", "-v", "error", *file.command_args, "-select_streams", "a:0", "-of", "json"]
    words += ["-show_entries", entries, "-i", file.url]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=FFMPEG_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _make_timeout_error("ffprobe", FFMPEG_TIMEOUT_SECONDS) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no reason given"]
        why = re.sub(r"^\[[^]]*\] ", "", lines[0]).removeprefix(f"{file.url}: ")
        what = f"ffprobe cannot read it ({''.join(filter(str.isprintable, why))[:MAX_ERROR_CHARS]})"
        raise DataError(what, hint="copy it again: it may be damaged or cut short")
    found: dict[str, Any] = {"format": {}, **json.loads(done.stdout)}
    return found


def _read_stream_samples(
    file: _FfmpegInput, stream: _StreamInfo, start_sample: int, num_samples: int, *, name: str
) -> Iterator[Waveform]:
    """Up to `samples` from `first` on."""
    left = num_samples
    try:
        with closing(_decode_ffmpeg_blocks(file, stream, start_sample)) as blocks:
            for block in blocks:
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return
    except OSError as error:
        raise make_unreadable_audio_error(name, error) from error
    except DataError as error:
        raise DataError(error.what, where=name, hint=error.hint) from error


def _decode_ffmpeg_blocks(
    file: _FfmpegInput, stream: _StreamInfo, start_sample: int
) -> Generator[Waveform, None, None]:
    """Everything from sample `first` on, as ffmpeg decodes it, after a run-up that is dropped."""
    rate, channels = stream.info.sample_rate, stream.info.num_channels
    near = start_sample < MIN_SEEK_SECONDS * rate or file.container not in SEEKABLE_CONTAINERS
    entry = 0 if near else start_sample - PREROLL_SECONDS * rate
    place = ("-ss", f"{stream.delay_seconds + entry / rate:.6f}") if entry else ()
    words = ["ffmpeg", "-nostdin", "-v", "quiet", "-threads", "1", *file.command_args, *place]
    words += ["-i", file.url, "-map", "0:a:0", "-vn", "-sn", "-dn"]
    words += ["-ac", str(channels), "-ar", str(rate), "-f", "f32le", "pipe:1"]
    size = 4 * channels
    held, early, whole = bytearray(), (start_sample - entry) * size, MAX_BLOCK_SAMPLES * size
    with closing(read_program_output(words)) as given:
        for piece in given:
            held += piece[early:]
            early = max(early - len(piece), 0)
            while len(held) >= whole:
                yield _bytes_to_waveform(held[:whole], channels)
                del held[:whole]
    yield _bytes_to_waveform(held[: len(held) - len(held) % size], channels)


def _bytes_to_waveform(data: bytearray, num_channels: int) -> Waveform:
    """Samples as they come through the pipe -> (samples, channels)."""
    return np.frombuffer(data, "<f4").reshape(-1, num_channels)


def read_program_output(
    command: list[str], *, timeout_seconds: float = FFMPEG_TIMEOUT_SECONDS
) -> Generator[bytes, None, None]:
    """What a program writes, until it ends or nobody asks any more; a silent one is ended."""
    with (
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program,
        selectors.DefaultSelector() as ready,
    ):
        try:
            if program.stdout is None:  # it was asked for, so it is there
                return
            pipe = ready.register(program.stdout, selectors.EVENT_READ).fd
            while ready.select(timeout_seconds):
                piece = os.read(pipe, PIPE_CHUNK_BYTES)
                if not piece:
                    return
                yield piece
            raise _make_timeout_error(command[0], timeout_seconds)
        finally:
            program.kill()


def _make_timeout_error(program: str, seconds: float) -> DataError:
    what = f"{program} has said nothing for {seconds:g} s and was ended"
    return DataError(what, hint="convert it to wav by hand, or leave it out")


def _parse_ffprobe_duration(value: object) -> float:
    """`3.5`, or `00:00:03.5` as a tag has it; 0 where it is not said."""
    if not isinstance(value, str) or not FFPROBE_DURATION_RE.fullmatch(value):
        return 0.0
    seconds = 0.0
    for part in value.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
