"""How each verb's answer looks: answers on stdout, everything about the work on stderr."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from dlm.errors import DlmError
from dlm.verbs.keep import Health, Shown
from dlm.verbs.say import plain

WORST = 10  # clips that eval names
GIB = 1 << 30


def answer(text: str = "", *, end: str = "\n") -> None:
    """Print a line of the answer itself."""
    print(text, end=end, flush=True)


def remark(text: str, *, style: str | None = None) -> None:
    """Print a line about the work."""
    said = Console(stderr=True, soft_wrap=True, highlight=False)
    said.print(text, style=style, markup=False)


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


def check(checked: Any, form: str) -> int:
    """Every problem with its place, and the sum of what there is."""
    if form == "json":
        _json(_checked(checked))
        return int(bool(checked.fatal))
    for problem in checked.problems:
        remark(str(problem), style="red" if problem.fatal else "yellow")
    summary(checked)
    if checked.fatal:
        remark(f"{len(checked.fatal)} problems would stop training", style="red")
    return int(bool(checked.fatal))


def summary(checked: Any) -> None:
    """What there is to learn from, and the plan."""
    heard = checked.audit
    rows = [
        ("clips", f"{heard.clips:,}", ", ".join(f"{n:,} {k}" for k, n in heard.tasks.items())),
        (
            "sound",
            length(heard.hours * 3600),
            f"{heard.seconds_min:.1f} to {heard.seconds_max:.1f} s,"
            f" median {heard.seconds_median:.1f} s",
        ),
        ("held out", f"{len(checked.held_out):,}", "never learned from"),
    ]
    for source in checked.sources:
        skipped = source.skipped_audio_no_transcript
        untold = f"{skipped:,} without a transcript" if skipped else ""
        rows.append(("source", f"{source.path}: {source.audio_count:,} clips", untold))
    lines = checked.plan.lines if checked.plan else ()
    table(rows + [(line.name, line.value, line.why) for line in lines])


def prompt(pieces: Iterator[str], form: str) -> int:
    """The answer as it is spoken, or in one object."""
    if form == "json":
        _json({"answer": "".join(pieces)})
        return 0
    for piece in pieces:
        answer(piece, end="")
    answer()
    return 0


def transcribe(transcripts: Iterator[Any], form: str) -> int:
    """Text by file; JSON Lines; or subtitles."""
    for number, each in enumerate(transcripts):
        if form == "json":
            answer(json.dumps(plain({**vars(each), "text": each.text}), ensure_ascii=False))
        elif form == "text":
            answer(f"{each.path}: {each.text}")
        else:
            answer(("\n" if number else "") + each.subtitles(form), end="")
    return 0


def evaluate(report: Any, form: str) -> int:
    """Error rates with their edits, and the worst clips."""
    if form == "json":
        _json(_report(report))
        return 0
    rows = []
    for name, found in (("WER", report.words), ("CER", report.characters)):
        if found:
            edits = f"{found.substitutions} substitutions, {found.deletions} deletions"
            edits += f", {found.insertions} insertions in {found.length:,}"
            rows.append((name, f"{found.rate:.1%}", edits))
    for name in ("loss", "shuffled_loss", "gap"):
        if name in report.scores:
            rows.append((name.replace("_", " "), f"{report.scores[name]:.3f}", "nats per token"))
    rows.append(("clips", f"{report.clips:,}", f"normaliser {report.normaliser}"))
    table(rows)
    wrong = [each for each in report.worst[:WORST] if each.wer]
    if wrong:
        said = [(f"{each.wer:.0%}", each.place, each.said, each.heard) for each in wrong]
        answer()
        table(said, head=("WER", "clip", "said", "heard"))
    return 0


def show(shown: Shown, form: str) -> int:
    """What a document holds and what was learned from it."""
    if form == "json":
        _json(_shown(shown))
        return 0
    settings = shown.document.settings
    rows = [
        ("document", f"{shown.document.path} ({settings.dlm_id})"),
        ("base", f"{shown.base.key} {shown.base.revision or ''}"),
        ("clips", f"{shown.clips:,}"),
    ]
    for source in shown.sources:
        skips = {k: v for k, v in vars(source).items() if k.startswith("skipped_") and v}
        told = ", ".join(f"{v:,} {k}" for k, v in skips.items() if isinstance(v, int))
        rows.append(("source", f"{source.path}: {source.audio_count:,} clips {told}"))
    rows += [("version", line) for line in _lines(shown)]
    rows += [("export", f"{each.version} {each.kind} {each.path}") for each in shown.exports]
    rows.append(("store", f"{shown.store} ({shown.size_bytes / 1e6:.1f} MB)"))
    table(rows)
    return 0


def versions(shown: Shown, form: str) -> int:
    """Each version in a line; the one in use is marked."""
    if form == "json":
        _json(_shown(shown)["versions"])
        return 0
    for line in _lines(shown):
        answer(line)
    if not shown.versions:
        remark(f"no version yet: run `dlm train {shown.document.path}`")
    return 0


def use(version: Any, form: str) -> int:
    """Say which version is in use."""
    remark(f"{version.name} is in use")
    return 0


def export(exported: Any, form: str) -> int:
    """Say where it went."""
    answer(str(exported.path))
    remark(f"{exported.version} written as a base of its own, {len(exported.hashes)} files")
    return 0


def doctor(health: Health, form: str) -> int:
    """What the machine has; exit 1 when a document's plan does not fit it."""
    if form == "json":
        _json(health)
        return int(health.complaint is not None)
    machine = health.machine
    fast = "AMX" if machine.amx else "AVX-512" if machine.bf16 else "not fast here"
    rows = [
        ("cpu", f"{machine.cores} cores, bf16: {fast}"),
        ("memory", f"{machine.free_memory / GIB:.1f} of {machine.memory / GIB:.1f} GiB free"),
        ("disk", f"{machine.free_disk / GIB:.1f} GiB free at {health.home}"),
        (
            "gpu",
            "; ".join(f"{g.name}, {g.free / GIB:.0f} GiB free" for g in machine.gpus) or "none",
        ),
        ("decoder", health.decoder),
        ("resampler", health.resampler),
        ("hub cache", f"{health.cache}: {', '.join(health.cached) or 'no base of the catalogue'}"),
    ]
    table(rows + [(line.name, f"{line.value} {line.why}") for line in health.plan])
    if health.complaint:
        remark(health.complaint, style="red")
    return int(health.complaint is not None)


def length(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _json(value: object) -> None:
    answer(json.dumps(plain(value), indent=2, ensure_ascii=False))


def _checked(checked: Any) -> dict[str, Any]:
    heard = checked.audit
    return {
        "document": checked.document.path,
        "base_model": checked.base.key,
        "clips": heard.clips,
        "hours": heard.hours,
        "seconds": {
            "min": heard.seconds_min,
            "median": heard.seconds_median,
            "max": heard.seconds_max,
        },
        "rates": heard.rates,
        "tasks": heard.tasks,
        "learn": len(checked.learn),
        "held_out": len(checked.held_out),
        "source_directives": checked.sources,
        "problems": checked.problems,
        "plan": checked.plan.lines if checked.plan else [],
        "facts": heard.facts,
    }


def _report(report: Any) -> dict[str, Any]:
    words = report.words
    return {
        "clips": report.clips,
        "wer": words and words.rate,
        "cer": report.characters and report.characters.rate,
        "substitutions": words and words.substitutions,
        "deletions": words and words.deletions,
        "insertions": words and words.insertions,
        "words": words and words.length,
        "normaliser": report.normaliser,
        "scores": report.scores,
        "worst": report.worst[:WORST],
    }


def _shown(shown: Shown) -> dict[str, Any]:
    return {
        "dlm_id": shown.document.settings.dlm_id,
        "path": shown.document.path,
        "base_model": shown.base.key,
        "base_model_revision": shown.base.revision,
        "clips": shown.clips,
        "source_directives": shown.sources,
        "versions": [{"name": each.name, **vars(each)} for each in shown.versions],
        "current": shown.current,
        "exports": shown.exports,
        "store": shown.store,
        "total_size_bytes": shown.size_bytes,
    }


def _lines(shown: Shown) -> list[str]:
    return [
        f"{'*' if each.name == shown.current else ' '} {each.name}  {each.created_at[:16]}"
        f"  {each.steps} steps  "
        + "  ".join(f"{name} {value:.3g}" for name, value in each.scores.items())
        for each in shown.versions
    ]
