"""Files on disk: atomic writes, fsync, sha256 of files and folders, the lock file, disk usage.

    write_atomic   .pending-<pid>-<n>  ->  fsync  ->  rename to <name>  ->  fsync of the folder

A name that begins with `.pending-<pid>` is an unfinished file or folder of the process `<pid>`.
What is private is for its owner alone: folders have the mode 0700, files 0600.
Every OSError while writing becomes a StoreError of one line, a full disk with a hint of its own.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from errno import EDQUOT, EFBIG, EINVAL, ENOSPC
from pathlib import Path

from dlm.errors import StoreError

PENDING_PREFIX = ".pending-"
PENDING_NAME_RE = re.compile(r"\.pending-([0-9]+)(?:-[0-9]+)?")
DISK_FULL_MESSAGES = {
    ENOSPC: "the disk is full",
    EDQUOT: "the disk quota is used up",
    EFBIG: "the file is larger than this disk or its limit allows",
}
# errors of safetensors and shutil have errno only in their message, those of torch and numpy none
ERRNO_RE = re.compile(r"(?:os error|Errno) (\d+)")
SHORT_WRITE_RE = re.compile(r"inline_container|requested and \d+ written")
DISK_FULL_HINT = "free some space, or set DLM_HOME to a folder on a larger disk"
WRITE_DENIED_HINT = "check that you may write there, or set DLM_HOME to another folder"
PRIVATE_FOLDER_MODE, PRIVATE_FILE_MODE = 0o700, 0o600
COPY_CHUNK_BYTES = 1 << 20
LOCK_TIMEOUT_SECONDS = 0.5  # reading commands hold the lock for less
LOCK_POLL_SECONDS = 0.02

_temp_name_counter = itertools.count()


def write_atomic(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Write a file so that readers find the old bytes or the new ones, never a part of them.

    Args:
        path: keeps its mode where it is there.
        data: all of the file.
        private: only its owner may read it, and the folders that are made for it.

    Raises:
        StoreError: `store.not_writable`, `store.disk_full`; the old bytes stay.
    """
    pending = make_temp_path(path.parent)
    try:
        with wrap_write_errors(path):
            make_folder(path.parent, private=private)
            with pending.open("xb") as file:
                if private:
                    os.fchmod(file.fileno(), PRIVATE_FILE_MODE)
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            if path.is_file() and not private:
                pending.chmod(stat.S_IMODE(path.stat().st_mode))
            pending.replace(path)
            fsync_path(path.parent)
    finally:
        remove_path(pending)


def read_regular_file(path: Path) -> bytes:
    """Read a file that a stranger wrote: a pipe in its place would be waited for without end.

    Raises:
        OSError: it cannot be read, or is a pipe, a socket or a device.
    """
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise OSError(EINVAL, "it is not a regular file", str(path))
    return path.read_bytes()


def copy_with_sha256(read_fn: Callable[[int], bytes | None], destination: Path) -> str:
    """Copy an open file to a new private one in chunks, and return the sha256 of the copy.

    Args:
        read_fn: reads up to so many bytes; none at the end.
        destination: the new file.

    Raises:
        StoreError: `store.not_writable`, `store.disk_full`.
    """
    digest = hashlib.sha256()
    with wrap_write_errors(destination.parent), destination.open("xb") as target:
        os.fchmod(target.fileno(), PRIVATE_FILE_MODE)
        while chunk := read_fn(COPY_CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def make_temp_path(folder: Path) -> Path:
    """Return a path in `folder` that no other process or thread uses."""
    return folder / f"{PENDING_PREFIX}{os.getpid()}-{next(_temp_name_counter)}"


def find_stale_temp_files(folder: Path) -> Iterator[Path]:
    """Yield unfinished files and folders in `folder` whose process has ended."""
    for path in sorted(folder.glob(f"{PENDING_PREFIX}*")):
        match = PENDING_NAME_RE.fullmatch(path.name)  # nothing else that is named alike
        if match and not _is_process_alive(match[1]):
            yield path


def remove_stale_temp_files(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder; errors are ignored."""
    with suppress(OSError):
        for path in find_stale_temp_files(folder):
            remove_path(path)


def find_stale_cache_files(folder: Path) -> Iterator[Path]:
    """Yield unfinished cache files, `<name>.<pid>.pending`, whose process has ended."""
    for path in folder.glob("*.pending"):
        if not _is_process_alive(path.stem.rpartition(".")[2]):
            yield path


def _is_process_alive(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove_path(path: Path) -> None:
    """Remove a file, link or folder, if it exists; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Raise an OSError in the block as a StoreError about `path`.

    Raises:
        StoreError: `store.disk_full`, or `store.not_writable` for any other reason.
    """
    try:
        yield
    except OSError as error:
        denied = StoreError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint=WRITE_DENIED_HINT,
            code="store.not_writable",
        )
        raise to_disk_full_error(error, path) or denied from error


def to_disk_full_error(error: Exception, path: Path) -> StoreError | None:
    """Return the error for a disk without space (`store.disk_full`), or None for another cause."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := ERRNO_RE.search(str(error))):
        number = int(match[1])
    if number is None and SHORT_WRITE_RE.search(str(error)):
        number = ENOSPC
    if number not in DISK_FULL_MESSAGES:
        return None
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    return StoreError(
        f"{DISK_FULL_MESSAGES[number]} ({free_bytes:,} bytes free)",
        where=str(path),
        hint=DISK_FULL_HINT,
        code="store.disk_full",
    )


def make_folder(path: Path, *, private: bool = False) -> None:
    """Make a folder and its parents, each synced to disk."""
    if not path.is_dir():
        make_folder(path.parent, private=private)
        path.mkdir(PRIVATE_FOLDER_MODE if private else 0o777, exist_ok=True)
        fsync_path(path.parent)


def set_tree_modes(folder: Path, *, private: bool) -> None:
    """Give a folder and all in it one mode: for its owner alone, or what the umask says.

    Libraries that write weights choose modes of their own.
    """
    denied = 0o077 if private else _get_umask()
    with wrap_write_errors(folder):
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod((0o777 if path.is_dir() else 0o666) & ~denied)


def _get_umask() -> int:
    umask = os.umask(0o077)  # it cannot be read otherwise
    os.umask(umask)
    return umask


def fsync_path(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Sync every file and folder under `folder` to disk."""
    with wrap_write_errors(folder):
        for path in sorted(folder.rglob("*"), reverse=True):
            fsync_path(path)
        fsync_path(folder)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file under `folder`, by its path relative to it.

    Raises:
        StoreError: a link lies there (`store.link`).
    """
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            hint = "put the file itself there"
            raise StoreError("is a link", where=str(path), hint=hint, code="store.link")
        if path.is_file():
            hashes[path.relative_to(folder).as_posix()] = sha256_file(path)
    return hashes


def get_disk_usage(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    num_bytes = 0 if path.is_dir() else path.lstat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):  # another process may write
                num_bytes += (Path(folder) / name).lstat().st_size
    return num_bytes


class FileLock:
    """A lock for one writer, held until `with` or the process ends; the holder may enter again.

    The kernel holds the lock (flock) and drops it when the process dies, even by SIGKILL. The file
    only says who holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._depth = 0

    def acquire(self) -> bool:
        """Take the lock, or return False where another process or object holds it."""
        if self._fd is None:
            self._fd = self._open_and_lock()
        if self._fd is not None:
            self._depth += 1
        return self._fd is not None

    def release(self) -> None:
        """Undo one `acquire`."""
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and self._fd is not None:
            os.ftruncate(self._fd, 0)
            self._close_fd()

    def __enter__(self) -> "FileLock":
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not self.acquire():
            if time.monotonic() > deadline:
                raise self._make_locked_error()
            time.sleep(LOCK_POLL_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _open_and_lock(self) -> int | None:
        with wrap_write_errors(self.path):
            make_folder(self.path.parent, private=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if isinstance(error, BlockingIOError):
                    return None
                raise
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(holder).encode(), 0)
        # a forked worker shares the lock and would hold it after this process has died
        os.register_at_fork(after_in_child=self._close_fd)
        return fd

    def _close_fd(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._depth = None, 0

    def _make_locked_error(self) -> StoreError:
        by, hint = "", "wait for it to end"
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is being written
            holder = json.loads(self.path.read_bytes())
            pid, host, since = holder["pid"], holder["host"], holder["since"]
            is_local = host == socket.gethostname()
            by = f" (pid {pid}{'' if is_local else f' on {host}'}, since {since})"
            hint += f", or stop it with `kill {pid}`{'' if is_local else ' there'}"
        what = f"another dlm{by} is training this document"
        return StoreError(what, hint=hint, code="store.locked")
