"""The records the store writes, and how they become JSON and records again.

    RunFacts             what a run starts from
    └── VersionFacts     and what it came to
        └── Version      and where it is kept
    RunRecord            a run: its facts, and whether it is over
    Export               a version that left the store

What JSON cannot say becomes what it can: nan is null, a path is its text.
"""

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from operator import attrgetter
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from dlm.legacy import RECORD, upgrade

RecordT = TypeVar("RecordT")
RunStatus = Literal["unfinished", "finished", "abandoned"]
TRACKED_PACKAGES = (
    *("dlm", "torch", "transformers", "peft", "accelerate", "safetensors"),
    *("numpy", "soundfile", "soxr"),
)


@dataclass(frozen=True)
class RecordingHash:
    """Sound that was learned from: its path as the author wrote it, and its bytes' sha256."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run starts from. The same facts make the same version."""

    document_sha256: str
    data_sha256: str
    plan: dict[str, object]
    seed: int
    base: str
    base_revision: str | None = None
    train_recordings: tuple[RecordingHash, ...] = ()
    overrides: dict[str, object] = field(default_factory=dict)  # asked over the document
    audio_backends: dict[str, str] = field(default_factory=dict)  # what decodes and what resamples

    def find_changed_fields(self, other: "RunRecord") -> tuple[str, ...]:
        """The names of the facts that are not those of `other`.

        What overrides change is in the plan and in the data; the others make no difference, nor
        does a newer decoder.
        """
        theirs = vars(other)
        return tuple(
            name
            for name, mine in vars(self).items()
            if name not in ("overrides", "audio_backends")
            and to_jsonable(mine) != to_jsonable(theirs.get(name))
        )


@lru_cache
def _get_package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect_environment() -> dict[str, str]:
    """The libraries a version is made with."""
    found = {library: _get_package_version(library) for library in TRACKED_PACKAGES}
    known = {library: number for library, number in found.items() if number is not None}
    return {"python": platform.python_version(), "machine": platform.machine(), **known}


@dataclass(frozen=True, kw_only=True)
class VersionRecord(RunRecord):
    """What a run started from and came to."""

    steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    run: str | None = None
    environment: dict[str, str] = field(default_factory=collect_environment)


@dataclass(frozen=True, kw_only=True)
class Version(VersionRecord):
    """A version in the store. `hashes` are the sha256 of its files, by their paths in `path`."""

    number: int
    created_at: str
    hashes: dict[str, str]
    path: Path

    @property
    def name(self) -> str:
        """`v0001`."""
        return self.path.name

    @property
    def sha256(self) -> str:
        """One hash of every file: equal versions are equal in every byte."""
        lines = "".join(f"{self.hashes[name]}  {name}\n" for name in sorted(self.hashes))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as `run.json` tells it."""

    started_at: str
    status: RunStatus
    record: RunRecord


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """A version that left the store for `path`: in the store, or where the person asked for."""

    kind: str
    version: str
    created_at: str
    path: Path
    hashes: dict[str, str]


VERSION_TYPE_ADAPTER, RUN_TYPE_ADAPTER, EXPORT_TYPE_ADAPTER = (
    TypeAdapter(Version),
    TypeAdapter(RunInfo),
    TypeAdapter(ExportInfo),
)


def to_jsonable(value: object) -> object:
    """`value` in the words of JSON; what can be called is left out."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value):
        return to_jsonable({each.name: attrgetter(each.name)(value) for each in fields(value)})
    if isinstance(value, Mapping):
        kept = ((str(key), item) for key, item in value.items() if not callable(item))
        return {key: to_jsonable(item) for key, item in kept}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    return str(value)


def dump_record_json(record: object) -> str:
    """`record` as the text of a JSON file."""
    return json.dumps(to_jsonable(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def load_record_json(
    type_adapter: TypeAdapter[RecordT], path: Path, /, **extra_fields: object
) -> RecordT | None:
    """The record in `file`, with what is `known` besides; None when it is damaged."""
    try:
        upgraded = upgrade(json.loads(path.read_bytes()), RECORD)
        return type_adapter.validate_python({**upgraded, **extra_fields})
    except (OSError, ValueError, TypeError):
        return None
