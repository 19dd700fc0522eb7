"""Fuzz cases: documents and sources drawn from a seed, their time limit, and files of failures.

Cases that failed once lie in regressions/ and are checked in every run of the tests.
"""

import base64
import json
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from dlm.config.data_schema import SourceConfig
from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.fuzz.documents import check_document, make_document
from tests.fuzz.sources import STRICT, check_source, make_source_fields, mutate_file, write_fixture

REGRESSIONS_DIR = Path(__file__).parent / "regressions"
MAX_SECONDS = 5.0
PACKED = sorted(
    name for name in FORMAT_FIXTURES if re.match("hub|parquet|audiofolder parquet", name)
)
LISTS = sorted(set(FORMAT_FIXTURES) - set(PACKED))  # what `datasets` does not read
PACKED_INTERVAL = 100  # one packed source in so many: they take long


class TimeLimitExceeded(BaseException):
    """A case that takes too long; no code catches it."""


@dataclass(frozen=True)
class Case:
    """A document, or one mutated file of a format's fixture.

    Attributes:
        kind: `document`, or the name of a fixture.
        data: bytes of the document or file.
        file: path of the file in the fixture.
        source_fields: fields of the source, over those of the fixture.
    """

    kind: str
    data: bytes
    file: str = ""
    source_fields: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path = REGRESSIONS_DIR) -> Path:
        """Write the case to a file, to be checked again."""
        record = {**vars(self), "data": base64.b64encode(self.data).decode()}
        path = folder / f"{self.kind.replace(' ', '-')}-{sha256(self.data).hexdigest()[:12]}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Case":
        """Load a case that was saved."""
        record = json.loads(path.read_text())
        return cls(**{**record, "data": base64.b64decode(record["data"])})


@dataclass
class FuzzResults:
    """Results of many cases: how many of each kind ran, were valid, or failed."""

    num_cases: Counter[str] = field(default_factory=Counter)
    num_valid: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Case, str]] = field(default_factory=list)

    def add(self, other: "FuzzResults") -> None:
        """Add the results of another process."""
        self.num_cases += other.num_cases
        self.num_valid += other.num_valid
        self.failures += other.failures


def fuzz_documents(seed: str, numbers: range) -> FuzzResults:
    """Check documents, each drawn from the seed and its number."""
    results = FuzzResults()
    for number in numbers:
        case = Case("document", make_document(Random(f"{seed}/document/{number}")))
        _run_case(case, results, lambda case: check_document(case.data))
    return results


def fuzz_sources(seed: str, numbers: range) -> FuzzResults:
    """Check sources of every format in turn, each drawn from the seed and its number."""
    results = FuzzResults()
    for name in LISTS + PACKED:
        own_numbers = [number for number in numbers if choose_fixture(number) == name]
        with FixtureBench(name) if own_numbers else nullcontext() as bench:
            for number in own_numbers:
                random = Random(f"{seed}/{name}/{number}")
                path = random.choice(bench.files)
                data = mutate_file(bench.folder / path, bench.original_bytes[path], random)
                _run_case(Case(name, data, path, make_source_fields(random)), results, bench.check)
    return results


def choose_fixture(number: int) -> str:
    """Return the name of the fixture of a number: all in turn."""
    is_packed = number % PACKED_INTERVAL == PACKED_INTERVAL - 1
    return (
        PACKED[number // PACKED_INTERVAL % len(PACKED)] if is_packed else LISTS[number % len(LISTS)]
    )


class FixtureBench:
    """The fixture of a format on disk; one file at a time is replaced."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> "FixtureBench":
        self._temp_dir = tempfile.TemporaryDirectory()
        self.folder = Path(self._temp_dir.name) / "far/away"
        self.folder.mkdir(parents=True)
        self._fixture = write_fixture(self.name, self.folder)
        self.files = [str(path.relative_to(self.folder)) for path in self._fixture.files]
        self.original_bytes = {name: (self.folder / name).read_bytes() for name in self.files}
        source = SourceConfig.model_validate(self._fixture.source)
        assert check_source(self._fixture.document, source), (
            f"the fixture of {self.name} is not valid"
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._temp_dir.cleanup()

    def check(self, case: Case) -> bool:
        """Check the source with one file replaced; return whether it has no issue."""
        fields = {**self._fixture.source, **case.source_fields}
        document = self._fixture.strict if fields.pop(STRICT, False) else self._fixture.document
        source = SourceConfig.model_validate(fields)
        self._replace_file(case.file, case.data)
        try:
            return check_source(document, source)
        finally:
            self._replace_file(case.file, self.original_bytes[case.file])

    def _replace_file(self, file: str, data: bytes) -> None:
        """Replace a file, which a reader may still have open."""
        new_file = self.folder.parent / "new"
        new_file.write_bytes(data)
        new_file.replace(self.folder / file)


def check_case(case: Case) -> bool:
    """Check one case."""
    if case.kind == "document":
        with limit_time():
            return check_document(case.data)
    with FixtureBench(case.kind) as bench, limit_time():
        return bench.check(case)


@contextmanager
def limit_time(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Raise TimeLimitExceeded when the block takes longer."""

    def raise_late(number: int, frame: FrameType | None) -> None:
        raise TimeLimitExceeded(f"takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, raise_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run_case(case: Case, results: FuzzResults, check: Callable[[Case], bool]) -> None:
    results.num_cases[case.kind] += 1
    try:
        with limit_time():
            results.num_valid[case.kind] += check(case)
    except (Exception, TimeLimitExceeded) as error:
        results.failures.append((case, f"{type(error).__name__}: {error}"[:300]))
