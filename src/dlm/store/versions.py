"""What was learned, kept for good: versions, the one in use, audio bytes, exports.

    commit   versions/.pending-<pid>  ->  filled, finite, hashed, synced
             ->  renamed to versions/v0002  ->  current.txt  ->  manifest.json

A version exists from the rename on, and carries its own record: `current.txt` and `manifest.json`
can be made anew from the versions, and opening the store does so when a kill left them behind.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path

from dlm.errors import StoreError
from dlm.files import (
    PENDING,
    Lock,
    copy_hashed,
    discard,
    hash_tree,
    leftovers,
    make_folder,
    sync,
    sync_tree,
    temporary,
    tree_bytes,
    write_atomic,
    writing,
)
from dlm.store.facts import EXPORT, RUN, VERSION, Export, Version, VersionFacts, from_json, to_json
from dlm.store.folders import Fill, check_finite, fill_folder, state_repairs
from dlm.store.layout import Layout, locate

RECORD = "version.json"
FIRST = "`dlm train` makes the first"
NAME = re.compile(r"v(\d{4,})")


def open_store(dlm_id: str, home: Path | None = None) -> "Store":
    """The store of the document `dlm_id`, with what a kill left behind put right."""
    store = Store(locate(dlm_id, home))
    store.repair()
    return store


def now() -> str:
    """The time in a record, UTC."""
    return datetime.now(UTC).isoformat()


class Store:
    """What is kept for one document. Reading needs no lock; whatever writes takes it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._lock = Lock(layout.lock)

    def lock(self) -> Lock:
        """The right to write, for one process at a time: `with store.lock(): ...`."""
        return self._lock

    def provision(self) -> None:
        """Make the store, with nothing in it yet."""
        with self.lock():
            self._write_manifest()

    def versions(self) -> tuple[Version, ...]:
        """Every committed version, oldest first."""
        found = (self._read(path) for path in self.layout.versions.glob("v*"))
        return tuple(sorted((v for v in found if v is not None), key=lambda v: v.number))

    def version_of(self, run: str) -> Version | None:
        """The version that `run` left, if it came so far."""
        return next((version for version in self.versions() if version.run == run), None)

    def current(self) -> Version | None:
        """The version in use; the newest when the pointer is lost, None before the first."""
        versions = self.versions()
        pointed = self._pointed()
        newest = versions[-1] if versions else None
        return next((version for version in versions if version.name == pointed), newest)

    def find(self, name: str) -> Version:
        """The version `name`; the error without it lists the known."""
        known = {version.name: version for version in self.versions()}
        if name not in known:
            mend = f"known: {', '.join(known)}" if known else FIRST
            raise StoreError(f"no version {name!r}", mend=mend)
        return known[name]

    def use(self, name: str) -> Version:
        """Put the version `name` in use, an older or a newer one."""
        with self.lock():
            version = self.find(name)
            self._point(version.name)
            return version

    def commit(self, fill: Fill, facts: VersionFacts) -> Version:
        """Keep what `fill` writes as the next version and put it in use.

        A run commits once: when its version is there already, that is the answer.
        """
        with self.lock():
            if facts.run and (earlier := self.version_of(facts.run)):
                return earlier
            version = self._keep(fill, facts)
            self._point(version.name)
            self._write_manifest()
            return version

    def verify(self) -> tuple[str, ...]:
        """Hash every version again: one line for each file that is not as it was committed."""
        versions = {version.path: version for version in self.versions()}
        lines: list[str] = []
        for path in sorted(self.layout.versions.glob("v*")):
            if path in versions:
                lines += _differences(versions[path])
            elif NAME.fullmatch(path.name):
                lines.append(f"{path.name}: its {RECORD} is damaged")
        return tuple(lines)

    def add_blob(self, path: Path, inside: tuple[int, int] | None = None) -> str:
        """Keep the bytes at `path`, or those `inside` it, once; their sha256 is their name."""
        blobs = self.layout.blobs
        copy = temporary(blobs)
        try:
            with writing(blobs):
                make_folder(blobs)
            digest = copy_hashed(path, copy, inside)
            with writing(blobs):
                if not (blob := self.layout.blob(digest)).exists():
                    copy.replace(blob)
                    sync(blobs)
        finally:
            discard(copy)
        return digest

    def record_export(self, folder: Path, *, kind: str, version: str) -> Export:
        """Note that `version` left for `folder`; an export to the same place replaces it."""
        place = folder.resolve()
        root = self.layout.root.resolve()
        inside = place.is_relative_to(root)
        export = Export(
            kind=kind,
            version=version,
            created_at=now(),
            path=place.relative_to(root) if inside else place,
            hashes=hash_tree(place),
        )
        name = f"{place.name}-{sha256(str(export.path).encode()).hexdigest()[:8]}.json"
        write_atomic(self.layout.exports / name, to_json(export))
        return replace(export, path=place)

    def exports(self) -> tuple[Export, ...]:
        """Every export on record, oldest first. Those elsewhere are told of, never opened."""
        found = [from_json(EXPORT, path) for path in self.layout.exports.glob("*.json")]
        placed = [
            export
            if export.path.is_absolute()
            else replace(export, path=self.layout.inside(self.layout.root / export.path))
            for export in found
            if export is not None
        ]
        return tuple(sorted(placed, key=lambda export: export.created_at))

    def size_bytes(self) -> int:
        """What the store takes on the disk."""
        return tree_bytes(self.layout.root) if self.layout.root.exists() else 0

    def repair(self) -> None:
        """Put right what a kill left; while another process writes, leave everything to it."""
        if any(True for _ in self._repairs()) and self._lock.take():
            try:
                for mend in self._repairs():
                    mend()
            finally:
                self._lock.release()

    def _repairs(self) -> Iterator[Callable[[], None]]:
        layout = self.layout
        runs = [path for path in layout.runs.glob("*") if path.is_dir()]
        folders = (layout.root, layout.current.parent, layout.blobs, layout.features)
        for folder in (*folders, layout.exports, *runs):
            yield from (partial(discard, path) for path in leftovers(folder))
        yield from (partial(discard, path) for path in layout.versions.glob(f"{PENDING}*"))
        for run in runs:
            told = from_json(RUN, layout.inside(run) / "run.json")
            over = told is not None and told.status != "unfinished"
            yield from state_repairs(run, unfinished=not over)
        names = [version.name for version in self.versions()]
        listed = self._listed()
        # A newest that is not listed: its commit was cut short before it was put in use.
        unlisted = listed is not None and not set(names[-1:]) <= listed
        if names and (unlisted or self._pointed() not in names):
            yield partial(self._point, names[-1])
        if (names or layout.manifest.exists()) and not self._is_listed():
            yield self._write_manifest

    def _keep(self, fill: Fill, facts: VersionFacts) -> Version:
        pending = self.layout.versions / f"{PENDING}{os.getpid()}"
        try:
            fill_folder(pending, fill)
            if (pending / RECORD).exists():
                raise StoreError(
                    f"{RECORD} is the store's own name", mend="name the file otherwise"
                )
            check_finite(pending)
            version = self._next(facts, hash_tree(pending))
            write_atomic(pending / RECORD, to_json(_told(version)))
            sync_tree(pending)
            with writing(version.path):
                pending.rename(version.path)
                sync(self.layout.versions)
        finally:
            discard(pending)
        return version

    def _next(self, facts: VersionFacts, hashes: dict[str, str]) -> Version:
        taken = [NAME.fullmatch(path.name) for path in self.layout.versions.iterdir()]
        number = 1 + max((int(name[1]) for name in taken if name), default=0)
        measured = {name: score for name, score in facts.scores.items() if isfinite(score)}
        return Version(
            **{**vars(facts), "scores": measured},
            number=number,
            created_at=now(),
            hashes=hashes,
            path=self.layout.version(number),
        )

    def _read(self, path: Path) -> Version | None:
        if not NAME.fullmatch(path.name):
            return None
        version = from_json(VERSION, self.layout.inside(path) / RECORD, path=path)
        return version if version and self.layout.version(version.number) == path else None

    def _pointed(self) -> str | None:
        try:
            name = self.layout.current.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        if "/" in name:
            self.layout.inside(self.layout.versions / name)
        return name

    def _point(self, name: str) -> None:
        write_atomic(self.layout.current, f"{name}\n")

    def _listed(self) -> set[str] | None:
        try:
            return set(json.loads(self.layout.manifest.read_bytes())["versions"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _is_listed(self) -> bool:
        try:
            return self.layout.manifest.read_bytes() == self._manifest().encode()
        except OSError:
            return False

    def _manifest(self) -> str:
        versions = {version.name: _told(version) for version in self.versions()}
        return to_json({"schema": 1, "dlm_id": self.layout.root.name, "versions": versions})

    def _write_manifest(self) -> None:
        write_atomic(self.layout.manifest, self._manifest())


def _told(version: Version) -> dict[str, object]:
    return {name: value for name, value in vars(version).items() if name != "path"}


def _differences(version: Version) -> Iterator[str]:
    there = hash_tree(version.path)
    there.pop(RECORD, None)
    for name in sorted(version.hashes.keys() | there.keys()):
        if name not in there:
            yield f"{version.name}/{name}: is gone since the commit"
        elif name not in version.hashes:
            yield f"{version.name}/{name}: was added since the commit"
        elif there[name] != version.hashes[name]:
            yield f"{version.name}/{name}: was changed since the commit"
