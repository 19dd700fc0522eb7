"""A training that is killed at any moment resumes to the same bits."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("kill_training.py")
MIN_KILLS = 7


def test_killed_trainings_resume_to_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(MIN_KILLS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    uninterrupted, *killed = map(json.loads, done.stdout.splitlines())
    assert uninterrupted["codes"] == [0], uninterrupted["log"]
    assert len(uninterrupted["versions"]) == 1
    for training in killed:
        assert training["codes"][-1] == 0, training["log"]
        assert training["versions"] == uninterrupted["versions"], training
        assert "Traceback" not in training["log"], training["log"]
    assert sum(training["kills"] for training in killed) >= MIN_KILLS
    logs = "".join(training["log"] for training in killed)
    assert "nothing was saved of an earlier run; starting over" in logs
    assert "continuing after step" in logs
