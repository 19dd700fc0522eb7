"""Opening the bytes of a recording: regular files and byte ranges of archives, nothing else.

    AudioSegment                  a regular file that is not empty   -> the file
    AudioSegment with byte_range  some bytes of an archive           -> FileSlice

Pipes, sockets, devices and directories are refused before they are opened, so nothing hangs. The
records a decoder gives (AudioInfo, AudioReader) and the errors all decoders share are here too.
"""

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dlm.data.types import AudioSegment
from dlm.errors import AudioError

Waveform: TypeAlias = NDArray[np.float32]

MAX_BLOCK_SAMPLES = 1 << 16  # per channel: what is held at once while a recording is read
CUT_SHORT_HINT = "copy it again, or save what is left with `ffmpeg -i in.wav out.wav`"
UNREADABLE_FILE_HINT = "allow it to be read, or name another file"


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says.

    Attributes:
        sample_rate: in Hz.
        num_channels: channels, before they are mixed to mono.
        num_samples: samples per channel.
    """

    sample_rate: int
    num_channels: int
    num_samples: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class AudioReader:
    """A recording opened by a decoder.

    Attributes:
        info: what the header says.
        max_missing_samples: how many samples fewer than `info` says there may be.
        read_blocks: first sample, number of samples -> blocks (samples, channels), maybe fewer.
    """

    info: AudioInfo
    max_missing_samples: int
    read_blocks: Callable[[int, int], Iterator[Waveform]]


class FileSlice:
    """Some bytes of an open file, as a file of its own. Its methods never raise.

    A decoder that reads through C cannot pass an exception on, so `read_error` holds it. `prefix`
    comes before those bytes: a header in place of one that is wrong.
    """

    def __init__(self, file: io.FileIO, offset: int, size: int, prefix: bytes = b"") -> None:
        self._file, self._offset, self._prefix = file, offset, prefix
        self._size, self._position = len(prefix) + size, 0
        self.read_error: OSError | None = None

    def make_slice(self, offset: int, size: int, prefix: bytes) -> "FileSlice":
        """Return some bytes of this slice, which has no prefix, as another slice."""
        return FileSlice(self._file, self._offset + offset, size, prefix)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position of the slice; before its beginning is its beginning."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def read(self, num_bytes: int) -> bytes:
        """Read up to `num_bytes`."""
        buffer = bytearray(num_bytes)
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the buffer as far as the slice reaches; the number of bytes."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        if from_prefix := self._prefix[self._position :][:wanted]:
            view[: len(from_prefix)] = from_prefix
            self._position += len(from_prefix)
            return len(from_prefix) + self.readinto(view[len(from_prefix) : wanted])
        try:
            self._file.seek(self._offset + self._position - len(self._prefix))
            num_bytes = self._file.readinto(view[:wanted]) or 0
        except OSError as error:
            self.read_error, num_bytes = error, 0
        self._position += num_bytes
        return num_bytes


BinaryFile: TypeAlias = io.FileIO | FileSlice


@contextmanager
def open_recording(segment: AudioSegment) -> Iterator[BinaryFile]:
    """Open the bytes of a segment's recording, unbuffered.

    Raises:
        AudioError: it is missing, unreadable, empty, no regular file, or outside its archive.
    """
    path = segment.path
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _make_not_a_file_error(status.st_mode, segment.name)
        if status.st_size == 0:
            raise make_empty_audio_error(segment.name, "the file is empty (0 bytes)")
        _check_byte_range(segment, status.st_size)
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "put the file there or correct the path"
        hint = "the link leads nowhere: correct it" if path.is_symlink() else hint
        raise _make_not_found_error(segment.name, hint) from error
    except OSError as error:
        raise make_unreadable_audio_error(segment.name, error) from error
    except ValueError as error:  # a null byte in the path
        raise _make_not_found_error(segment.name, "correct the path") from error
    with file:
        yield file if segment.byte_range is None else FileSlice(file, *segment.byte_range)


def _check_byte_range(segment: AudioSegment, file_size: int) -> None:
    if segment.byte_range is None:
        return
    offset, num_bytes = segment.byte_range
    if num_bytes == 0:
        raise make_empty_audio_error(segment.name, "it is empty (0 bytes)")
    if not 0 <= offset < offset + num_bytes <= file_size:
        what = f"its bytes {offset} to {offset + num_bytes} lie outside {segment.path.name}"
        raise AudioError(
            f"{what}, which has {file_size}",
            where=segment.name,
            hint="copy the archive again: it is cut short or was changed",
            code="audio.outside_archive",
        )


def _make_not_found_error(name: str, hint: str) -> AudioError:
    return AudioError(f"audio not found: {name}", hint=hint, code="audio.not_found")


def _make_not_a_file_error(mode: int, name: str) -> AudioError:
    what = "it is not a regular file (a pipe, a socket or a device)"
    hint = "save the recording in a file first"
    if stat.S_ISDIR(mode):
        what = "it is a directory, not a recording"
        hint = "name a file in it, or list it under training.sources"
    return AudioError(what, where=name, hint=hint, code="audio.not_a_file")


def make_unreadable_audio_error(name: str, error: OSError) -> AudioError:
    """Make the error of a file that exists and cannot be read."""
    what = f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
    return AudioError(what, where=name, hint=UNREADABLE_FILE_HINT, code="audio.unreadable")


def make_empty_audio_error(name: str, what: str) -> AudioError:
    """Make the error of a recording that holds no audio."""
    hint = "record it again or take the clip out"
    return AudioError(what, where=name, hint=hint, code="audio.empty")


def make_truncated_audio_error(name: str, expected: str, available: str) -> AudioError:
    """Make the error of a recording that holds less than its header says."""
    what = f"it is cut short: its header promises {expected}, the file holds {available}"
    return AudioError(what, where=name, hint=CUT_SHORT_HINT, code="audio.truncated")


def make_damaged_audio_error(name: str) -> AudioError:
    """Make the error of a recording whose samples cannot be decoded."""
    what = "it is damaged or cut short"
    return AudioError(what, where=name, hint=CUT_SHORT_HINT, code="audio.damaged")


def make_mixed_streams_error(name: str, what: str) -> AudioError:
    """Make the error of a file of several recordings that cannot be read as one."""
    hint = "decode each of them on its own, and make a file of each"
    return AudioError(what, where=name, hint=hint, code="audio.mixed_streams")
