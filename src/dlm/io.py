"""How bytes reach the disk whole: written beside, made durable, renamed into place, locked.

    write_atomic   .pending-<pid>-<n>  ->  fsync  ->  rename to <name>  ->  fsync of the folder

Whatever is named `.pending-<pid>...` is unfinished, and belongs to the process `<pid>`.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from types import TracebackType

from dlm.errors import StoreError

PENDING_PREFIX = ".pending-"
DISK_FULL_MESSAGES = {
    ENOSPC: "the disk is full",
    EDQUOT: "the disk quota is used up",
    EFBIG: "the file is larger than this disk or its limit allows",
}
ERRNO_RE = re.compile(r"(?:os error|Errno) (\d+)")  # safetensors and shutil keep errno in words
SHORT_WRITE_RE = re.compile(
    r"inline_container|requested and \d+ written"
)  # torch and numpy keep none
DISK_FULL_HINT = "free some space, or set DLM_HOME to a folder on a larger disk"
WRITE_DENIED_HINT = "check that you may write there, or set DLM_HOME to another folder"
COPY_CHUNK_BYTES = 1 << 20
LOCK_TIMEOUT_SECONDS = 0.5  # a passing reader repairs a store in less
LOCK_POLL_SECONDS = 0.02

_temp_name_counter = itertools.count()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Put `data` at `path`: readers find the old bytes or the new ones, never a part of them."""
    pending = make_temp_path(path.parent)
    try:
        with wrap_write_errors(path):
            make_folder(path.parent)
            with pending.open("xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            if path.is_file():
                pending.chmod(stat.S_IMODE(path.stat().st_mode))
            pending.replace(path)
            fsync_path(path.parent)
    finally:
        remove_path(pending)


def copy_with_sha256(
    path: Path, destination: Path, byte_range: tuple[int, int] | None = None
) -> str:
    """Copy the bytes at `path` to the new file `copy`, a few at a time; their sha256.

    Of those `inside`, first byte and bytes, nothing else is read.
    """
    digest = hashlib.sha256()
    first, left = byte_range or (0, None)
    try:
        source = path.open("rb")
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(path)) from error
    with source, wrap_write_errors(destination.parent), destination.open("xb") as target:
        source.seek(first)
        while chunk := source.read(
            COPY_CHUNK_BYTES if left is None else min(COPY_CHUNK_BYTES, left)
        ):
            digest.update(chunk)
            target.write(chunk)
            left = None if left is None else left - len(chunk)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def make_temp_path(folder: Path) -> Path:
    """A name in `folder` that no other process or thread uses."""
    return folder / f"{PENDING_PREFIX}{os.getpid()}-{next(_temp_name_counter)}"


def find_stale_temp_files(folder: Path) -> Iterator[Path]:
    """What processes that are gone left unfinished in `folder`."""
    for path in sorted(folder.glob(f"{PENDING_PREFIX}*")):
        owner = path.name.removeprefix(PENDING_PREFIX).split("-")[0]
        if not (owner.isdigit() and _is_process_alive(int(owner))):
            yield path


def find_stale_cache_files(folder: Path) -> Iterator[Path]:
    """Files `<name>.<pid>.pending` of processes that are gone."""
    for path in folder.glob("*.pending"):
        owner = path.stem.rpartition(".")[2]
        if not (owner.isdigit() and _is_process_alive(int(owner))):
            yield path


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Say in one line why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        denied = StoreError(
            f"cannot be written: {error.strerror or error}", where=str(path), hint=WRITE_DENIED_HINT
        )
        raise to_disk_full_error(error, path) or denied from error


def to_disk_full_error(error: Exception, path: Path) -> StoreError | None:
    """The one line for a disk without room, or None when `error` tells of something else."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := ERRNO_RE.search(str(error))):
        number = int(found[1])
    if number is None and SHORT_WRITE_RE.search(str(error)):
        number = ENOSPC
    if number not in DISK_FULL_MESSAGES:
        return None
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    return StoreError(
        f"{DISK_FULL_MESSAGES[number]} ({free:,} bytes free)", where=str(path), hint=DISK_FULL_HINT
    )


def make_folder(path: Path) -> None:
    """Make `path` and its parents, each of them durable."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Wait until this file, or the names in this folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Wait until every file and folder under `folder` is on the disk."""
    with wrap_write_errors(folder):
        for path in sorted(folder.rglob("*"), reverse=True):
            fsync_path(path)
        fsync_path(folder)


def sha256_file(path: Path) -> str:
    """The sha256 of the bytes at `path`, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_disk_usage(path: Path) -> int:
    """What a file, or all that is in a folder, takes on the disk."""
    size = 0 if path.is_dir() else path.lstat().st_size
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):  # a writer is at work
                size += (Path(folder) / name).lstat().st_size
    return size


def hash_tree(folder: Path) -> dict[str, str]:
    """The sha256 of every file under `folder`, by its path there. A link is refused."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError("is a link", where=str(path), hint="put the file itself there")
        if path.is_file():
            hashes[path.relative_to(folder).as_posix()] = sha256_file(path)
    return hashes


class FileLock:
    """One writer at a time, until `with` ends or the process does. Entering twice is allowed.

    The kernel holds the lock and drops it when its process dies, even by SIGKILL; the file only
    says who holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._depth = 0

    def acquire(self) -> bool:
        """Take the lock, or return False when another holds it."""
        if self._fd is None:
            self._fd = self._open_and_lock()
        if self._fd is not None:
            self._depth += 1
        return self._fd is not None

    def release(self) -> None:
        """Undo one `take`."""
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and self._fd is not None:
            os.ftruncate(self._fd, 0)
            self._close_fd()

    def __enter__(self) -> "FileLock":
        patience = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not self.acquire():
            if time.monotonic() > patience:
                raise self._make_held_error()
            time.sleep(LOCK_POLL_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _open_and_lock(self) -> int | None:
        with wrap_write_errors(self.path):
            make_folder(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                raise
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        # A forked worker shares the lock and would keep it after our death.
        os.register_at_fork(after_in_child=self._close_fd)
        return descriptor

    def _close_fd(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._depth = None, 0

    def _make_held_error(self) -> StoreError:
        try:
            holder = json.loads(self.path.read_bytes())
            pid, host, since = holder["pid"], holder["host"], holder["since"]
        except (OSError, ValueError, KeyError, TypeError):  # it is just being written
            return StoreError("another dlm is training this document", hint="wait for it to end")
        here = host == socket.gethostname()
        return StoreError(
            f"another dlm (pid {pid}{'' if here else f' on {host}'}, since {since}) "
            "is training this document",
            hint=f"wait for it to end, or stop it with `kill {pid}`{'' if here else ' there'}",
        )


def _is_process_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
