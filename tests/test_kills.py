"""A training that is killed at any moment goes on, to the same bits."""

import json
import subprocess
import sys
from pathlib import Path

KILLED = Path(__file__).with_name("killed.py")
KILLS = 7


def test_what_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, KILLED, tmp_path, str(KILLS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, *killed = map(json.loads, done.stdout.splitlines())
    assert whole["codes"] == [0], whole["log"]
    assert len(whole["versions"]) == 1
    for each in killed:
        assert each["codes"][-1] == 0, each["log"]
        assert each["versions"] == whole["versions"], each
        assert "Traceback" not in each["log"], each["log"]
    assert sum(each["kills"] for each in killed) >= KILLS
    said = "".join(each["log"] for each in killed)
    assert "nothing was saved of an earlier run; starting over" in said
    assert "going on after step" in said
