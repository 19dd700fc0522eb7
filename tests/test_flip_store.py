"""A store of which a bit is flipped is never used in silence."""

from pathlib import Path

from tests.cli_runner import run_program

NUM_FLIPS = 8


def test_a_flipped_bit_is_told_or_harmless(tmp_path: Path) -> None:
    """Damage of any file of a store: weights, records, pointers, checkpoints, features, copies."""
    whole, *flips = run_program("flip_store", tmp_path, str(NUM_FLIPS))
    assert whole["outcome"] == "harmless" and len(flips) == NUM_FLIPS
    assert not [flip for flip in flips if flip["outcome"] in ("silent", "broken")]
