"""The bytes of a recording as they lie on disk, and which files are never opened.

    Sound            a regular file with something in it         -> the file
    Sound, inside    so many bytes of one, which is an archive   -> a Window on it

Pipes, sockets, devices and directories are refused before they are opened, so nothing hangs.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from dlm.clips.clip import Sound
from dlm.errors import ClipError

UNREADABLE = "allow it to be read, or name another file"


class Window:
    """A part of an open file, as a file of its own. It reads and seeks, and never raises.

    What could not be read is in `failed`: a decoder that asks through C cannot be told otherwise.
    """

    def __init__(self, file: io.FileIO, first: int, size: int) -> None:
        self._file, self._first, self._size, self._at = file, first, size, 0
        self.failed: OSError | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place within; a place before the beginning is the beginning."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def read(self, count: int) -> bytes:
        """Up to so many bytes."""
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the buffer as far as the window reaches."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(self._size - self._at, 0))
        try:
            self._file.seek(self._first + self._at)
            count = self._file.readinto(view[:wanted]) or 0
        except OSError as error:
            self.failed, count = error, 0
        self._at += count
        return count


Bytes: TypeAlias = io.FileIO | Window


@contextmanager
def opened(sound: Sound) -> Iterator[Bytes]:
    """The bytes of the recording, unbuffered."""
    missing, path = f"audio not found: {sound.name}", sound.path
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(status.st_mode, sound.name)
        if status.st_size == 0:
            raise empty(sound.name, "the file is empty (0 bytes)")
        _refuse_beyond(sound, status.st_size)
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        mend = "put the file there or mend the path"
        raise ClipError(missing, mend=_of_link(path) or mend) from error
    except OSError as error:
        raise unreadable(sound.name, error) from error
    except ValueError as error:  # a null byte in the path
        raise ClipError(missing, mend="mend the path") from error
    with file:
        yield file if sound.inside is None else Window(file, *sound.inside)


def unreadable(name: str, error: OSError) -> ClipError:
    """Why a file that is there cannot be read."""
    what = f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
    return ClipError(what, where=name, mend=UNREADABLE)


def empty(name: str, what: str) -> ClipError:
    """Why a recording without sound is refused."""
    return ClipError(what, where=name, mend="record it again or take the clip out")


def _refuse_beyond(sound: Sound, size: int) -> None:
    """A part of an archive lies within it."""
    if sound.inside is None:
        return
    first, count = sound.inside
    if count == 0:
        raise empty(sound.name, "it is empty (0 bytes)")
    if not 0 <= first < first + count <= size:
        what = f"its bytes {first} to {first + count} lie outside {sound.path.name}, which has"
        mend = "copy the archive again: it is cut short or was changed"
        raise ClipError(f"{what} {size}", where=sound.name, mend=mend)


def _of_link(path: Path) -> str | None:
    return "the link leads nowhere: mend it" if path.is_symlink() else None


def _not_a_file(mode: int, name: str) -> ClipError:
    if stat.S_ISDIR(mode):
        mend = "name a file in it, or list it under training.sources"
        return ClipError("it is a directory, not a recording", where=name, mend=mend)
    what = "it is not a regular file (a pipe, a socket or a device)"
    return ClipError(what, where=name, mend="save the recording in a file first")
