"""How what was made is told: recordings, and features handed on."""

from typing import Any

from dlm.cli.tell import answer, remark


def tones(folder: Any, form: str) -> int:
    """Say where they are, and how to go on."""
    answer(str(folder))
    remark(f"next: a document with `sources: {folder.name}` beside it, then `dlm train`")
    return 0


def shards(written: Any, form: str) -> int:
    """Each shard in a line, and what is not in them."""
    for each in written.shards:
        answer(f"{each.name}  {each.samples:,} clips  {each.bytes / 1e6:.1f} MB")
    if written.left_out:
        remark(f"{written.left_out:,} clips without sound are left out")
    return 0
