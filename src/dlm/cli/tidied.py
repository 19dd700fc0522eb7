"""How what nobody needs is told."""

from typing import Any

from dlm.cli.shapes import as_json
from dlm.cli.tell import answer, remark, table

NAMES_SHOWN = 5
KINDS = {
    "recordings": "recordings that no version learned from",
    "features": "features of recordings that were taken out",
    "answers": "answers of a teacher and older features",
    "states": "states of runs that cannot go on",
    "unfinished": "unfinished files",
}


def gc(tidied: Any, form: str) -> int:
    """What was removed, or would be, by kind."""
    if form == "json":
        answer(as_json(tidied))
        return 0
    rows = []
    for kind, told in KINDS.items():
        found = [each for each in tidied.unneeded if each.kind == kind]
        names = list(dict.fromkeys(each.name for each in found if each.name))
        more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
        if found:
            size = f"{sum(each.size_bytes for each in found) / 1e6:,.1f} MB"
            rows.append((told, f"{len(found):,}", size, ", ".join(names[:NAMES_SHOWN]) + more))
    table(rows)
    total = f"{sum(each.size_bytes for each in tidied.unneeded) / 1e6:,.1f} MB"
    if not rows:
        remark(f"{tidied.document}: nothing is kept that nobody needs")
    elif tidied.removed:
        remark(f"{total} removed")
    else:
        remark(f"{total} would be removed: `dlm gc {tidied.document}`")
    return 0
