"""How each verb's answer looks: answers on stdout, everything about the work on stderr."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dlm.cli import shapes
from dlm.cli.shapes import WORST, as_json, as_json_line
from dlm.errors import DlmError
from dlm.verbs.keep import Shown

COLOURS = {"red": 31, "green": 32, "yellow": 33}  # of a terminal (ECMA-48)
SHA_SHOWN = 12  # letters that tell recordings apart
TASKS = {"transcribe": "to transcribe", "answer": "to answer", "text": "of text"}
SKIPPED = {
    "skipped_audio_no_transcript": "without a transcript",
    "skipped_rows_no_audio": "without a recording",
    "skipped_not_audio": "not audio",
    "skipped_excluded": "excluded",
    "skipped_over_max_files": "over max_files",
}


def answer(text: str = "", *, end: str = "\n") -> None:
    """Print a line of the answer itself."""
    print(text, end=end, flush=True)


def remark(text: str, *, style: str | None = None) -> None:
    """Print a line about the work, in colour where somebody looks."""
    if style and sys.stderr.isatty():
        text = coloured(text, style)
    print(text, file=sys.stderr, flush=True)  # which a bar that moves lets through above it


def coloured(text: str, style: str) -> str:
    """A text in colour."""
    return f"\x1b[{COLOURS[style]}m{text}\x1b[0m"


def error(mistake: DlmError) -> None:
    """Print a mistake, in one line."""
    remark(" ".join(str(mistake).split()), style="red")


def table(rows: Sequence[tuple[str, ...]], *, head: tuple[str, ...] = ()) -> None:
    """Print rows in columns, each as wide as its widest cell."""
    lines = [head, *rows] if head else list(rows)
    columns = range(max(map(len, lines), default=0))
    widths = [max((len(line[at]) for line in lines if at < len(line)), default=0) for at in columns]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        answer("  ".join(cells).rstrip())


def init(document: Any, form: str) -> int:
    """Say what was written and what comes next."""
    remark(f"wrote {document.path} ({document.settings.base_model})")
    remark(f"next: put your clips in it, then `dlm check {document.path}`")
    return 0


def summary(checked: Any, *, more: Sequence[tuple[str, str]] = ()) -> None:
    """What there is to learn from, `more` that is known of it, and the plan."""
    heard = checked.audit
    kinds = ", ".join(f"{count:,} {TASKS[kind]}" for kind, count in heard.tasks.items())
    rows = [("clips", f"{heard.clips:,}" + (f" ({kinds})" if kinds else ""))]
    if heard.rates:
        each = f"{heard.seconds_min:.1f} to {heard.seconds_max:.1f} s a clip"
        whole = length(heard.hours * 3600)
        rows.append(("sound", f"{whole} ({each}, median {heard.seconds_median:.1f} s)"))
    if heard.heard < heard.sounds:
        told = f"{heard.heard:,} of {heard.sounds:,} sounds in full, the others by their headers"
        rows.append(("heard", f"{told} (check --full hears all)"))
    rows += more
    rows.append(("held out", f"{len(checked.held_out):,} (never learned from)"))
    rows += [_source(source) for source in checked.sources]
    table(rows + planned(checked.plan.lines if checked.plan else ()))


def prompt(pieces: Iterator[str], form: str) -> int:
    """The answer as it is spoken, or in one object."""
    if form == "json":
        answer(as_json({"answer": "".join(pieces)}))
        return 0
    for piece in pieces:
        answer(piece, end="")
    answer()
    return 0


def transcribe(transcripts: Iterator[Any], form: str) -> int:
    """Text by file; JSON Lines; or subtitles."""
    for number, each in enumerate(transcripts):
        if form == "json":
            answer(as_json_line({**vars(each), "text": each.text}))
        elif form == "text":
            answer(f"{each.path}: {each.text}")
        else:
            answer(("\n" if number else "") + each.subtitles(form), end="")
    return 0


def evaluate(report: Any, form: str) -> int:
    """Error rates with their edits, and the worst clips."""
    if form == "json":
        answer(as_json(shapes.evaluated(report)))
        return 0
    if report.row:
        return _by_hand(report.row)
    rows = []
    for name, found in (("WER", report.words), ("CER", report.characters)):
        if found:
            edits = f"{found.substitutions:,} substituted, {found.deletions:,} deleted"
            edits += f", {found.insertions:,} inserted, of {found.length:,}"
            rows.append((name, f"{found.rate:.1%}", edits))
    names = {"loss": "", "shuffled_loss": "with another clip's sound", "gap": "the difference"}
    for name, meaning in names.items():
        if name in report.scores:
            said = "listening gap" if name == "gap" else "loss"
            rows.append((said, f"{report.scores[name]:.3f}", meaning))
    rows.append(("clips", f"{report.clips:,}", f"normaliser {report.normaliser}"))
    table(rows + [_source(source) for source in report.sources])
    wrong = [each for each in report.worst[:WORST] if each.wer]
    if wrong:
        worst = [(f"{each.wer:.0%}", each.place, each.said, each.heard) for each in wrong]
        answer()
        table(worst, head=("WER", "clip", "said", "heard"))
    return 0


def _by_hand(row: Any) -> int:
    """The loss of one row, token by token."""
    count = len(row.tokens)
    told = f"{count:,} label token{'s' * (count > 1)}, loss {row.by_hand:.4f} by hand"
    answer(f"{row.place}: {told}, {row.trained:.4f} as it is trained")
    lines = [(repr(each.token), f"{each.loss:.3f}", repr(each.likeliest)) for each in row.tokens]
    table(lines, head=("token", "loss", "likeliest"))
    return 0


def show(shown: Shown, form: str) -> int:
    """What a document holds and what was learned from it."""
    if form == "json":
        answer(as_json(shapes.shown(shown)))
        return 0
    settings, revision = shown.document.settings, shown.base.revision
    rows = [
        ("document", f"{shown.document.path} ({settings.dlm_id})"),
        ("base", shown.base.key + (f", revision {revision}" if revision else "")),
        ("clips", f"{shown.clips:,}" + " looked at, of a stream" * settings.training.streamed),
    ]
    rows += [_source(source) for source in shown.sources]
    for each in shown.versions:
        used = " (in use)" if each.name == shown.current else ""
        rows.append(("version", f"{each.name}{used}, {_steps(each.steps)}, {scores(each.scores)}"))
    rows += [("export", f"{each.version}, {each.path}") for each in shown.exports]
    rows.append(("store", f"{shown.store} ({shown.size_bytes / 1e6:.1f} MB)"))
    table(rows)
    if shown.asked:
        heard = shown.asked.learned_from
        answer()
        answer(f"{shown.asked.name} learned from {len(heard):,} recording{'s' * (len(heard) != 1)}")
        table([(each.sha256[:SHA_SHOWN], each.path) for each in heard])
    return 0


def versions(shown: Shown, form: str) -> int:
    """Each version in a line; the one in use is marked."""
    if form == "json":
        answer(as_json(shapes.shown(shown)["versions"]))
        return 0
    for each in shown.versions:
        mark = "*" if each.name == shown.current else " "
        made = each.created_at[:16].replace("T", " ")
        answer(f"{mark} {each.name}  {made}  {_steps(each.steps)}, {scores(each.scores)}")
    if not shown.versions:
        remark(f"no version yet: run `dlm train {shown.document.path}`")
    return 0


def use(version: Any, form: str) -> int:
    """Say which version is in use."""
    remark(f"{version.name} is in use")
    return 0


def export(exported: Any, form: str) -> int:
    """Say where it went."""
    forms = {"native": "an HF audio snapshot", "stitched": "a base of its own"}
    answer(str(exported.path))
    files = f"{len(exported.hashes)} files, README.md first"
    remark(f"{exported.version} written as {forms[exported.kind]} ({files})")
    return 0


def stitch(stitched: Any, form: str) -> int:
    """Say where it went, and how to go on."""
    answer(str(stitched.folder))
    remark(f"{stitched.base.key}, {stitched.size_bytes / 1e6:,.0f} MB: nobody has taught it yet")
    return 0


def verify(verified: Any, form: str) -> int:
    """Each file that is not as it was written; exit 1 when there is one."""
    if form == "json":
        answer(as_json(verified))
        return int(bool(verified.differences))
    for line in verified.differences:
        remark(line, style="red")
    if not verified.differences:
        answer(f"{verified.path}: {verified.files:,} files are as they were written")
    return int(bool(verified.differences))


def scores(found: dict[str, float]) -> str:
    """Scores in one line, as far as they were measured."""
    told = [f"{name.upper()} {found[name]:.1%}" for name in ("wer", "cer") if name in found]
    if "loss" in found:
        told.append(f"loss {found['loss']:.3f}")
    if "gap" in found:
        told.append(f"listening gap {found['gap']:.3f}")
    return ", ".join(told) or "no scores"


def length(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def planned(lines: Sequence[Any]) -> list[tuple[str, str]]:
    """Every number of a plan, and why."""
    return [(line.name, line.value + (f" ({line.why})" if line.why else "")) for line in lines]


def _source(source: Any) -> tuple[str, str]:
    """What a source gave, and what was left out."""
    counts = [(vars(source)[name], words) for name, words in SKIPPED.items()]
    left = "".join(f", {count:,} {words}" for count, words in counts if count)
    return "source", f"{source.path}: {source.audio_count:,} clips{left}"


def _steps(count: int) -> str:
    return f"{count:,} step{'s' * (count != 1)}"
