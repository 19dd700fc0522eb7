"""Two processes that read a stream, killed and resumed: every clip once, and the same bits."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.cli_runner import make_environment

ROOT = Path(__file__).parents[2]
CLIPS = sorted(f"shards/{shard}.tar/{shard}-{row}.wav" for shard in range(8) for row in range(3))
PASS_STEPS = 6  # 24 clips, 4 in each


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("streaming")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.streaming", folder],
        cwd=ROOT,
        env=make_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


def clips(steps: dict[str, list[str]], first: int, last: int) -> list[str]:
    return sorted(chain.from_iterable(steps[str(number)] for number in range(first, last + 1)))


def test_two_ranks_see_every_clip_once_in_a_pass(told: list[dict]) -> None:
    steps = told[0]["steps"]
    assert clips(steps, 1, PASS_STEPS) == CLIPS
    later = clips(steps, PASS_STEPS + 1, 9)
    assert len(later) == len(set(later)) == 12


def test_killed_and_resumed_none_comes_twice_and_none_is_lost(told: list[dict]) -> None:
    whole, killed = told[:2]
    assert killed["kills"] == 2
    assert killed["steps"] == whole["steps"]
    assert killed["sha256"] == whole["sha256"]


def test_dlm_train_killed_and_resumed_comes_to_the_same_bits(told: list[dict]) -> None:
    whole, killed = told[2:]
    assert whole["codes"] == [0] and len(whole["versions"]) == 1
    assert killed["kills"] == 1 and killed["codes"][-1] == 0, killed["log"]
    assert killed["versions"] == whole["versions"]
    assert "Traceback" not in killed["log"]
