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

Record = TypeVar("Record")
Status = Literal["unfinished", "finished", "abandoned"]
LIBRARIES = (
    *("dlm", "torch", "transformers", "peft", "accelerate", "safetensors"),
    *("numpy", "soundfile", "soxr"),
)


@dataclass(frozen=True)
class Recording:
    """Sound that was learned from: its path as the author wrote it, and its bytes' sha256."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run starts from. The same facts make the same version."""

    document_sha256: str
    data_sha256: str
    plan: dict[str, object]
    seed: int
    base: str
    base_revision: str | None = None
    learned_from: tuple[Recording, ...] = ()
    overrides: dict[str, object] = field(default_factory=dict)  # asked over the document
    heard_with: dict[str, str] = field(default_factory=dict)  # what decodes and what resamples

    def differences(self, other: "RunFacts") -> tuple[str, ...]:
        """The names of the facts that are not those of `other`.

        What overrides change is in the plan and in the data; the others make no difference, nor
        does a newer decoder.
        """
        theirs = vars(other)
        return tuple(
            name
            for name, mine in vars(self).items()
            if name not in ("overrides", "heard_with") and plain(mine) != plain(theirs.get(name))
        )


@lru_cache
def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, str]:
    """The libraries a version is made with."""
    found = {library: _installed(library) for library in LIBRARIES}
    known = {library: number for library, number in found.items() if number is not None}
    return {"python": platform.python_version(), "machine": platform.machine(), **known}


@dataclass(frozen=True, kw_only=True)
class VersionFacts(RunFacts):
    """What a run started from and came to."""

    steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    run: str | None = None
    environment: dict[str, str] = field(default_factory=environment)


@dataclass(frozen=True, kw_only=True)
class Version(VersionFacts):
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
class RunRecord:
    """A run as `run.json` tells it."""

    started_at: str
    status: Status
    facts: RunFacts


@dataclass(frozen=True, kw_only=True)
class Export:
    """A version that left the store for `path`: in the store, or where the person asked for."""

    kind: str
    version: str
    created_at: str
    path: Path
    hashes: dict[str, str]


VERSION, RUN, EXPORT = TypeAdapter(Version), TypeAdapter(RunRecord), TypeAdapter(Export)


def plain(value: object) -> object:
    """`value` in the words of JSON; what can be called is left out."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value):
        return plain({each.name: attrgetter(each.name)(value) for each in fields(value)})
    if isinstance(value, Mapping):
        kept = ((str(key), item) for key, item in value.items() if not callable(item))
        return {key: plain(item) for key, item in kept}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def to_json(record: object) -> str:
    """`record` as the text of a JSON file."""
    return json.dumps(plain(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def from_json(kind: TypeAdapter[Record], file: Path, /, **known: object) -> Record | None:
    """The record in `file`, with what is `known` besides; None when it is damaged."""
    try:
        return kind.validate_python({**json.loads(file.read_bytes()), **known})
    except (OSError, ValueError, TypeError):
        return None
