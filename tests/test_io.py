"""Files on disk: atomic writes, full disks, hashes of folders, unfinished files, the lock."""

import errno
import os
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.io import (
    FileLock,
    copy_with_sha256,
    find_stale_cache_files,
    find_stale_temp_files,
    fsync_tree,
    hash_tree,
    make_temp_path,
    sha256_file,
    to_disk_full_error,
    write_atomic,
)

WRITE_BEYOND_LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
from pathlib import Path
from dlm.errors import StoreError
from dlm.io import write_atomic
try:
    write_atomic(Path(sys.argv[1]), b"x" * 5_000)
except StoreError as error:
    print(error.code, error)
"""


def test_text_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, "höre")
    assert path.read_text(encoding="utf-8") == "höre"
    path.chmod(0o600)
    write_atomic(path, b"zu")
    assert path.read_bytes() == b"zu" and path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    command = [sys.executable, "-c", WRITE_BEYOND_LIMIT, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    message = f"{path}: the file is larger than this disk or its limit allows ("
    assert output.startswith(f"store.disk_full {message}")
    assert output.endswith("free some space, or set DLM_HOME to a folder on a larger disk")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        OSError("1000000 requested and 24968 written"),
    ],
    ids=["python", "safetensors", "torch", "numpy"],
)
def test_a_full_disk_is_recognized_in_the_errors_of_libraries(
    tmp_path: Path, error: Exception
) -> None:
    full = to_disk_full_error(error, tmp_path / "not" / "yet")
    assert full is not None and full.code == "store.disk_full"
    assert "the disk is full (" in str(full) and "bytes free)" in str(full)


def test_other_errors_are_not_a_full_disk(tmp_path: Path) -> None:
    assert to_disk_full_error(OSError(errno.EACCES, "Permission denied"), tmp_path) is None
    assert to_disk_full_error(RuntimeError("a tensor is lost"), tmp_path) is None


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"a\.txt: cannot be written: File exists;") as caught:
        write_atomic(tmp_path / "file" / "a.txt", "a")
    assert caught.value.code == "store.not_writable"


def test_a_file_is_copied_with_its_hash(tmp_path: Path) -> None:
    content = b"0123456789" * 300_000
    assert copy_with_sha256(BytesIO(content).read, tmp_path / "b") == sha256(content).hexdigest()
    assert (tmp_path / "b").read_bytes() == content
    with pytest.raises(StoreError) as caught:
        copy_with_sha256(BytesIO(content).read, tmp_path / "b")  # never written over
    assert caught.value.code == "store.not_writable"


def test_folders_are_hashed_by_relative_path_and_links_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.bin").write_bytes(b"c")
    (tmp_path / "a.bin").write_bytes(b"")
    fsync_tree(tmp_path)
    hash_of_c = sha256(b"c").hexdigest()
    assert hash_tree(tmp_path) == {"a.bin": sha256().hexdigest(), "b/c.bin": hash_of_c}
    assert sha256_file(tmp_path / "b" / "c.bin") == hash_of_c
    (tmp_path / "link").symlink_to(tmp_path / "a.bin")
    with pytest.raises(StoreError, match="link: is a link") as caught:
        hash_tree(tmp_path)
    assert caught.value.code == "store.link"


def test_unfinished_files_are_stale_once_their_process_has_ended(tmp_path: Path) -> None:
    make_temp_path(tmp_path).touch()
    (tmp_path / ".pending-999999999-0").touch()
    (tmp_path / ".pending-strange").touch()  # no name of ours: it may be somebody's
    assert [path.name for path in find_stale_temp_files(tmp_path)] == [".pending-999999999-0"]
    for pid in (os.getpid(), 999999999, -1):
        (tmp_path / f"key.safetensors.{pid}.pending").touch()
    assert {path.name for path in find_stale_cache_files(tmp_path)} == {
        "key.safetensors.999999999.pending",
        "key.safetensors.-1.pending",
    }


def test_a_lock_is_held_once_and_can_be_entered_twice(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock, other_lock = FileLock(path), FileLock(path)
    with lock, lock:
        assert not other_lock.acquire()
    with other_lock:
        assert not lock.acquire()
    assert lock.acquire() and not other_lock.acquire()
    lock.release()
    assert path.read_text() == ""


def test_a_lock_file_that_nobody_holds_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text('{"pid": 1, "host": "elsewhere", "since": "2001"}')
    with FileLock(path):
        assert f'"pid": {os.getpid()}' in path.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "^another dlm is training this document; wait for it to end$"),
        (
            '{"pid": 7, "host": "elsewhere", "since": "2001"}',
            r"^another dlm \(pid 7 on elsewhere, since 2001\) is .*`kill 7` there$",
        ),
    ],
    ids=["holder unknown", "holder on another machine"],
)
def test_a_held_lock_names_its_holder(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        path.write_text(content)
        with pytest.raises(StoreError, match=message) as caught:
            FileLock(path).__enter__()
    assert caught.value.code == "store.locked"


def test_a_forked_worker_does_not_hold_the_lock(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from dlm.io import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
if os.fork() == 0:
    os.close(1)
    time.sleep(20)
print("ready", flush=True)
time.sleep(20)
"""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        assert not FileLock(path).acquire()
        process.kill()
        process.wait()
        with FileLock(path):
            pass
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close() if process.stdout else None
