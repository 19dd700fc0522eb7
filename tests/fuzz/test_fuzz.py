"""Any document or source is read or refused in one line, within a time limit (fuzzing)."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.fuzz.cases import (
    LISTS,
    REGRESSIONS_DIR,
    Case,
    FixtureBench,
    TimeLimitExceeded,
    check_case,
    choose_fixture,
    fuzz_documents,
    fuzz_sources,
    limit_time,
)
from tests.fuzz.documents import check_document, make_document
from tests.fuzz.sources import make_source_fields, mutate_file

RANDOMS = st.randoms(use_true_random=False)


@given(RANDOMS)
def test_any_document_is_read_or_refused(random: Random) -> None:
    with limit_time():
        check_document(make_document(random))


@pytest.fixture(scope="module", params=LISTS)
def bench(request: pytest.FixtureRequest):
    with FixtureBench(request.param) as bench:
        yield bench


@given(random=RANDOMS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_source_is_read_or_has_issues(bench: FixtureBench, random: Random) -> None:
    path = random.choice(bench.files)
    data = mutate_file(Path(path), bench.original_bytes[path], random)
    with limit_time():
        bench.check(Case(bench.name, data, path, make_source_fields(random)))


@pytest.mark.parametrize("path", sorted(REGRESSIONS_DIR.glob("*.json")), ids=lambda path: path.stem)
def test_cases_that_failed_once_pass(path: Path) -> None:
    check_case(Case.load(path))


def test_cases_are_the_same_for_the_same_seed() -> None:
    first, again = (fuzz_documents("7", range(30)) for _ in range(2))
    assert first == again and 0 < first.num_valid["document"] < first.num_cases["document"] == 30
    first, again = (fuzz_sources("7", range(24)) for _ in range(2))
    assert first == again and sum(first.num_cases.values()) == 24
    assert {choose_fixture(number) for number in range(10_000)} == set(FORMAT_FIXTURES)


def test_a_saved_case_loads_unchanged(tmp_path: Path) -> None:
    case = Case("json", b"\xff\0\n", "data/list.jsonl")
    assert Case.load(case.save(tmp_path)) == case


def test_a_case_beyond_the_time_limit_fails() -> None:
    with pytest.raises(TimeLimitExceeded), limit_time(0.05):
        while True:
            pass
