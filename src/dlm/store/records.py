"""Records in the store's JSON files (version.json, run.json, exports/*.json), and the environment.

    RunRecord            what a run starts from: hashes of document and data, plan, seed, model
    └── VersionRecord    and its results: steps, seconds, scores, library versions
        └── Version      and where it is: number, hashes of its files, folder
    RunInfo              a run: its record and its status
    ExportInfo           a version that was exported
    ClipScores           what a version, or the base, scored on each held-out clip

In JSON, nan and infinity are null, a path is its text, and callables are left out. Each file holds
a checksum of the rest of it: a record of which one byte has changed is not read as another record.
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

from dlm.legacy import RECORD, upgrade_record
from dlm.training.events import VersionComparison

RecordT = TypeVar("RecordT")
RunStatus = Literal["unfinished", "finished", "abandoned"]
TRACKED_PACKAGES = (
    *("dlm", "torch", "transformers", "peft", "accelerate", "safetensors"),
    *("numpy", "soundfile", "soxr"),
)
# what overrides change is in the plan and the data; a newer decoder makes no other run
RECORD_CHECKSUM_KEY = "checksum"
UNCOMPARED_FIELDS = ("overrides", "audio_backends", "num_threads")


@dataclass(frozen=True)
class RecordingHash:
    """A recording that was trained on.

    Attributes:
        path: as the author wrote it.
        sha256: of its bytes.
    """

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run starts from; equal records make equal versions.

    Attributes:
        document_sha256: of the document's text.
        data_sha256: of the training examples.
        plan: every number of the run.
        seed: of everything that is drawn.
        base_model: key of the model it starts from.
        base_model_revision: commit or hash of its weights.
        train_recordings: recordings that were trained on.
        overrides: options given over the document.
        audio_backends: the libraries that decode and resample, with their versions.
        num_threads: of the CPU; with another number sums are rounded otherwise, and so are the
            weights.
    """

    document_sha256: str
    data_sha256: str
    plan: dict[str, object]
    seed: int
    base_model: str
    base_model_revision: str | None = None
    train_recordings: tuple[RecordingHash, ...] = ()
    overrides: dict[str, object] = field(default_factory=dict)
    audio_backends: dict[str, str] = field(default_factory=dict)
    num_threads: int | None = None

    def find_changed_fields(self, other: "RunRecord") -> tuple[str, ...]:
        """Return the names of the fields that would make another version."""
        others = vars(other)
        return tuple(
            name
            for name, value in vars(self).items()
            if name not in UNCOMPARED_FIELDS and to_jsonable(value) != to_jsonable(others.get(name))
        )


@lru_cache
def _get_package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect_environment() -> dict[str, str]:
    """Return the versions of Python, the machine and the libraries a version is made with."""
    versions = {package: _get_package_version(package) for package in TRACKED_PACKAGES}
    installed = {package: number for package, number in versions.items() if number is not None}
    return {"python": platform.python_version(), "machine": platform.machine(), **installed}


@dataclass(frozen=True, kw_only=True)
class VersionRecord(RunRecord):
    """A run's start and its results.

    Attributes:
        steps: optimizer steps.
        seconds: time they took.
        scores: of the evaluation at the end, by name.
        run: id of the run.
        environment: versions of the libraries.
        comparison: with the version that was in use; None where there was none.
    """

    steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    run: str | None = None
    environment: dict[str, str] = field(default_factory=collect_environment)
    comparison: VersionComparison | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether its commit puts it in use: it is not clearly worse than what it would replace."""
        return self.comparison is None or self.comparison.is_accepted


@dataclass(frozen=True, kw_only=True)
class Version(VersionRecord):
    """A version in the store.

    Attributes:
        number: counted from 1.
        created_at: time of the commit, UTC.
        hashes: sha256 of its files, by their paths in its folder.
        path: its folder.
    """

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
        """One hash of all files: equal versions are equal in every byte."""
        lines = "".join(f"{self.hashes[name]}  {name}\n" for name in sorted(self.hashes))
        return hashlib.sha256(lines.encode()).hexdigest()

    def get_trained_option(self, *names: str) -> object:
        """Return a field of the base's spec that it was trained with; None if it is not there."""
        value: object = self.plan
        for name in ("model", "spec", *names):
            value = value.get(name) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of a `run.json`."""

    started_at: str
    status: RunStatus
    record: RunRecord


@dataclass(frozen=True)
class ClipScores:
    """What a model scored on each of some held-out clips.

    Attributes:
        metric: "wer", "cer" or "loss".
        normalizer: of the transcripts; empty for losses.
        scores: errors, or nats, and length in words, characters or tokens; by a hash of the clip.
    """

    metric: str
    normalizer: str
    scores: dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """A version that was exported.

    Attributes:
        kind: of the model.
        version: its name, `v0001`.
        created_at: time of the export, UTC.
        path: the folder it was written to, in the store or elsewhere.
        hashes: sha256 of the files, by their paths in it.
    """

    kind: str
    version: str
    created_at: str
    path: Path
    hashes: dict[str, str]


VERSION_TYPE_ADAPTER = TypeAdapter(Version)
RUN_TYPE_ADAPTER = TypeAdapter(RunInfo)
EXPORT_TYPE_ADAPTER = TypeAdapter(ExportInfo)
CLIP_SCORES_TYPE_ADAPTER = TypeAdapter(ClipScores)


def to_jsonable(value: object) -> object:
    """Convert a value to what JSON holds; callables are left out."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value):
        return to_jsonable({each.name: attrgetter(each.name)(value) for each in fields(value)})
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items() if not callable(item)}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    return str(value)


def dump_record_json(record: object) -> str:
    """Format a record as the text of a JSON file, with its checksum."""
    fields = to_jsonable(record)
    if isinstance(fields, dict):
        fields = {**fields, RECORD_CHECKSUM_KEY: _compute_checksum(fields)}
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def parse_record_json(data: bytes) -> object:
    """Parse the text of a JSON file; a file without a checksum is of an earlier version.

    Raises:
        ValueError: it is not JSON, or other than it was written.
    """
    fields = json.loads(data)
    if isinstance(fields, dict):
        checksum = fields.pop(RECORD_CHECKSUM_KEY, None)
        if checksum not in (None, _compute_checksum(fields)):
            raise ValueError("was changed since it was written")
    return fields


def _compute_checksum(fields: dict[str, object]) -> str:
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def load_record_json(
    type_adapter: TypeAdapter[RecordT], path: Path, /, **extra_fields: object
) -> RecordT | None:
    """Read a record and validate it with fields the file does not hold; None if it is damaged."""
    try:
        upgraded = upgrade_record(parse_record_json(path.read_bytes()), RECORD)
        return type_adapter.validate_python({**upgraded, **extra_fields})
    except (OSError, ValueError, TypeError, RecursionError):
        return None
