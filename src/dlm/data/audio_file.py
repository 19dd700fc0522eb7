"""A recording that was opened: what it says of itself, and its samples in blocks.

disk.opened -> bytes -> sndfile or ffmpeg -> Reader -> audio.listen

The bytes of a recording as they lie on disk, and which files are never opened.

    Sound            a regular file with something in it         -> the file
    Sound, inside    so many bytes of one, which is an archive   -> a Window on it

Pipes, sockets, devices and directories are refused before they are opened, so nothing hangs.
"""

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dlm.data.types import AudioSegment
from dlm.errors import DataError

Waveform: TypeAlias = NDArray[np.float32]

MAX_BLOCK_SAMPLES = 1 << 16  # per channel: what is held at once while a recording is read


@dataclass(frozen=True)
class AudioInfo:
    """What a recording says of itself. `samples` is per channel."""

    sample_rate: int
    num_channels: int
    num_samples: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class AudioReader:
    """`read` gives so many samples from the first that is wanted on, as blocks (samples, channels).

    It may give fewer: `slack` is how many samples the header may promise too much.
    """

    info: AudioInfo
    max_missing_samples: int
    read_blocks: Callable[[int, int], Iterator[Waveform]]


def make_truncated_audio_error(name: str, expected: str, available: str) -> DataError:
    """A recording with less in it than its header says."""
    what = f"it is cut short: its header promises {expected}, the file holds {available}"
    mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
    return DataError(what, where=name, hint=mend)


def make_damaged_audio_error(name: str) -> DataError:
    """A recording whose samples cannot be decoded."""
    mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
    return DataError("it is damaged or cut short", where=name, hint=mend)


UNREADABLE_FILE_HINT = "allow it to be read, or name another file"


class FileSlice:
    """A part of an open file, as a file of its own. It reads and seeks, and never raises.

    What could not be read is in `failed`: a decoder that asks through C cannot be told otherwise.
    """

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0
        self.read_error: OSError | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place within; a place before the beginning is the beginning."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def read(self, count: int) -> bytes:
        """Up to so many bytes."""
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the buffer as far as the window reaches."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(self._size - self._position, 0))
        try:
            self._file.seek(self._offset + self._position)
            count = self._file.readinto(view[:wanted]) or 0
        except OSError as error:
            self.read_error, count = error, 0
        self._position += count
        return count


BinaryFile: TypeAlias = io.FileIO | FileSlice


@contextmanager
def open_recording(segment: AudioSegment) -> Iterator[BinaryFile]:
    """The bytes of the recording, unbuffered."""
    missing, path = f"audio not found: {segment.name}", segment.path
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _make_not_a_file_error(status.st_mode, segment.name)
        if status.st_size == 0:
            raise make_empty_audio_error(segment.name, "the file is empty (0 bytes)")
        _check_byte_range(segment, status.st_size)
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        mend = "put the file there or mend the path"
        raise DataError(missing, hint=_get_broken_link_hint(path) or mend) from error
    except OSError as error:
        raise make_unreadable_audio_error(segment.name, error) from error
    except ValueError as error:  # a null byte in the path
        raise DataError(missing, hint="mend the path") from error
    with file:
        yield file if segment.byte_range is None else FileSlice(file, *segment.byte_range)


def make_unreadable_audio_error(name: str, error: OSError) -> DataError:
    """Why a file that is there cannot be read."""
    what = f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
    return DataError(what, where=name, hint=UNREADABLE_FILE_HINT)


def make_empty_audio_error(name: str, what: str) -> DataError:
    """Why a recording without sound is refused."""
    return DataError(what, where=name, hint="record it again or take the clip out")


def _check_byte_range(segment: AudioSegment, file_size: int) -> None:
    """A part of an archive lies within it."""
    if segment.byte_range is None:
        return
    first, count = segment.byte_range
    if count == 0:
        raise make_empty_audio_error(segment.name, "it is empty (0 bytes)")
    if not 0 <= first < first + count <= file_size:
        what = f"its bytes {first} to {first + count} lie outside {segment.path.name}, which has"
        mend = "copy the archive again: it is cut short or was changed"
        raise DataError(f"{what} {file_size}", where=segment.name, hint=mend)


def _get_broken_link_hint(path: Path) -> str | None:
    return "the link leads nowhere: mend it" if path.is_symlink() else None


def _make_not_a_file_error(mode: int, name: str) -> DataError:
    if stat.S_ISDIR(mode):
        mend = "name a file in it, or list it under training.sources"
        return DataError("it is a directory, not a recording", where=name, hint=mend)
    what = "it is not a regular file (a pipe, a socket or a device)"
    return DataError(what, where=name, hint="save the recording in a file first")
