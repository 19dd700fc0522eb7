"""The two decoders: libsndfile (wav, flac, ogg, opus, mp3), and PyAV (m4a, mp4, webm, mkv, wma).

    first bytes -> libsndfile knows them   -> AudioReader
                -> container -> PyAV       -> AudioReader

The first bytes of a file decide, never its suffix. PyAV gets the name of the container, and reads
the open file alone: no other file, playlist or network address is ever opened.

A span holds the same samples as that part of the whole. Where a container gives exact times, a late
span is found by seeking; in Matroska, whose times are whole milliseconds, by counting frames of
equal size; in the others by decoding from the beginning.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING

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
    make_mixed_streams_error,
    make_unreadable_audio_error,
)
from dlm.data.audio_headers import find_parts, has_another_flac
from dlm.errors import AudioError

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

LIBSNDFILE_VERSION = f"libsndfile {soundfile.__libsndfile_version__}"
UNKNOWN_LENGTH_SAMPLES = 1 << 62  # a flac written to a pipe does not say how long it is
MAX_MISSING_MP3_SAMPLES = 2304  # two frames: headers of mp3 files are that vague

PREROLL_SECONDS = 2  # decoded before a span: most codecs need earlier frames to decode exactly
MIN_SEEK_SECONDS = 30  # a span that begins earlier is found by decoding from the beginning
MAX_MISSING_SECONDS = 0.1  # a few frames of a codec

# FFmpeg's name of a container, and the bytes it begins with, by offset.
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
# containers that say how long they last; the others are decoded to count their samples
CONTAINERS_WITH_DURATION = frozenset("mov matroska ogg caf aiff ape wv".split())
# containers in which a sample is found without decoding all before it
SEEKABLE_CONTAINERS = CONTAINERS_WITH_DURATION | {"aac", "mpegts", "mpeg"}
PYAV_INSTALL_HINT = "pip install av"
FIXED_FRAME_CODECS = frozenset("opus aac mp3 mp2 ac3 flac alac".split())  # frames of equal size


@contextmanager
def open_with_soundfile(file: BinaryFile, name: str) -> Iterator[AudioReader | None]:
    """Open a recording with libsndfile; yields None where it is of no format of libsndfile.

    Raises:
        AudioError: it is cut short, its length is unknown, or it cannot be read.
    """
    with ExitStack() as stack:
        parts: list[soundfile.SoundFile] = []
        try:
            sources = find_parts(file, name)
            for source in sources:
                opened = source if isinstance(source, FileSlice) else source.fileno()
                parts.append(stack.enter_context(soundfile.SoundFile(opened, closefd=False)))
        except soundfile.SoundFileError:
            if len(sources) > 1:
                what = "streams that libsndfile does not read follow each other in it"
                raise make_mixed_streams_error(name, what) from None
        except OSError as error:
            raise make_unreadable_audio_error(name, error) from error
        if not parts:
            yield None
            return
        sound_file = parts[0]
        for part in parts[1:]:
            if (part.samplerate, part.channels) != (sound_file.samplerate, sound_file.channels):
                what = "streams of other sample rates or channels follow each other in it"
                raise make_mixed_streams_error(name, what)
        num_samples = sum(part.frames for part in parts)
        info = AudioInfo(sound_file.samplerate, sound_file.channels, num_samples)
        if info.num_samples >= UNKNOWN_LENGTH_SAMPLES:
            raise AudioError(
                "its header does not give its length",
                where=name,
                hint="convert it with `ffmpeg -i in.flac out.flac`",
                code="audio.unknown_length",
            )
        max_missing = 0
        if sound_file.subtype.startswith("MPEG"):
            is_mp3 = sound_file.format == "MP3"
            max_missing = MAX_MISSING_MP3_SAMPLES if is_mp3 else info.sample_rate
        yield AudioReader(info, max_missing, partial(_read_parts, file, parts, name))


def _read_parts(
    file: BinaryFile,
    parts: Sequence[soundfile.SoundFile],
    name: str,
    start_sample: int,
    num_samples: int,
) -> Iterator[Waveform]:
    """Up to `num_samples` from `start_sample` on, of recordings one after the other."""
    for part in parts:
        wanted = min(num_samples, part.frames - start_sample)
        if wanted > 0:
            yield from _read_soundfile_blocks(part, name, start_sample, wanted)
            num_samples -= wanted
            is_whole = start_sample == 0 and wanted == part.frames
            if part.format == "FLAC" and is_whole and has_another_flac(file):
                raise make_mixed_streams_error(name, "another flac follows in it")
        start_sample = max(start_sample - part.frames, 0)


def _read_soundfile_blocks(
    sound_file: soundfile.SoundFile, name: str, start_sample: int, num_samples: int
) -> Iterator[Waveform]:
    """Up to `num_samples` from `start_sample` on."""
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
    """Seek; mp3 and opus need a second of earlier audio to decode exactly."""
    if start_sample == 0:
        return
    is_exact = sound_file.format not in ("MP3", "OGG")
    entry = start_sample if is_exact else max(0, start_sample - sound_file.samplerate)
    sound_file.seek(entry)
    if entry < start_sample:
        sound_file.read(start_sample - entry, dtype="float32")


def detect_container(first_bytes: bytes) -> str | None:
    """Return FFmpeg's name of the container that begins with these bytes; None for another file."""
    for container, signature in CONTAINER_SIGNATURES:
        if all(first_bytes[offset:].startswith(mark) for offset, mark in signature):
            return container
    return None


@lru_cache
def is_pyav_installed() -> bool:
    """Return whether PyAV is installed, without importing it."""
    return find_spec("av") is not None


def get_decoder_versions() -> str:
    """Return the decoders that are installed, with their versions."""
    pyav = f", PyAV {version('av')}" if is_pyav_installed() else ""
    return f"{LIBSNDFILE_VERSION}{pyav}"


@contextmanager
def open_with_pyav(
    file: BinaryFile, container_format: str, name: str, num_samples: int | None = None
) -> Iterator[AudioReader]:
    """Open the first audio stream of a container with PyAV.

    Args:
        file: the open recording.
        container_format: FFmpeg's name of the container.
        name: of the recording, for errors.
        num_samples: its length per channel where that is known already.

    Raises:
        AudioError: PyAV is not installed (`extra.missing`), there is no audio in it
            (`audio.no_audio_stream`), or it cannot be decoded (`audio.damaged`).
    """
    if not is_pyav_installed():
        raise AudioError(
            f"it is a recording ({container_format}) that PyAV reads, and PyAV is not installed",
            where=name,
            hint=PYAV_INSTALL_HINT,
            code="extra.missing",
        )
    decoder = _PyAvDecoder(file, container_format, name)
    info = decoder.read_info(num_samples)
    max_missing = round(MAX_MISSING_SECONDS * info.sample_rate)
    yield AudioReader(info, max_missing, partial(decoder.read_blocks, info))


class _PyAvDecoder:
    """The first audio stream of an open container file; every pass opens the container again."""

    def __init__(self, file: BinaryFile, container_format: str, name: str) -> None:
        # FFmpeg seeks before the beginning of damaged files, which a file does not allow
        if not isinstance(file, FileSlice):
            file = FileSlice(file, 0, file.seek(0, 2))
        self._file = file
        self._container_format, self._name = container_format, name

    def read_info(self, num_samples: int | None) -> AudioInfo:
        """Read rate, channels and length from the header; without a length, count the samples."""
        with self._open_stream() as (_, stream):
            context = stream.codec_context
            rate, num_channels = context.sample_rate or 0, context.channels
            if rate <= 0 or num_channels <= 0:
                raise self._make_no_stream_error()
            seconds = 0.0
            if self._container_format in CONTAINERS_WITH_DURATION:
                seconds = _get_stream_seconds(stream)
        num_samples = round(seconds * rate) or num_samples
        if not num_samples:
            blocks = self._decode_from_beginning(AudioInfo(rate, num_channels, 0))
            num_samples = sum(len(block) for block in blocks)
        return AudioInfo(rate, num_channels, num_samples)

    def read_blocks(
        self, info: AudioInfo, start_sample: int, num_samples: int
    ) -> Iterator[Waveform]:
        """Up to `num_samples` from `start_sample` on: (samples, channels)."""
        if (
            start_sample >= MIN_SEEK_SECONDS * info.sample_rate
            and self._container_format in SEEKABLE_CONTAINERS
        ):
            with self._open_stream() as (container, stream):
                target = start_sample - PREROLL_SECONDS * info.sample_rate
                position = self._seek(container, stream, target, info.sample_rate)
                if position is not None and position <= start_sample:
                    blocks = self._decode_blocks(container, stream, info)
                    yield from _cut_blocks(blocks, start_sample - position, num_samples)
                    return
        yield from _cut_blocks(self._decode_from_beginning(info), start_sample, num_samples)

    def _decode_from_beginning(self, info: AudioInfo) -> Iterator[Waveform]:
        with self._open_stream() as (container, stream):
            yield from self._decode_blocks(container, stream, info)

    def _decode_blocks(
        self, container: "InputContainer", stream: "AudioStream", info: AudioInfo
    ) -> Iterator[Waveform]:
        expected_format = (info.sample_rate, info.num_channels)
        for frame in self._decode_frames(container, stream):
            if (frame.sample_rate, frame.layout.nb_channels) != expected_format:
                raise make_damaged_audio_error(self._name)
            yield _frame_to_waveform(frame)

    def _decode_frames(
        self, container: "InputContainer", stream: "AudioStream"
    ) -> "Iterator[AudioFrame]":
        """The frames from here to the end; a last packet that is cut off is left out."""
        import av

        has_bad_packet = False
        with suppress(IndexError):  # after the last packet, for a stream that PyAV saw too late
            for packet in container.demux(stream):
                if has_bad_packet and packet.size:  # the last one has no bytes
                    raise make_damaged_audio_error(self._name)
                try:
                    yield from packet.decode()
                except av.InvalidDataError:
                    has_bad_packet = True

    def _seek(
        self, container: "InputContainer", stream: "AudioStream", target_sample: int, rate: int
    ) -> int | None:
        """Seek to or before a sample, and return the position; None where it cannot be exact."""
        first_frames = list(islice(self._decode_frames(container, stream), 2))
        if len(first_frames) < 2 or first_frames[0].pts is None or stream.time_base is None:
            return None
        first_pts, first_size = first_frames[0].pts, first_frames[0].samples
        target_pts = first_pts + int(target_sample / rate / stream.time_base)
        container.seek(target_pts, stream=stream)
        frame = next(self._decode_frames(container, stream), None)
        if frame is None or frame.pts is None:
            return None
        position = round((frame.pts - first_pts) * stream.time_base * rate)
        max_error = stream.time_base * rate
        if max_error > 1:  # times are rounded: count frames of equal size
            frame_size = first_frames[1].samples
            exact = first_size + round((position - first_size) / frame_size) * frame_size
            if (
                stream.codec_context.name not in FIXED_FRAME_CODECS
                or frame.samples != frame_size
                or abs(position - exact) > max_error
            ):
                return None
            position = exact
        container.seek(target_pts, stream=stream)
        return position

    @contextmanager
    def _open_stream(self) -> "Iterator[tuple[InputContainer, AudioStream]]":
        """Open the container, with what FFmpeg says of it as an AudioError."""
        import av

        self._file.seek(0)
        try:
            with av.open(
                self._file,
                mode="r",
                format=self._container_format,
                options={"protocol_whitelist": "none"},
                metadata_errors="replace",
            ) as container:
                stream = next(iter(container.streams.audio), None)
                if stream is None or stream.codec_context is None:
                    raise self._make_no_stream_error()
                stream.codec_context.thread_count = 1
                yield container, stream
        except av.FFmpegError as error:
            if self._file.read_error:
                raise make_unreadable_audio_error(self._name, self._file.read_error) from error
            raise AudioError(
                f"PyAV cannot decode it ({(error.strerror or 'no reason given').lower()})",
                where=self._name,
                hint="copy it again: it may be damaged or cut short",
                code="audio.damaged",
            ) from error

    def _make_no_stream_error(self) -> AudioError:
        return AudioError(
            "there is no audio in it",
            where=self._name,
            hint="name a recording, or leave it out",
            code="audio.no_audio_stream",
        )


def _get_stream_seconds(stream: "AudioStream") -> float:
    """The length a header gives: of the stream, or in Matroska as a tag; 0 where there is none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    seconds = 0.0
    for number in stream.metadata.get("DURATION", "").split(":"):  # 00:00:03.5
        if not number.replace(".", "", 1).isdigit():
            return 0.0
        seconds = 60 * seconds + float(number)
    start = stream.start_time * stream.time_base if stream.start_time and stream.time_base else 0
    return max(seconds - float(start), 0.0)


def _cut_blocks(
    blocks: Iterator[Waveform], num_skipped: int, num_samples: int
) -> Iterator[Waveform]:
    """Leave out samples at the beginning, and stop after `num_samples`."""
    for block in blocks:
        part = block[num_skipped:][:num_samples]
        num_skipped = max(num_skipped - len(block), 0)
        num_samples -= len(part)
        yield part
        if num_samples <= 0:
            return


def _frame_to_waveform(frame: "AudioFrame") -> Waveform:
    """The samples of a decoded frame between -1 and 1: (samples, channels)."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    waveform: Waveform = values.astype(np.float32)
    if values.dtype.kind == "u":
        waveform -= 128
    if values.dtype.kind in "iu":
        waveform /= 1 << (8 * values.dtype.itemsize - 1)
    return waveform
