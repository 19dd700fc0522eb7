"""A training that is killed at any moment resumes to the same bits."""

from pathlib import Path

from tests.cli_runner import run_program

MIN_KILLS = 7


def test_killed_trainings_resume_to_the_same_bits(tmp_path: Path) -> None:
    uninterrupted, *killed = run_program("kill_training", tmp_path, str(MIN_KILLS))
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
