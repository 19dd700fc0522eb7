"""The store of one document: committing, listing, choosing and verifying versions; blobs, exports.

    commit   versions/.pending-<pid>  ->  written, finite, hashed, synced
             ->  renamed to versions/v0002  ->  current.txt, if accepted  ->  manifest.json

A version that is clearly worse than the one in use is kept and not put in use: its record says so
(`comparison`). A version exists from the rename on, and carries its own record: opening the store
rebuilds `current.txt` and `manifest.json` from the versions when a kill left them behind. While the
record of any version cannot be read, neither is written: they may be all that is known of it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path

from dlm.data.audio_file import BinaryFile
from dlm.errors import StoreError
from dlm.io import (
    PENDING_PREFIX,
    PRIVATE_FOLDER_MODE,
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
    set_tree_modes,
    sha256_file,
    wrap_write_errors,
    write_atomic,
)
from dlm.store.atomic_dirs import (
    WriteFn,
    check_safetensors_finite,
    iter_checkpoint_repairs,
    write_dir,
)
from dlm.store.layout import StoreLayout, get_store_layout, make_safe_name, require_safe_name
from dlm.store.records import (
    CLIP_SCORES_TYPE_ADAPTER,
    EXPORT_TYPE_ADAPTER,
    RUN_TYPE_ADAPTER,
    VERSION_TYPE_ADAPTER,
    ClipScores,
    ExportInfo,
    Version,
    VersionRecord,
    dump_record_json,
    load_record_json,
    parse_record_json,
)

_logger = logging.getLogger(__name__)

VERSION_FILE = "version.json"
FIRST_VERSION_HINT = "`dlm train` makes the first"
REPAIR_HINT = "`dlm verify DOCUMENT --repair` restores what it can"
VERSION_NAME_RE = re.compile(r"v(\d{4,})")


def open_store(dlm_id: str, home: Path | None = None) -> "Store":
    """Open the store of a document, and repair what a kill left.

    Args:
        dlm_id: of the document.
        home: folder of everything dlm stores; `DLM_HOME` without one.

    Raises:
        StoreError: the id cannot name a folder (`store.bad_name`), or a link leads out of the store
            (`store.outside`).
    """
    store = Store(get_store_layout(dlm_id, home))
    store.repair()
    return store


def get_utc_timestamp() -> str:
    """Return the time as records hold it, UTC."""
    return datetime.now(UTC).isoformat()


class Store:
    """The versions, blobs and exports of one document. Reading needs no lock; writing takes it."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self._lock = FileLock(layout.lock_path)
        # each version.json by what changes when it is written, so that it is parsed once
        self._parsed: dict[Path, tuple[tuple[int, int], Version | None]] = {}

    def lock(self) -> FileLock:
        """Return the lock of the one process that may write: `with store.lock(): ...`."""
        return self._lock

    def initialize(self) -> None:
        """Make the store, without a version."""
        with self.lock():
            self._write_manifest()

    def list_versions(self) -> tuple[Version, ...]:
        """Return all committed versions, oldest first. Raises StoreError (`store.outside`)."""
        versions = (self._read_version(path) for path in self.layout.versions_dir.glob("v*"))
        return tuple(sorted((v for v in versions if v is not None), key=lambda v: v.number))

    def list_damaged_versions(self) -> tuple[str, ...]:
        """Return the names of versions whose record is gone or damaged, oldest first.

        An empty folder that no list names holds nothing that was ever committed.
        """
        known = {*(self._read_manifest() or {}), self._read_current_name()}
        return tuple(
            path.name
            for path in sorted(self.layout.versions_dir.glob("v*"))
            if VERSION_NAME_RE.fullmatch(path.name)
            and self._read_version(path) is None
            and (path.name in known or get_disk_usage(path))
        )

    def find_version_by_run(self, run_id: str) -> Version | None:
        """Return the version that a run committed, if it did."""
        return next((version for version in self.list_versions() if version.run == run_id), None)

    def get_current_version(self) -> Version | None:
        """Return the version in use, None before the first.

        When the pointer is lost, it is the newest that was put in use.

        Raises:
            StoreError: it cannot be read, or it is not known which it is (`store.damaged`).
        """
        versions = self.list_versions()
        current_name = self._read_current_name()
        current = next((version for version in versions if version.name == current_name), None)
        if current is None and (damaged := self.list_damaged_versions()):
            raise make_damaged_error(current_name if current_name in damaged else damaged[0])
        return current or _find_newest_accepted(versions)

    def get_version(self, name: str) -> Version:
        """Return a version by its name.

        Raises:
            StoreError: there is none (`store.unknown_version`), or its record is damaged
                (`store.damaged`).
        """
        versions = {version.name: version for version in self.list_versions()}
        if name in self.list_damaged_versions():
            raise make_damaged_error(name)
        if name not in versions:
            hint = f"known: {', '.join(versions)}" if versions else FIRST_VERSION_HINT
            raise StoreError(f"no version {name!r}", hint=hint, code="store.unknown_version")
        return versions[name]

    def set_current_version(self, name: str) -> Version:
        """Put a version in use, older or newer. Raises StoreError (`store.unknown_version`)."""
        with self.lock():
            version = self.get_version(name)
            self._write_current_name(version.name)
            return version

    def commit_version(self, write_fn: WriteFn, record: VersionRecord) -> Version:
        """Commit what `write_fn` writes as the next version, and put it in use if it is accepted.

        A run commits once: when its version is there already, that is returned.

        Raises:
            StoreError: nothing was written, weights are not finite or damaged, the disk is full, or
                another process writes.
        """
        with self.lock():
            if record.run and (earlier := self.find_version_by_run(record.run)):
                return earlier
            version = self._write_version(write_fn, record)
            if not self.list_damaged_versions():
                if version.is_accepted:
                    self._write_current_name(version.name)
                self._write_manifest()
            return version

    def restore_version_record(self, name: str) -> Version | None:
        """Write a version's record again from the list of versions; None if it is not there."""
        path = self.layout.versions_dir / require_safe_name(name)
        with self.lock():
            fields = (self._read_manifest() or {}).get(name)
            record_path = self.layout.require_inside(path) / VERSION_FILE
            if not isinstance(fields, dict) or record_path.is_dir():
                return None
            before = record_path.read_bytes() if record_path.exists() else None
            write_atomic(record_path, dump_record_json(fields), private=True)
            self._parsed.pop(path, None)
            version = self._read_version(path)
            if version is None and before is not None:
                write_atomic(record_path, before, private=True)
            return version

    def verify_files(self) -> tuple[str, ...]:
        """Hash versions and copies of recordings again: a line for each file that was changed."""
        lines = [line for version in self.list_versions() for line in _iter_changed_files(version)]
        for path in sorted(self.layout.blobs_dir.glob("*")):
            if sha256_file(self.layout.require_inside(path)) != path.name:
                lines.append(f"blobs/{path.name}: is not the recording it is named after")
        return tuple(lines)

    def add_blob(self, file: BinaryFile, expected_sha256: str | None = None) -> str:
        """Copy an open recording into the store, once; return its sha256, which is its name.

        Args:
            file: the recording, from its first byte to its last.
            expected_sha256: bytes that have another sha256 are not kept.
        """
        blobs_dir = self.layout.blobs_dir
        copy = make_temp_path(blobs_dir)
        try:
            with wrap_write_errors(blobs_dir):
                make_folder(blobs_dir, private=True)
            file.seek(0)
            digest = copy_with_sha256(file.read, copy)
            is_expected = expected_sha256 in (None, digest)
            with wrap_write_errors(blobs_dir):
                if is_expected and not (blob := self.layout.blob_path(digest)).exists():
                    copy.replace(blob)
                    fsync_path(blobs_dir)
        finally:
            remove_path(copy)
        return digest

    def save_clip_scores(self, name: str, scores: ClipScores) -> None:
        """Keep what a version or the base scored, in place of earlier scores of it."""
        with wrap_write_errors(self.layout.evaluations_dir):
            make_folder(self.layout.evaluations_dir, private=True)
        write_atomic(self._get_clip_scores_path(name), dump_record_json(scores), private=True)

    def read_clip_scores(self, name: str) -> ClipScores | None:
        """Return what was kept of a version or the base; None without it."""
        return load_record_json(CLIP_SCORES_TYPE_ADAPTER, self._get_clip_scores_path(name))

    def describe_export(self, folder: Path, *, kind: str, version_name: str) -> ExportInfo:
        """Make the record of a version that was exported to a folder."""
        return ExportInfo(
            kind=kind,
            version=version_name,
            created_at=get_utc_timestamp(),
            path=folder.resolve(),
            hashes=hash_tree(folder),
        )

    def record_export(self, export: ExportInfo) -> None:
        """Keep the record of an export, in place of an earlier one to the same folder."""
        folder, root = export.path, self.layout.root.resolve()
        path = folder.relative_to(root) if folder.is_relative_to(root) else folder
        suffix = sha256(str(path).encode()).hexdigest()[:8]
        record_path = self.layout.exports_dir / f"{make_safe_name(folder.name)}-{suffix}.json"
        write_atomic(record_path, dump_record_json(replace(export, path=path)), private=True)

    def list_exports(self) -> tuple[ExportInfo, ...]:
        """Return all recorded exports, oldest first; folders outside the store are not opened."""
        layout, exports = self.layout, []
        for record_path in layout.exports_dir.glob("*.json"):
            export = load_record_json(EXPORT_TYPE_ADAPTER, record_path)
            if export is not None and not export.path.is_absolute():
                export = replace(export, path=layout.require_inside(layout.root / export.path))
            if export is not None:
                exports.append(export)
        exports.sort(key=lambda export: export.created_at)
        newest = {export.path: export for export in exports}  # one record for each folder
        return tuple(export for export in exports if newest[export.path] is export)

    def compute_size_bytes(self) -> int:
        """Return the bytes of the store on disk."""
        return get_disk_usage(self.layout.root) if self.layout.root.exists() else 0

    def repair(self) -> None:
        """Repair what a kill left; while another process writes, leave it to that process.

        A store that cannot be written is read as it is.
        """
        if not any(True for _ in self._iter_repairs()):
            return
        try:
            if self._lock.acquire():
                try:
                    for repair in self._iter_repairs():
                        repair()
                finally:
                    self._lock.release()
        except StoreError as error:
            if error.code != "store.not_writable":
                raise

    def _iter_repairs(self) -> Iterator[Callable[[], None]]:
        layout = self.layout
        if layout.root.is_dir() and layout.root.stat().st_mode & ~PRIVATE_FOLDER_MODE & 0o777:
            yield partial(set_tree_modes, layout.root, private=True)  # of an earlier version
        run_dirs = [path for path in layout.runs_dir.glob("*") if path.is_dir()]
        folders = (layout.root, layout.current_path.parent, layout.blobs_dir, layout.features_dir)
        for folder in (*folders, layout.exports_dir, layout.evaluations_dir, *run_dirs):
            yield from (partial(remove_path, path) for path in find_stale_temp_files(folder))
        for path in layout.versions_dir.glob(f"{PENDING_PREFIX}*"):
            yield partial(remove_path, path)
        for run_dir in run_dirs:
            info = load_record_json(RUN_TYPE_ADAPTER, layout.require_inside(run_dir) / "run.json")
            is_over = info is not None and info.status != "unfinished"
            yield from iter_checkpoint_repairs(run_dir, unfinished=not is_over)
        if self.list_damaged_versions():
            return
        versions = self.list_versions()
        names = [version.name for version in versions]
        newest = _find_newest_accepted(versions)
        listed = self._read_manifest()
        # a newest that is not listed: its commit was cut short before it was put in use
        is_unlisted = listed is not None and not set(names[-1:]) <= listed.keys()
        is_cut_short = is_unlisted and versions[-1].is_accepted
        if newest and (is_cut_short or self._read_current_name() not in names):
            yield partial(self._replace_pointer, newest.name)
        if (names or layout.manifest_path.exists()) and not self._is_manifest_up_to_date():
            yield self._write_manifest

    def _get_clip_scores_path(self, name: str) -> Path:
        folder = self.layout.require_inside(self.layout.evaluations_dir)
        return folder / f"{require_safe_name(name)}.json"

    def _write_version(self, write_fn: WriteFn, record: VersionRecord) -> Version:
        pending = self.layout.versions_dir / f"{PENDING_PREFIX}{os.getpid()}"
        try:
            write_dir(pending, write_fn)
            if (pending / VERSION_FILE).exists():
                raise StoreError(
                    f"{VERSION_FILE} is a reserved name of the store",
                    hint="give the file another name",
                    code="store.reserved_name",
                )
            check_safetensors_finite(pending)
            version = self._make_next_version(record, hash_tree(pending))
            write_atomic(pending / VERSION_FILE, dump_record_json(_to_record_dict(version)))
            set_tree_modes(pending, private=True)
            fsync_tree(pending)
            with wrap_write_errors(version.path):
                pending.rename(version.path)
                fsync_path(self.layout.versions_dir)
        finally:
            remove_path(pending)
        return version

    def _make_next_version(self, record: VersionRecord, hashes: dict[str, str]) -> Version:
        names = (path.name for path in self.layout.versions_dir.iterdir())
        numbers = [int(match[1]) for name in names if (match := VERSION_NAME_RE.fullmatch(name))]
        number = max(numbers, default=0) + 1
        finite_scores = {name: score for name, score in record.scores.items() if isfinite(score)}
        return Version(
            **{**vars(record), "scores": finite_scores},
            number=number,
            created_at=get_utc_timestamp(),
            hashes=hashes,
            path=self.layout.version_dir(number),
        )

    def _read_version(self, path: Path) -> Version | None:
        """The version in a folder; None if its record is damaged or of another number."""
        if not VERSION_NAME_RE.fullmatch(path.name):
            return None
        record_path = self.layout.require_inside(path) / VERSION_FILE
        try:
            stat = record_path.stat()
        except OSError:
            return None
        written = (stat.st_mtime_ns, stat.st_size)
        if path not in self._parsed or self._parsed[path][0] != written:
            version = load_record_json(VERSION_TYPE_ADAPTER, record_path, path=path)
            if version and self.layout.version_dir(version.number) != path:
                version = None
            self._parsed[path] = (written, version)
        return self._parsed[path][1]

    def _read_current_name(self) -> str | None:
        try:
            name = self.layout.current_path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        if "/" in name:
            self.layout.require_inside(self.layout.versions_dir / name)
        return name

    def _write_current_name(self, name: str) -> None:
        write_atomic(self.layout.current_path, f"{name}\n", private=True)

    def _replace_pointer(self, name: str) -> None:
        """Put a version in use for one that is not there; what was lost is said."""
        path, lost_name = self.layout.current_path, self._read_current_name()
        is_known = lost_name in {version.name for version in self.list_versions()}
        if path.exists() and not is_known:
            _logger.warning("%s names no version that is there: %s is now in use", path, name)
        self._write_current_name(name)

    def _read_manifest(self) -> dict[str, object] | None:
        """The record of each version in the list, by name; None if the list is damaged."""
        try:
            fields = parse_record_json(self.layout.manifest_path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        versions = fields.get("versions") if isinstance(fields, dict) else None
        return versions if isinstance(versions, dict) else None

    def _is_manifest_up_to_date(self) -> bool:
        try:
            return self.layout.manifest_path.read_bytes() == self._format_manifest().encode()
        except OSError:
            return False

    def _format_manifest(self) -> str:
        versions = {version.name: _to_record_dict(version) for version in self.list_versions()}
        return dump_record_json(
            {"schema": 1, "dlm_id": self.layout.root.name, "versions": versions}
        )

    def _write_manifest(self) -> None:
        write_atomic(self.layout.manifest_path, self._format_manifest(), private=True)


def _find_newest_accepted(versions: tuple[Version, ...]) -> Version | None:
    """The newest version that its commit put in use; the newest of all where there is none."""
    accepted = [version for version in versions if version.is_accepted] or versions
    return accepted[-1] if accepted else None


def make_damaged_error(name: str) -> StoreError:
    """Make the error about a version whose record cannot be read (`store.damaged`)."""
    return StoreError(
        f"its {VERSION_FILE} is gone or damaged",
        where=name,
        hint=f"{REPAIR_HINT}; `dlm use` puts another version in use",
        code="store.damaged",
    )


def require_unchanged(version: Version) -> None:
    """Hash a version before its files are used. Raises StoreError (`store.version_changed`)."""
    hashes = hash_tree(version.path)
    for name, digest in version.hashes.items():
        if hashes.get(name) != digest:
            raise StoreError(
                "was changed or removed since it was committed",
                where=f"{version.name}/{name}",
                hint="`dlm verify` names every such file; use another version, or train again",
                code="store.version_changed",
            )


def _to_record_dict(version: Version) -> dict[str, object]:
    return {name: value for name, value in vars(version).items() if name != "path"}


def _iter_changed_files(version: Version) -> Iterator[str]:
    """A line for each file that was changed since it was committed."""
    hashes = hash_tree(version.path)
    hashes.pop(VERSION_FILE, None)
    for name, change in compare_hashes(version.hashes, hashes):
        yield f"{version.name}/{name}: {change} since the commit"


def compare_hashes(
    expected: Mapping[str, str], hashes: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Compare the sha256 of files by name.

    Yields:
        Each name that differs, and how: "is gone", "was added" or "was changed".
    """
    for name in sorted(expected.keys() | hashes.keys()):
        if name not in hashes:
            yield name, "is gone"
        elif name not in expected:
            yield name, "was added"
        elif hashes[name] != expected[name]:
            yield name, "was changed"
