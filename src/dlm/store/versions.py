"""How a folder that someone else fills enters the store: whole, finite, or not at all.

    keep_state   state.new  ->  filled, synced;  state -> state.old;  state.new -> state

Between any two of these steps one complete state exists, and `state_repairs` finds it.

What was learned, kept for good: versions, the one in use, audio bytes, exports.

    commit   versions/.pending-<pid>  ->  filled, finite, hashed, synced
             ->  renamed to versions/v0002  ->  current.txt  ->  manifest.json

A version exists from the rename on, and carries its own record: `current.txt` and `manifest.json`
can be made anew from the versions, and opening the store does so when a kill left them behind.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dlm.errors import StoreError
from dlm.io import (
    PENDING_PREFIX,
    FileLock,
    copy_with_sha256,
    find_stale_temp_files,
    fsync_path,
    fsync_tree,
    get_disk_usage,
    hash_tree,
    make_folder,
    make_temp_path,
    remove_path,
    to_disk_full_error,
    wrap_write_errors,
    write_atomic,
)
from dlm.store.layout import StoreLayout, get_store_layout
from dlm.store.records import (
    EXPORT_TYPE_ADAPTER,
    RUN_TYPE_ADAPTER,
    VERSION_TYPE_ADAPTER,
    ExportInfo,
    Version,
    VersionRecord,
    dump_record_json,
    load_record_json,
)

WriteFn = Callable[[Path], None]

CHECKPOINT_INFO_FILE = "saved.json"
HEADER_LENGTH_BYTES = 8
FINITE_CHECK_CHUNK = 1 << 22  # values looked at together
NON_FINITE_BITS = {  # dtype: how its bits are read, and the bits that are all set in nan and inf
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "C64": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def write_dir(folder: Path, write_fn: WriteFn) -> None:
    """Let `fill` write into `folder`, empty; a full disk is said in one line."""
    remove_path(folder)
    with wrap_write_errors(folder):
        make_folder(folder)
    try:
        write_fn(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if full := to_disk_full_error(error, folder):
            raise full from error
        raise
    if not any(path.is_file() for path in folder.rglob("*")):
        raise StoreError("nothing was written to keep", where=str(folder), hint="train again")


def check_safetensors_finite(folder: Path) -> None:
    """Refuse a `.safetensors` file that holds nan or inf, by the name of the tensor."""
    for path in sorted(folder.rglob("*.safetensors")):
        for name, bits, mask in _iter_float_tensors(path):
            if not all(
                _all_finite(bits[at : at + FINITE_CHECK_CHUNK], mask)
                for at in range(0, len(bits), FINITE_CHECK_CHUNK)
            ):
                raise StoreError(
                    f"{path.name}: tensor {name!r} holds nan or inf, no version was made",
                    hint="lower training.learning_rate and train again",
                )


def save_checkpoint(run_dir: Path, write_fn: WriteFn, *, step: int) -> None:
    """Make what `write` writes the state of this run, in place of the one before."""
    for repair in iter_checkpoint_repairs(run_dir, unfinished=True):
        repair()
    new, state, old = run_dir / "state.new", run_dir / "state", run_dir / "state.old"
    try:
        write_dir(new, write_fn)
        write_atomic(new / CHECKPOINT_INFO_FILE, json.dumps({"step": step}))
        fsync_tree(new)
        with wrap_write_errors(state):
            if state.exists():
                state.rename(old)
            new.rename(state)
            fsync_path(run_dir)
    finally:
        remove_path(new)
    remove_path(old)


def replace_dir(folder: Path, write_fn: WriteFn) -> None:
    """Make what `fill` writes the folder `folder`, in place of what was there."""
    new, old = make_temp_path(folder.parent), make_temp_path(folder.parent)
    try:
        write_dir(new, write_fn)
        fsync_tree(new)
        with wrap_write_errors(folder):
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            fsync_path(folder.parent)
    finally:
        remove_path(new)
    remove_path(old)


def read_checkpoint_step(run_dir: Path) -> int | None:
    """The step of the run's complete state, or None without one."""
    try:
        step = json.loads((run_dir / "state" / CHECKPOINT_INFO_FILE).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def iter_checkpoint_repairs(run_dir: Path, *, unfinished: bool) -> Iterator[Callable[[], None]]:
    """What must be done to leave one complete state, or none when the run is over."""
    new, state, old = run_dir / "state.new", run_dir / "state", run_dir / "state.old"
    if unfinished and old.exists() and not state.exists():
        yield partial(_restore_checkpoint, old, state)
    for path in (new, old) if unfinished else (new, old, state):
        if path.exists():
            yield partial(remove_path, path)


def _restore_checkpoint(backup: Path, checkpoint_dir: Path) -> None:
    with wrap_write_errors(checkpoint_dir):
        backup.rename(checkpoint_dir)
        fsync_path(checkpoint_dir.parent)


def _iter_float_tensors(path: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each tensor of floats in the file: its name, its bits (values,), and what must not be set."""
    try:
        data = np.memmap(path, np.uint8, "r")
        header, start = _read_safetensors_header(data)
        for name, about in header.items():
            first, last = (start + offset for offset in about["data_offsets"])
            if last > len(data):
                raise ValueError("it ends early")
            if about["dtype"] in NON_FINITE_BITS:
                kind, mask = NON_FINITE_BITS[about["dtype"]]
                yield name, data[first:last].view(kind), mask
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path.name} is not a whole safetensors file: {error}", hint="train again"
        ) from error


def _read_safetensors_header(data: np.ndarray) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", data[:HEADER_LENGTH_BYTES].tobytes())
    header = json.loads(data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + length].tobytes())
    header.pop("__metadata__", None)
    return header, HEADER_LENGTH_BYTES + length


def _all_finite(bits: np.ndarray, mask: int) -> bool:
    return not bool(((bits & mask) == mask).any())


VERSION_FILE = "version.json"
FIRST_VERSION_HINT = "`dlm train` makes the first"
VERSION_NAME_RE = re.compile(r"v(\d{4,})")


def open_store(dlm_id: str, home: Path | None = None) -> "Store":
    """The store of the document `dlm_id`, with what a kill left behind put right."""
    store = Store(get_store_layout(dlm_id, home))
    store.repair()
    return store


def get_utc_timestamp() -> str:
    """The time in a record, UTC."""
    return datetime.now(UTC).isoformat()


class Store:
    """What is kept for one document. Reading needs no lock; whatever writes takes it."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self._lock = FileLock(layout.lock_path)

    def lock(self) -> FileLock:
        """The right to write, for one process at a time: `with store.lock(): ...`."""
        return self._lock

    def initialize(self) -> None:
        """Make the store, with nothing in it yet."""
        with self.lock():
            self._write_manifest()

    def list_versions(self) -> tuple[Version, ...]:
        """Every committed version, oldest first."""
        found = (self._read_version(path) for path in self.layout.versions_dir.glob("v*"))
        return tuple(sorted((v for v in found if v is not None), key=lambda v: v.number))

    def find_version_by_run(self, run_id: str) -> Version | None:
        """The version that `run` left, if it came so far."""
        return next((version for version in self.list_versions() if version.run == run_id), None)

    def get_current_version(self) -> Version | None:
        """The version in use; the newest when the pointer is lost, None before the first."""
        versions = self.list_versions()
        pointed = self._read_current_name()
        newest = versions[-1] if versions else None
        return next((version for version in versions if version.name == pointed), newest)

    def get_version(self, name: str) -> Version:
        """The version `name`; the error without it lists the known."""
        known = {version.name: version for version in self.list_versions()}
        if name not in known:
            mend = f"known: {', '.join(known)}" if known else FIRST_VERSION_HINT
            raise StoreError(f"no version {name!r}", hint=mend)
        return known[name]

    def set_current_version(self, name: str) -> Version:
        """Put the version `name` in use, an older or a newer one."""
        with self.lock():
            version = self.get_version(name)
            self._write_current_name(version.name)
            return version

    def commit_version(self, write_fn: WriteFn, record: VersionRecord) -> Version:
        """Keep what `fill` writes as the next version and put it in use.

        A run commits once: when its version is there already, that is the answer.
        """
        with self.lock():
            if record.run and (earlier := self.find_version_by_run(record.run)):
                return earlier
            version = self._write_version(write_fn, record)
            self._write_current_name(version.name)
            self._write_manifest()
            return version

    def verify_versions(self) -> tuple[str, ...]:
        """Hash every version again: one line for each file that is not as it was committed."""
        versions = {version.path: version for version in self.list_versions()}
        lines: list[str] = []
        for path in sorted(self.layout.versions_dir.glob("v*")):
            if path in versions:
                lines += _find_changed_files(versions[path])
            elif VERSION_NAME_RE.fullmatch(path.name):
                lines.append(f"{path.name}: its {VERSION_FILE} is damaged")
        return tuple(lines)

    def add_blob(self, path: Path, byte_range: tuple[int, int] | None = None) -> str:
        """Keep the bytes at `path`, or those `inside` it, once; their sha256 is their name."""
        blobs = self.layout.blobs_dir
        copy = make_temp_path(blobs)
        try:
            with wrap_write_errors(blobs):
                make_folder(blobs)
            digest = copy_with_sha256(path, copy, byte_range)
            with wrap_write_errors(blobs):
                if not (blob := self.layout.blob_path(digest)).exists():
                    copy.replace(blob)
                    fsync_path(blobs)
        finally:
            remove_path(copy)
        return digest

    def record_export(self, folder: Path, *, kind: str, version_name: str) -> ExportInfo:
        """Note that `version` left for `folder`; an export to the same place replaces it."""
        place = folder.resolve()
        root = self.layout.root.resolve()
        inside = place.is_relative_to(root)
        export = ExportInfo(
            kind=kind,
            version=version_name,
            created_at=get_utc_timestamp(),
            path=place.relative_to(root) if inside else place,
            hashes=hash_tree(place),
        )
        name = f"{place.name}-{sha256(str(export.path).encode()).hexdigest()[:8]}.json"
        write_atomic(self.layout.exports_dir / name, dump_record_json(export))
        return replace(export, path=place)

    def list_exports(self) -> tuple[ExportInfo, ...]:
        """Every export on record, oldest first. Those elsewhere are told of, never opened."""
        found = [
            load_record_json(EXPORT_TYPE_ADAPTER, path)
            for path in self.layout.exports_dir.glob("*.json")
        ]
        placed = [
            export
            if export.path.is_absolute()
            else replace(export, path=self.layout.require_inside(self.layout.root / export.path))
            for export in found
            if export is not None
        ]
        return tuple(sorted(placed, key=lambda export: export.created_at))

    def compute_size_bytes(self) -> int:
        """What the store takes on the disk."""
        return get_disk_usage(self.layout.root) if self.layout.root.exists() else 0

    def repair(self) -> None:
        """Put right what a kill left; while another process writes, leave everything to it."""
        if any(True for _ in self._iter_repairs()) and self._lock.acquire():
            try:
                for mend in self._iter_repairs():
                    mend()
            finally:
                self._lock.release()

    def _iter_repairs(self) -> Iterator[Callable[[], None]]:
        layout = self.layout
        runs = [path for path in layout.runs_dir.glob("*") if path.is_dir()]
        folders = (layout.root, layout.current_path.parent, layout.blobs_dir, layout.features_dir)
        for folder in (*folders, layout.exports_dir, *runs):
            yield from (partial(remove_path, path) for path in find_stale_temp_files(folder))
        yield from (
            partial(remove_path, path) for path in layout.versions_dir.glob(f"{PENDING_PREFIX}*")
        )
        for run in runs:
            told = load_record_json(RUN_TYPE_ADAPTER, layout.require_inside(run) / "run.json")
            over = told is not None and told.status != "unfinished"
            yield from iter_checkpoint_repairs(run, unfinished=not over)
        names = [version.name for version in self.list_versions()]
        listed = self._read_manifest_names()
        # A newest that is not listed: its commit was cut short before it was put in use.
        unlisted = listed is not None and not set(names[-1:]) <= listed
        if names and (unlisted or self._read_current_name() not in names):
            yield partial(self._write_current_name, names[-1])
        if (names or layout.manifest_path.exists()) and not self._is_manifest_up_to_date():
            yield self._write_manifest

    def _write_version(self, write_fn: WriteFn, record: VersionRecord) -> Version:
        pending = self.layout.versions_dir / f"{PENDING_PREFIX}{os.getpid()}"
        try:
            write_dir(pending, write_fn)
            if (pending / VERSION_FILE).exists():
                raise StoreError(
                    f"{VERSION_FILE} is the store's own name", hint="name the file otherwise"
                )
            check_safetensors_finite(pending)
            version = self._make_next_version(record, hash_tree(pending))
            write_atomic(pending / VERSION_FILE, dump_record_json(_version_to_dict(version)))
            fsync_tree(pending)
            with wrap_write_errors(version.path):
                pending.rename(version.path)
                fsync_path(self.layout.versions_dir)
        finally:
            remove_path(pending)
        return version

    def _make_next_version(self, record: VersionRecord, hashes: dict[str, str]) -> Version:
        taken = [
            VERSION_NAME_RE.fullmatch(path.name) for path in self.layout.versions_dir.iterdir()
        ]
        number = 1 + max((int(name[1]) for name in taken if name), default=0)
        measured = {name: score for name, score in record.scores.items() if isfinite(score)}
        return Version(
            **{**vars(record), "scores": measured},
            number=number,
            created_at=get_utc_timestamp(),
            hashes=hashes,
            path=self.layout.version_dir(number),
        )

    def _read_version(self, path: Path) -> Version | None:
        if not VERSION_NAME_RE.fullmatch(path.name):
            return None
        version = load_record_json(
            VERSION_TYPE_ADAPTER, self.layout.require_inside(path) / VERSION_FILE, path=path
        )
        return version if version and self.layout.version_dir(version.number) == path else None

    def _read_current_name(self) -> str | None:
        try:
            name = self.layout.current_path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        if "/" in name:
            self.layout.require_inside(self.layout.versions_dir / name)
        return name

    def _write_current_name(self, name: str) -> None:
        write_atomic(self.layout.current_path, f"{name}\n")

    def _read_manifest_names(self) -> set[str] | None:
        try:
            return set(json.loads(self.layout.manifest_path.read_bytes())["versions"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _is_manifest_up_to_date(self) -> bool:
        try:
            return self.layout.manifest_path.read_bytes() == self._format_manifest().encode()
        except OSError:
            return False

    def _format_manifest(self) -> str:
        versions = {version.name: _version_to_dict(version) for version in self.list_versions()}
        return dump_record_json(
            {"schema": 1, "dlm_id": self.layout.root.name, "versions": versions}
        )

    def _write_manifest(self) -> None:
        write_atomic(self.layout.manifest_path, self._format_manifest())


def _version_to_dict(version: Version) -> dict[str, object]:
    return {name: value for name, value in vars(version).items() if name != "path"}


def _find_changed_files(version: Version) -> Iterator[str]:
    there = hash_tree(version.path)
    there.pop(VERSION_FILE, None)
    for name in sorted(version.hashes.keys() | there.keys()):
        if name not in there:
            yield f"{version.name}/{name}: is gone since the commit"
        elif name not in version.hashes:
            yield f"{version.name}/{name}: was added since the commit"
        elif there[name] != version.hashes[name]:
            yield f"{version.name}/{name}: was changed since the commit"
