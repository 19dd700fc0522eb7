"""One case after the other: what is tried, what may come of it, and the files of those that fail.

A case is drawn from a seed, so that it can be drawn again. What fails is kept beside this file, in
kept/, and tried in every run of the tests.
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
from tests.data.keepers import KEEPERS
from tests.fuzz.documents import check_document, document
from tests.fuzz.lists import STRICT, asked_otherwise, changed, check_source, shelf

KEPT = Path(__file__).parent / "kept"
LONGEST_SECONDS = 5.0
PACKED = sorted(name for name in KEEPERS if re.match("hub|parquet|audiofolder parquet", name))
LISTS = sorted(set(KEEPERS) - set(PACKED))  # what `datasets` does not read
PACKED_EVERY = 100  # that many lists for one that is packed: those take long


class Hang(BaseException):
    """A case that takes too long; no code catches it."""


@dataclass(frozen=True)
class Case:
    """A document, or one changed file of a format's fixture."""

    kind: str  # document, or the name of a keeper
    data: bytes
    file: str = ""  # below the fixture's folder
    wishes: dict[str, Any] = field(default_factory=dict)  # of the source

    def keep(self, folder: Path = KEPT) -> Path:
        """Write it down, to be tried again."""
        told = {**vars(self), "data": base64.b64encode(self.data).decode()}
        path = folder / f"{self.kind.replace(' ', '-')}-{sha256(self.data).hexdigest()[:12]}.json"
        path.write_text(json.dumps(told, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> "Case":
        """A case that was kept."""
        told = json.loads(path.read_text())
        return cls(**{**told, "data": base64.b64decode(told["data"])})


@dataclass
class Tally:
    """What came of many cases: how many of each kind, and of those how many were fine."""

    tried: Counter[str] = field(default_factory=Counter)
    fine: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[Case, str]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Take in what another process came to."""
        self.tried += other.tried
        self.fine += other.fine
        self.failed += other.failed


def try_documents(seed: str, numbers: range) -> Tally:
    """Documents, each drawn from the seed and its number."""
    tally = Tally()
    for number in numbers:
        case = Case("document", document(Random(f"{seed}/document/{number}")))
        _try(case, tally, lambda case: check_document(case.data))
    return tally


def try_sources(seed: str, numbers: range) -> Tally:
    """Sources of every format in turn, each drawn from the seed and its number."""
    tally = Tally()
    for name in LISTS + PACKED:
        mine = [number for number in numbers if turn_of(number) == name]
        with Bench(name) if mine else nullcontext() as bench:
            for number in mine:
                random = Random(f"{seed}/{name}/{number}")
                path = random.choice(bench.files)
                data = changed(bench.folder / path, bench.plain[path], random)
                _try(Case(name, data, path, asked_otherwise(random)), tally, bench.check)
    return tally


def turn_of(number: int) -> str:
    """Whose turn it is."""
    packed = number % PACKED_EVERY == PACKED_EVERY - 1
    return PACKED[number // PACKED_EVERY % len(PACKED)] if packed else LISTS[number % len(LISTS)]


class Bench:
    """The fixture of a format, of which one file at a time is another."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> "Bench":
        self._kept = tempfile.TemporaryDirectory()
        self.folder = Path(self._kept.name) / "far/away"
        self.folder.mkdir(parents=True)
        self._shelf = shelf(self.name, self.folder)
        self.files = [str(path.relative_to(self.folder)) for path in self._shelf.files]
        self.plain = {name: (self.folder / name).read_bytes() for name in self.files}
        source = SourceConfig.model_validate(self._shelf.source)
        assert check_source(self._shelf.document, source), f"the fixture of {self.name} is not fine"
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.cleanup()

    def check(self, case: Case) -> bool:
        """Whether nothing is wrong with the source when one of its files is another."""
        wishes = {**self._shelf.source, **case.wishes}
        document = self._shelf.strict if wishes.pop(STRICT, False) else self._shelf.document
        source = SourceConfig.model_validate(wishes)
        self._put(case.file, case.data)
        try:
            return check_source(document, source)
        finally:
            self._put(case.file, self.plain[case.file])

    def _put(self, file: str, data: bytes) -> None:
        """Write a new file in the place of another, which somebody may still hold."""
        beside = self.folder.parent / "new"
        beside.write_bytes(data)
        beside.replace(self.folder / file)


def check(case: Case) -> bool:
    """Try one case again."""
    if case.kind == "document":
        with in_time():
            return check_document(case.data)
    with Bench(case.kind) as bench, in_time():
        return bench.check(case)


@contextmanager
def in_time(seconds: float = LONGEST_SECONDS) -> Iterator[None]:
    """Raise Hang when it takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _try(case: Case, tally: Tally, check: Callable[[Case], bool]) -> None:
    tally.tried[case.kind] += 1
    try:
        with in_time():
            tally.fine[case.kind] += check(case)
    except (Exception, Hang) as error:
        tally.failed.append((case, f"{type(error).__name__}: {error}"[:300]))
