"""How data that comes and goes is told: what a source gives, and what was handed on."""

import sys
from collections.abc import Mapping
from typing import Any

from dlm.cli.shapes import as_json
from dlm.cli.tell import SKIPPED, answer, length, remark, table

PROBLEMS = 5  # that are told
NAMES = 5  # of languages and speakers
TEXT_LETTERS = 60
SAY_YES = "nothing is written: look at the above and say --yes"


def imported(found: Any, form: str) -> int:
    """What a source gives; in a terminal the question whether to write it. Exit 0 if it is."""
    if form == "json":
        answer(as_json(_shape(found)))
        return int(not found.added)
    _preview(found)
    if not found.written:
        if not found.added:
            remark("nothing is written: the source gives no clip", style="red")
            return 1
        if not sys.stdin.isatty():
            remark(SAY_YES, style="yellow")
            return 1
        if not _agreed(f"write this into {found.path}?"):
            remark("nothing is written")
            return 1
        found.write()
    count = f"{found.added:,} section{'s' * (found.added != 1)}" if found.inline else "the source"
    remark(f"wrote {count} into {found.path}")
    remark(f"next: `dlm check {found.path}`")
    return 0


def data(handed: Any, form: str) -> int:
    """What was written, what was left out, and how to read it."""
    count = f"{handed.clips:,} clip{'s' * (handed.clips != 1)}"
    recordings = f"{handed.recordings:,} recording{'s' * (handed.recordings != 1)}"
    answer(f"{handed.path}: {count}, {recordings}, {length(handed.seconds)}")
    if handed.without_sound:
        remark(f"left out, since they have no sound: {handed.without_sound:,}")
    if handed.unusable:
        remark(f"left out, since they cannot be used: {handed.unusable:,}; `dlm check` says why")
    task = " --task answer" if handed.answers and not handed.source else ""
    remark(f"next: `dlm import {handed.path / handed.source} --into other.dlm{task}`")
    return 0


def _preview(found: Any) -> None:
    """What there is in a table, the first rows, and what is wrong."""
    seen, report = found.preview, vars(found.preview.report)
    minute = f"{seen.transcripts_per_minute:.1f} a minute of sound"
    rows = [
        ("source", found.text),
        ("format", f"{seen.format} ({seen.told})"),
        ("clips", f"{len(seen.clips):,}" + (" of the first rows" if seen.partly else "")),
        ("sound", length(seen.seconds)),
        ("rates", _counts({f"{rate:,} Hz": count for rate, count in seen.rates.items()})),
        ("languages", _counts(seen.languages)),
        ("speakers", _counts(seen.speakers)),
        ("transcripts", f"{minute}, {seen.words_per_minute:.0f} words a minute"),
    ]
    left = {why: report[name] for name, why in SKIPPED.items()}
    rows += [("left out", f"{count:,} {why}") for why, count in left.items() if count]
    fatal = sum(problem.fatal for problem in found.problems)
    count = f"{len(found.problems):,}, {fatal:,} of them fatal" if found.problems else "none"
    table([*rows, ("problems", count)])
    if seen.first:
        answer()
        first = [(each.place, f"{each.seconds:.2f}", _short(each.text)) for each in seen.first]
        table(first, head=("clip", "seconds", "text"))
    for problem in found.problems[:PROBLEMS]:
        remark(str(problem), style="red" if problem.fatal else "yellow")
    if found.problems[PROBLEMS:]:
        remark(f"and {len(found.problems) - PROBLEMS:,} more; --json has all")


def _counts(found: Mapping[str, int]) -> str:
    """How many clips of each, the most frequent first."""
    told = ", ".join(f"{name} {count:,}" for name, count in list(found.items())[:NAMES])
    more = len(found) - NAMES
    return told + (f" and {more:,} more" if more > 0 else "") or "none is said"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LETTERS else f"{line[: TEXT_LETTERS - 3]}..."


def _agreed(question: str) -> bool:
    """What the person at the terminal answers."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _shape(found: Any) -> dict[str, Any]:
    seen = found.preview
    return {
        "document": found.path,
        "source": found.entry,
        "format": seen.format,
        "clips": len(seen.clips),
        "partly": seen.partly,
        "hours": seen.hours,
        "transcripts_per_minute": seen.transcripts_per_minute,
        "words_per_minute": seen.words_per_minute,
        "rates": seen.rates,
        "languages": seen.languages,
        "speakers": seen.speakers,
        "report": seen.report,
        "first": seen.first,
        "problems": found.problems,
        "inline": found.inline,
        "added": found.added,
        "written": found.written,
    }
