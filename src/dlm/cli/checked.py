"""How what check found is told: problems on stderr, the sum of it all on stdout."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from dlm.cli import shapes
from dlm.cli.shapes import as_json
from dlm.cli.tell import answer, coloured, length, remark, summary, table

ALIKE = 20  # problems told of each mend; the rest are counted
WORST = 20  # clips of a dictation
NAMED = 4  # languages, speakers and rates told by name
BLOCKS = " ▁▂▃▄▅▆▇█"


def check(checked: Any, form: str) -> int:
    """Every problem with its place, and the sum of what there is."""
    if form == "json":
        answer(as_json(shapes.checked(checked)))
        return int(bool(checked.fatal))
    problems(checked.problems)
    summary(checked, more=_together(checked.audit))
    if checked.dictation:
        _dictation(checked.dictation)
    if checked.row:
        labels(checked.row)
    if checked.page:
        remark(f"open {checked.page} in a browser")
    count = len(checked.fatal)
    if count:
        remark(f"{count} problem{'s' * (count > 1)} would stop training", style="red")
    return int(count > 0)


def problems(found: Iterable[Any]) -> None:
    """Each problem in a line; of very many that the same would mend, the first and a count."""
    told: Counter[str] = Counter()
    for problem in found:
        told[problem.mend] += 1
        if told[problem.mend] <= ALIKE:
            remark(str(problem), style="red" if problem.fatal else "yellow")
    for mend, count in told.items():
        if count > ALIKE:
            remark(f"and {count - ALIKE:,} more ({mend}): `dlm check --json` names all")


def labels(row: Any) -> None:
    """One row as it is learned: each stretch in a line, those that carry loss marked."""
    answer()
    answer(f"{row.place}: {row.learned:,} of {row.tokens:,} tokens are learned (marked >)")
    for each in row.stretches:
        text = each.text.replace("\n", "\\n")
        line = f"{'>' if each.learned else ' '} {each.tokens:>5}  {text}"
        answer(coloured(line, "green") if each.learned and sys.stdout.isatty() else line)


def _together(heard: Any) -> list[tuple[str, str]]:
    """What clips are together, beyond their number and length."""
    rows = []
    if sum(heard.lengths.counts) > 1:
        rows.append(("lengths", _bars(heard.lengths, "s")))
    if sum(heard.levels.counts) > 1:
        rows.append(("levels", _bars(heard.levels, "dBFS")))
    if heard.transcripts_per_minute:
        pace = f"{heard.words_per_second:.1f} words per second"
        rows.append(("pace", f"{pace}, {heard.transcripts_per_minute:.1f} transcripts a minute"))
    if len(heard.rates) > 1:
        rates = (f"{rate:,} Hz {count:,}" for rate, count in heard.rates.most_common())
        rows.append(("rates", _some(rates, len(heard.rates))))
    for name, tallies in (("languages", heard.languages), ("speakers", heard.speakers)):
        if tallies:
            rows.append((name, _some(_tallied(tallies), len(tallies))))
    return rows


def _bars(histogram: Any, unit: str) -> str:
    """A histogram in a line: between its ends a block a bin, and where most lie."""
    full = [at for at, count in enumerate(histogram.counts) if count]
    counts = histogram.counts[full[0] : full[-1] + 1]
    edges = histogram.edges[full[0] : full[-1] + 2]
    most = max(counts)
    blocks = "".join(BLOCKS[math.ceil(count / most * (len(BLOCKS) - 1))] for count in counts)
    where = counts.index(most)
    span = f"{edges[where]:g} to {edges[where + 1]:g} {unit}"
    return f"{edges[0]:g} {blocks} {edges[-1]:g} {unit}, most of them {span} ({most:,})"


def _tallied(tallies: Mapping[str, Any]) -> Iterable[str]:
    for name, each in tallies.items():
        yield f"{name} {each.clips:,} ({length(each.seconds)})"


def _some(told: Iterable[str], count: int) -> str:
    more = f", and {count - NAMED:,} more" if count > NAMED else ""
    return ", ".join(islice(told, NAMED)) + more


def _dictation(found: Any) -> None:
    """What a model heard, the worst clips first."""
    answer()
    count = f"{len(found.clips):,} of {found.of:,} clips"
    answer(f"{found.model} heard {count}: {found.wer:.1%} of the words differ")
    wrong = [each for each in found.clips if each.wer]
    rows = [(f"{each.wer:.0%}", each.place, each.said, each.heard) for each in wrong[:WORST]]
    if rows:
        table(rows, head=("WER", "clip", "written", "heard"))
