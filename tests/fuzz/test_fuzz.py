"""Whatever is written in a document or a list, it is read, or refused in one line, and soon."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.keepers import KEEPERS
from tests.fuzz.cases import (
    KEPT,
    LISTS,
    Bench,
    Case,
    Hang,
    check,
    in_time,
    try_documents,
    try_sources,
    turn_of,
)
from tests.fuzz.documents import check_document, document
from tests.fuzz.lists import asked_otherwise, changed

DRAWN = st.randoms(use_true_random=False)


@given(DRAWN)
def test_any_document_is_read_or_refused(random: Random) -> None:
    with in_time():
        check_document(document(random))


@pytest.fixture(scope="module", params=LISTS)
def bench(request: pytest.FixtureRequest):
    with Bench(request.param) as bench:
        yield bench


@given(random=DRAWN)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_a_clip_or_a_problem(bench: Bench, random: Random) -> None:
    path = random.choice(bench.files)
    data = changed(Path(path), bench.plain[path], random)
    with in_time():
        bench.check(Case(bench.name, data, path, asked_otherwise(random)))


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_what_failed_once_does_not_again(path: Path) -> None:
    check(Case.read(path))


def test_a_case_is_drawn_again_from_its_seed() -> None:
    first, again = (try_documents("7", range(30)) for _ in range(2))
    assert first == again and 0 < first.fine["document"] < first.tried["document"] == 30
    first, again = (try_sources("7", range(24)) for _ in range(2))
    assert first == again and sum(first.tried.values()) == 24
    assert {turn_of(number) for number in range(10_000)} == set(KEEPERS)


def test_a_case_is_kept_as_it_was(tmp_path: Path) -> None:
    case = Case("json", b"\xff\0\n", "data/list.jsonl")
    assert Case.read(case.keep(tmp_path)) == case


def test_what_takes_too_long_is_told() -> None:
    with pytest.raises(Hang), in_time(0.05):
        while True:
            pass
