"""A store of which a bit is flipped is never used in silence."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("flip_store.py")
NUM_FLIPS = 8


def test_a_flipped_bit_is_told_or_harmless(tmp_path: Path) -> None:
    """Damage of any file of a store: weights, records, pointers, checkpoints, features, copies."""
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(NUM_FLIPS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, *flips = map(json.loads, done.stdout.splitlines())
    assert whole["outcome"] == "harmless" and len(flips) == NUM_FLIPS
    assert not [flip for flip in flips if flip["outcome"] in ("silent", "broken")]
