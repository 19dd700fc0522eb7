"""Streamed runs of two ranks, killed and resumed: every example once, the same weights."""

from itertools import chain

import pytest

from tests.cli_runner import run_program

LOCATIONS = sorted(
    f"shards/{shard}.tar/{shard}-{index}.wav" for shard in range(8) for index in range(3)
)
STEPS_PER_EPOCH = 6  # 24 clips, 4 in each


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("streaming")
    return run_program("training.run_streaming", folder)


def list_locations(steps: dict[str, list[str]], first: int, last: int) -> list[str]:
    return sorted(chain.from_iterable(steps[str(number)] for number in range(first, last + 1)))


def test_two_ranks_get_every_example_once_an_epoch(results: list[dict]) -> None:
    steps = results[0]["steps"]
    assert list_locations(steps, 1, STEPS_PER_EPOCH) == LOCATIONS
    second_epoch = list_locations(steps, STEPS_PER_EPOCH + 1, 9)
    assert len(second_epoch) == len(set(second_epoch)) == 12


def test_killed_and_resumed_ranks_get_the_same_examples(results: list[dict]) -> None:
    reference, killed = results[:2]
    assert killed["kills"] == 2
    assert killed["steps"] == reference["steps"]
    assert killed["sha256"] == reference["sha256"]


def test_killed_and_resumed_dlm_train_makes_the_same_version(results: list[dict]) -> None:
    reference, killed = results[2:]
    assert reference["codes"] == [0] and len(reference["versions"]) == 1
    assert killed["kills"] == 1 and killed["codes"][-1] == 0, killed["log"]
    assert killed["versions"] == reference["versions"]
    assert "Traceback" not in killed["log"]
