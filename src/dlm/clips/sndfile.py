"""What libsndfile reads: wav, flac, ogg, mp3, opus, aiff, au, caf and more of that kind.

All that the program knows of soundfile stands here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import soundfile

from dlm.clips.disk import Bytes, Window, unreadable
from dlm.clips.reader import BLOCK_SAMPLES, Header, Reader, Wave, cut_short, damaged
from dlm.errors import ClipError

LIBRARY = f"libsndfile {soundfile.__libsndfile_version__}"
STREAMED_BYTES = 0x7FFFF000  # a wav written to a pipe promises this much or more
LENGTH_UNKNOWN = 1 << 62  # samples; a flac written to a pipe does not say how long it is
MP3_SLACK_SAMPLES = 2304  # two frames: headers of mp3 files are that vague

# How the chunks of a file are written: first bytes, what follows their size, byte order, the sound.
CHUNKS: tuple[tuple[bytes, tuple[bytes, ...], Literal["little", "big"], bytes], ...] = (
    (b"RIFF", (b"WAVE",), "little", b"data"),
    (b"FORM", (b"AIFF", b"AIFC"), "big", b"SSND"),
)


@contextmanager
def sndfile(file: Bytes, name: str) -> Iterator[Reader | None]:
    """The recording in `file`, or None where libsndfile knows none."""
    try:
        _refuse_cut(file, name)
        given = file if isinstance(file, Window) else file.fileno()
        recording = soundfile.SoundFile(given, closefd=False)
    except soundfile.SoundFileError:
        recording = None
    except OSError as error:
        raise unreadable(name, error) from error
    if recording is None:
        yield None
        return
    with recording:
        header = Header(recording.samplerate, recording.channels, recording.frames)
        if header.samples >= LENGTH_UNKNOWN:
            mend = "convert it with `ffmpeg -i in.flac out.flac`"
            raise ClipError("its header does not say how long it is", where=name, mend=mend)
        vague = recording.subtype.startswith("MPEG")
        slack = header.rate if vague and recording.format != "MP3" else vague * MP3_SLACK_SAMPLES

        def read(first: int, samples: int) -> Iterator[Wave]:
            return _blocks(recording, first, samples, name=name)

        yield Reader(header, slack, read)


def _refuse_cut(file: Bytes, name: str) -> None:
    """Compare what is promised with what is there: libsndfile plays what is left, in silence."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12) or b""
    for first, kinds, order, sound in CHUNKS:
        while head[:4] == first and head[8:12] in kinds:
            chunk = file.read(8) or b""
            promised, left = int.from_bytes(chunk[4:], order), size - file.tell()
            if len(chunk) == 8 and chunk[:4] == sound and left < promised < STREAMED_BYTES:
                raise cut_short(name, f"{promised} bytes of sound", f"{left}")
            if promised >= left or chunk[:4] == sound:
                break
            file.seek(promised + promised % 2, 1)
    file.seek(0)


def _blocks(
    recording: soundfile.SoundFile, first: int, samples: int, *, name: str
) -> Iterator[Wave]:
    """Up to `samples` from `first` on."""
    try:
        _go_to(recording, first)
        while samples > 0:
            wanted = min(BLOCK_SAMPLES, samples)
            block: Wave = recording.read(wanted, dtype="float32", always_2d=True)
            yield block
            if len(block) < wanted:
                return
            samples -= wanted
    except (soundfile.SoundFileError, OSError) as error:
        raise damaged(name) from error


def _go_to(recording: soundfile.SoundFile, first: int) -> None:
    """Seek, with a second of run-up: mp3 and opus need what came before to decode exactly."""
    if first == 0:
        return
    exact = recording.format not in ("MP3", "OGG")
    entry = first if exact else max(0, first - recording.samplerate)
    recording.seek(entry)
    if entry < first:
        recording.read(first - entry, dtype="float32")
