"""How each verb's answer looks: answers on stdout, everything about the work on stderr.

How what check found is told: problems on stderr, the sum of it all on stdout.

How data that comes and goes is told: what a source gives, and what was handed on.

How what was looked at is told: a page on a version, this machine, the weights of a base.

How what was made is told: recordings, and features handed on.

How what nobody needs is told.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from dlm.cli import json_output as shapes
from dlm.cli.json_output import MAX_WORST_EXAMPLES, dump_json, dump_json_line
from dlm.commands.versions import DocumentStatus, SystemReport
from dlm.errors import DlmError

if TYPE_CHECKING:
    from pathlib import Path

    from dlm.batching.inspect_labels import LabelView
    from dlm.commands.data import SourceImport
    from dlm.commands.insight import InsightResult
    from dlm.commands.preflight import Preflight
    from dlm.commands.versions import GcResult, StitchResult, VerifyResult
    from dlm.config.parser import Document
    from dlm.data.export import ExportSummary
    from dlm.data.load import SourceReport
    from dlm.data.stats import CountDuration, Histogram
    from dlm.data.types import Issue
    from dlm.data.validate import ValidationReport
    from dlm.exporters.feature_shards import FeatureShardIndex
    from dlm.inference.evaluate import EvaluationReport, ExampleLoss
    from dlm.inference.label_check import TranscriptionCheck
    from dlm.inference.transcribe import Transcript
    from dlm.models.inspect_checkpoint import CheckpointReport
    from dlm.plan.fit_table import FitRow
    from dlm.plan.types import SummaryLine
    from dlm.store.records import ExportInfo, Version


ANSI_COLORS = {"red": 31, "green": 32, "yellow": 33}  # of a terminal (ECMA-48)
SHORT_SHA_CHARS = 12  # letters that tell recordings apart
TASK_LABELS = {"transcribe": "to transcribe", "answer": "to answer", "text": "of text"}
SKIP_REASON_LABELS = {
    "skipped_audio_no_transcript": "without a transcript",
    "skipped_rows_no_audio": "without a recording",
    "skipped_not_audio": "not audio",
    "skipped_excluded": "excluded",
    "skipped_over_max_files": "over max_files",
}


def print_result(text: str = "", *, end: str = "\n") -> None:
    """Print a line of the answer itself."""
    print(text, end=end, flush=True)


def print_status(text: str, *, color: str | None = None) -> None:
    """Print a line about the work, in colour where somebody looks."""
    if color and sys.stderr.isatty():
        text = color_text(text, color)
    print(text, file=sys.stderr, flush=True)  # which a bar that moves lets through above it


def color_text(text: str, color: str) -> str:
    """A text in colour."""
    return f"\x1b[{ANSI_COLORS[color]}m{text}\x1b[0m"


def print_error(error: DlmError) -> None:
    """Print a mistake, in one line."""
    print_status(" ".join(str(error).split()), color="red")


def print_table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> None:
    """Print rows in columns, each as wide as its widest cell."""
    lines = [header, *rows] if header else list(rows)
    columns = range(max(map(len, lines), default=0))
    widths = [max((len(line[at]) for line in lines if at < len(line)), default=0) for at in columns]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        print_result("  ".join(cells).rstrip())


def print_init(document: "Document", output_format: str) -> int:
    """Say what was written and what comes next."""
    print_status(f"wrote {document.path} ({document.config.base_model})")
    print_status(f"next: put your clips in it, then `dlm check {document.path}`")
    return 0


def print_data_summary(
    preflight: "Preflight", *, extra_rows: Sequence[tuple[str, str]] = ()
) -> None:
    """What there is to learn from, `more` that is known of it, and the plan."""
    heard = preflight.validation
    kinds = ", ".join(f"{count:,} {TASK_LABELS[kind]}" for kind, count in heard.tasks.items())
    rows = [("clips", f"{heard.num_examples:,}" + (f" ({kinds})" if kinds else ""))]
    if heard.sample_rates:
        each = f"{heard.seconds_min:.1f} to {heard.seconds_max:.1f} s a clip"
        whole = format_duration(heard.hours * 3600)
        rows.append(("sound", f"{whole} ({each}, median {heard.seconds_median:.1f} s)"))
    if heard.num_decoded < heard.num_segments:
        told = (
            f"{heard.num_decoded:,} of {heard.num_segments:,} "
            "sounds in full, the others by their headers"
        )
        rows.append(("heard", f"{told} (check --full hears all)"))
    rows += extra_rows
    rows.append(("held out", f"{len(preflight.held_out_examples):,} (never learned from)"))
    rows += [_source_row(source) for source in preflight.sources]
    print_table(rows + plan_rows(preflight.plan.summary if preflight.plan else ()))


def print_answer(chunks: Iterator[str], output_format: str) -> int:
    """The answer as it is spoken, or in one object."""
    if output_format == "json":
        print_result(dump_json({"answer": "".join(chunks)}))
        return 0
    for piece in chunks:
        print_result(piece, end="")
    print_result()
    return 0


def print_transcripts(transcripts: Iterator["Transcript"], output_format: str) -> int:
    """Text by file; JSON Lines; or subtitles."""
    for number, each in enumerate(transcripts):
        if output_format == "json":
            print_result(dump_json_line({**vars(each), "text": each.text}))
        elif output_format == "text":
            print_result(f"{each.path}: {each.text}")
        else:
            print_result(("\n" if number else "") + each.format_subtitles(output_format), end="")
    return 0


def print_evaluation(report: "EvaluationReport", output_format: str) -> int:
    """Error rates with their edits, and the worst clips."""
    if output_format == "json":
        print_result(dump_json(shapes.evaluation_to_dict(report)))
        return 0
    if report.example_loss:
        return _print_token_losses(report.example_loss)
    rows = []
    for name, found in (("WER", report.word_errors), ("CER", report.character_errors)):
        if found:
            edits = f"{found.substitutions:,} substituted, {found.deletions:,} deleted"
            edits += f", {found.insertions:,} inserted, of {found.reference_length:,}"
            rows.append((name, f"{found.rate:.1%}", edits))
    names = {"loss": "", "shuffled_loss": "with another clip's sound", "gap": "the difference"}
    for name, meaning in names.items():
        if name in report.scores:
            said = "listening gap" if name == "gap" else "loss"
            rows.append((said, f"{report.scores[name]:.3f}", meaning))
    rows.append(("clips", f"{report.num_examples:,}", f"normaliser {report.normalizer}"))
    print_table(rows + [_source_row(source) for source in report.sources])
    wrong = [each for each in report.worst_examples[:MAX_WORST_EXAMPLES] if each.wer]
    if wrong:
        worst = [
            (f"{each.wer:.0%}", each.location, each.reference, each.hypothesis) for each in wrong
        ]
        print_result()
        print_table(worst, header=("WER", "clip", "said", "heard"))
    return 0


def _print_token_losses(token_losses: "ExampleLoss") -> int:
    """The loss of one row, token by token."""
    count = len(token_losses.token_losses)
    told = (
        f"{count:,} label token{'s' * (count > 1)}, loss {token_losses.recomputed_loss:.4f} by hand"
    )
    print_result(
        f"{token_losses.location}: {told}, {token_losses.trainer_loss:.4f} as it is trained"
    )
    lines = [
        (repr(each.token), f"{each.loss:.3f}", repr(each.predicted_token))
        for each in token_losses.token_losses
    ]
    print_table(lines, header=("token", "loss", "predicted"))
    return 0


def print_document_status(status: DocumentStatus, output_format: str) -> int:
    """What a document holds and what was learned from it."""
    if output_format == "json":
        print_result(dump_json(shapes.status_to_dict(status)))
        return 0
    settings, revision = status.document.config, status.spec.revision
    rows = [
        ("document", f"{status.document.path} ({settings.dlm_id})"),
        ("base", status.spec.key + (f", revision {revision}" if revision else "")),
        (
            "clips",
            f"{status.num_examples:,}"
            + " looked at, of a stream" * settings.training.uses_streaming,
        ),
    ]
    rows += [_source_row(source) for source in status.sources]
    for each in status.versions:
        used = " (in use)" if each.name == status.current else ""
        rows.append(
            (
                "version",
                f"{each.name}{used}, {_format_steps(each.steps)}, {format_scores(each.scores)}",
            )
        )
    rows += [("export", f"{each.version}, {each.path}") for each in status.exports]
    rows.append(("store", f"{status.store} ({status.size_bytes / 1e6:.1f} MB)"))
    print_table(rows)
    if status.requested_version:
        heard = status.requested_version.train_recordings
        print_result()
        print_result(
            f"{status.requested_version.name} learned from "
            f"{len(heard):,} recording{'s' * (len(heard) != 1)}"
        )
        print_table([(each.sha256[:SHORT_SHA_CHARS], each.path) for each in heard])
    return 0


def print_versions(status: DocumentStatus, output_format: str) -> int:
    """Each version in a line; the one in use is marked."""
    if output_format == "json":
        print_result(dump_json(shapes.status_to_dict(status)["versions"]))
        return 0
    for each in status.versions:
        mark = "*" if each.name == status.current else " "
        made = each.created_at[:16].replace("T", " ")
        print_result(
            f"{mark} {each.name}  {made}  {_format_steps(each.steps)}, {format_scores(each.scores)}"
        )
    if not status.versions:
        print_status(f"no version yet: run `dlm train {status.document.path}`")
    return 0


def print_version_in_use(version: "Version", output_format: str) -> int:
    """Say which version is in use."""
    print_status(f"{version.name} is in use")
    return 0


def print_export(exported: "ExportInfo", output_format: str) -> int:
    """Say where it went."""
    forms = {"native": "an HF audio snapshot", "stitched": "a base of its own"}
    print_result(str(exported.path))
    files = f"{len(exported.hashes)} files, README.md first"
    print_status(f"{exported.version} written as {forms[exported.kind]} ({files})")
    return 0


def print_stitch(result: "StitchResult", output_format: str) -> int:
    """Say where it went, and how to go on."""
    print_result(str(result.folder))
    print_status(f"{result.spec.key}, {result.size_bytes / 1e6:,.0f} MB: nobody has taught it yet")
    return 0


def print_verification(result: "VerifyResult", output_format: str) -> int:
    """Each file that is not as it was written; exit 1 when there is one."""
    if output_format == "json":
        print_result(dump_json(result))
        return int(bool(result.differences))
    for line in result.differences:
        print_status(line, color="red")
    if not result.differences:
        print_result(f"{result.path}: {result.files:,} files are as they were written")
    return int(bool(result.differences))


def format_scores(scores: dict[str, float]) -> str:
    """Scores in one line, as far as they were measured."""
    told = [f"{name.upper()} {scores[name]:.1%}" for name in ("wer", "cer") if name in scores]
    if "loss" in scores:
        told.append(f"loss {scores['loss']:.3f}")
    if "gap" in scores:
        told.append(f"listening gap {scores['gap']:.3f}")
    return ", ".join(told) or "no scores"


def format_duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_rows(summary_lines: Sequence["SummaryLine"]) -> list[tuple[str, str]]:
    """Every number of a plan, and why."""
    return [
        (line.name, line.value + (f" ({line.why})" if line.why else "")) for line in summary_lines
    ]


def _source_row(source: "SourceReport") -> tuple[str, str]:
    """What a source gave, and what was left out."""
    counts = [(vars(source)[name], words) for name, words in SKIP_REASON_LABELS.items()]
    left = "".join(f", {count:,} {words}" for count, words in counts if count)
    return "source", f"{source.path}: {source.audio_count:,} clips{left}"


def _format_steps(num_steps: int) -> str:
    return f"{num_steps:,} step{'s' * (num_steps != 1)}"


MAX_ISSUES_PER_HINT = 20  # problems told of each mend; the rest are counted
MAX_MISMATCHES = 20  # clips of a dictation
MAX_GROUPS_SHOWN = 4  # languages, speakers and rates told by name
SPARKLINE_CHARS = " ▁▂▃▄▅▆▇█"


def print_check(preflight: "Preflight", output_format: str) -> int:
    """Every problem with its place, and the sum of what there is."""
    if output_format == "json":
        print_result(dump_json(shapes.preflight_to_dict(preflight)))
        return int(bool(preflight.fatal_issues))
    print_issues(preflight.issues)
    print_data_summary(preflight, extra_rows=_dataset_stats_rows(preflight.validation))
    if preflight.transcription_check:
        _print_transcription_check(preflight.transcription_check)
    if preflight.label_view:
        print_labels(preflight.label_view)
    if preflight.report_path:
        print_status(f"open {preflight.report_path} in a browser")
    count = len(preflight.fatal_issues)
    if count:
        print_status(f"{count} problem{'s' * (count > 1)} would stop training", color="red")
    return int(count > 0)


def print_issues(issues: Iterable["Issue"]) -> None:
    """Each problem in a line; of very many that the same would mend, the first and a count."""
    told: Counter[str] = Counter()
    for problem in issues:
        told[problem.hint] += 1
        if told[problem.hint] <= MAX_ISSUES_PER_HINT:
            print_status(str(problem), color="red" if problem.fatal else "yellow")
    for mend, count in told.items():
        if count > MAX_ISSUES_PER_HINT:
            print_status(
                f"and {count - MAX_ISSUES_PER_HINT:,} more ({mend}): `dlm check --json` names all"
            )


def print_labels(label_view: "LabelView") -> None:
    """One row as it is learned: each stretch in a line, those that carry loss marked."""
    print_result()
    print_result(
        f"{label_view.location}: {label_view.num_label_tokens:,} "
        f"of {label_view.num_tokens:,} tokens are learned (marked >)"
    )
    for each in label_view.spans:
        text = each.text.replace("\n", "\\n")
        line = f"{'>' if each.has_loss else ' '} {each.num_tokens:>5}  {text}"
        print_result(color_text(line, "green") if each.has_loss and sys.stdout.isatty() else line)


def _dataset_stats_rows(report: "ValidationReport") -> list[tuple[str, str]]:
    """What clips are together, beyond their number and length."""
    rows = []
    if sum(report.lengths.counts) > 1:
        rows.append(("lengths", _format_histogram(report.lengths, "s")))
    if sum(report.levels.counts) > 1:
        rows.append(("levels", _format_histogram(report.levels, "dBFS")))
    if report.transcripts_per_minute:
        pace = f"{report.words_per_second:.1f} words per second"
        rows.append(("pace", f"{pace}, {report.transcripts_per_minute:.1f} transcripts a minute"))
    if len(report.sample_rates) > 1:
        rates = (f"{rate:,} Hz {count:,}" for rate, count in report.sample_rates.most_common())
        rows.append(("rates", _join_first(rates, len(report.sample_rates))))
    for name, tallies in (("languages", report.languages), ("speakers", report.speakers)):
        if tallies:
            rows.append((name, _join_first(_format_count_durations(tallies), len(tallies))))
    return rows


def _format_histogram(histogram: "Histogram", unit: str) -> str:
    """A histogram in a line: between its ends a block a bin, and where most lie."""
    full = [at for at, count in enumerate(histogram.counts) if count]
    counts = histogram.counts[full[0] : full[-1] + 1]
    edges = histogram.edges[full[0] : full[-1] + 2]
    most = max(counts)
    blocks = "".join(
        SPARKLINE_CHARS[math.ceil(count / most * (len(SPARKLINE_CHARS) - 1))] for count in counts
    )
    where = counts.index(most)
    span = f"{edges[where]:g} to {edges[where + 1]:g} {unit}"
    return f"{edges[0]:g} {blocks} {edges[-1]:g} {unit}, most of them {span} ({most:,})"


def _format_count_durations(count_durations: Mapping[str, "CountDuration"]) -> Iterable[str]:
    for name, each in count_durations.items():
        yield f"{name} {each.num_examples:,} ({format_duration(each.seconds)})"


def _join_first(items: Iterable[str], num_items: int) -> str:
    more = f", and {num_items - MAX_GROUPS_SHOWN:,} more" if num_items > MAX_GROUPS_SHOWN else ""
    return ", ".join(islice(items, MAX_GROUPS_SHOWN)) + more


def _print_transcription_check(transcription_check: "TranscriptionCheck") -> None:
    """What a model heard, the worst clips first."""
    print_result()
    count = (
        f"{len(transcription_check.transcripts):,} of {transcription_check.num_candidates:,} clips"
    )
    print_result(
        f"{transcription_check.model_name} heard {count}: "
        f"{transcription_check.wer:.1%} of the words differ"
    )
    wrong = [each for each in transcription_check.transcripts if each.wer]
    rows = [
        (f"{each.wer:.0%}", each.location, each.reference, each.hypothesis)
        for each in wrong[:MAX_MISMATCHES]
    ]
    if rows:
        print_table(rows, header=("WER", "clip", "written", "heard"))


MAX_PREVIEW_ISSUES = 5  # that are told
MAX_PREVIEW_COUNTS = 5  # of languages and speakers
MAX_PREVIEW_CHARS = 60
CONFIRM_HINT = "nothing is written: look at the above and say --yes"


def print_import(source_import: "SourceImport", output_format: str) -> int:
    """What a source gives; in a terminal the question whether to write it. Exit 0 if it is."""
    if output_format == "json":
        print_result(dump_json(_import_to_dict(source_import)))
        return int(not source_import.num_added)
    _print_preview(source_import)
    if not source_import.written:
        if not source_import.num_added:
            print_status("nothing is written: the source gives no clip", color="red")
            return 1
        if not sys.stdin.isatty():
            print_status(CONFIRM_HINT, color="yellow")
            return 1
        if not _ask_confirmation(f"write this into {source_import.path}?"):
            print_status("nothing is written")
            return 1
        source_import.write()
    count = (
        f"{source_import.num_added:,} section{'s' * (source_import.num_added != 1)}"
        if source_import.inline
        else "the source"
    )
    print_status(f"wrote {count} into {source_import.path}")
    print_status(f"next: `dlm check {source_import.path}`")
    return 0


def print_data_export(export_summary: "ExportSummary", output_format: str) -> int:
    """What was written, what was left out, and how to read it."""
    count = f"{export_summary.num_examples:,} clip{'s' * (export_summary.num_examples != 1)}"
    recordings = (
        f"{export_summary.num_recordings:,} recording{'s' * (export_summary.num_recordings != 1)}"
    )
    print_result(
        f"{export_summary.path}: {count}, {recordings}, {format_duration(export_summary.seconds)}"
    )
    if export_summary.num_without_audio:
        print_status(f"left out, since they have no sound: {export_summary.num_without_audio:,}")
    if export_summary.num_unusable:
        print_status(
            "left out, since they cannot be used: "
            f"{export_summary.num_unusable:,}; `dlm check` says why"
        )
    task = " --task answer" if export_summary.num_answers and not export_summary.source_path else ""
    print_status(
        f"next: `dlm import {export_summary.path / export_summary.source_path} "
        f"--into other.dlm{task}`"
    )
    return 0


def _print_preview(source_import: "SourceImport") -> None:
    """What there is in a table, the first rows, and what is wrong."""
    seen, report = source_import.preview, vars(source_import.preview.report)
    minute = f"{seen.transcripts_per_minute:.1f} a minute of sound"
    rows = [
        ("source", source_import.entry_yaml),
        ("format", f"{seen.format} ({seen.format_description})"),
        ("clips", f"{len(seen.examples):,}" + (" of the first rows" if seen.is_partial else "")),
        ("sound", format_duration(seen.seconds)),
        ("rates", _format_counts({f"{rate:,} Hz": count for rate, count in seen.rates.items()})),
        ("languages", _format_counts(seen.languages)),
        ("speakers", _format_counts(seen.speakers)),
        ("transcripts", f"{minute}, {seen.words_per_minute:.0f} words a minute"),
    ]
    left = {why: report[name] for name, why in SKIP_REASON_LABELS.items()}
    rows += [("left out", f"{count:,} {why}") for why, count in left.items() if count]
    fatal = sum(problem.fatal for problem in source_import.issues)
    count = (
        f"{len(source_import.issues):,}, {fatal:,} of them fatal"
        if source_import.issues
        else "none"
    )
    print_table([*rows, ("problems", count)])
    if seen.first_examples:
        print_result()
        first = [
            (each.location, f"{each.seconds:.2f}", _shorten_text(each.text))
            for each in seen.first_examples
        ]
        print_table(first, header=("clip", "seconds", "text"))
    for problem in source_import.issues[:MAX_PREVIEW_ISSUES]:
        print_status(str(problem), color="red" if problem.fatal else "yellow")
    if source_import.issues[MAX_PREVIEW_ISSUES:]:
        print_status(f"and {len(source_import.issues) - MAX_PREVIEW_ISSUES:,} more; --json has all")


def _format_counts(counts: Mapping[str, int]) -> str:
    """How many clips of each, the most frequent first."""
    told = ", ".join(
        f"{name} {count:,}" for name, count in list(counts.items())[:MAX_PREVIEW_COUNTS]
    )
    more = len(counts) - MAX_PREVIEW_COUNTS
    return told + (f" and {more:,} more" if more > 0 else "") or "none is said"


def _shorten_text(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_PREVIEW_CHARS else f"{line[: MAX_PREVIEW_CHARS - 3]}..."


def _ask_confirmation(question: str) -> bool:
    """What the person at the terminal answers."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _import_to_dict(source_import: "SourceImport") -> dict[str, Any]:
    seen = source_import.preview
    return {
        "document": source_import.path,
        "source": source_import.entry,
        "format": seen.format,
        "clips": len(seen.examples),
        "partly": seen.is_partial,
        "hours": seen.hours,
        "transcripts_per_minute": seen.transcripts_per_minute,
        "words_per_minute": seen.words_per_minute,
        "rates": seen.rates,
        "languages": seen.languages,
        "speakers": seen.speakers,
        "report": seen.report,
        "first": seen.first_examples,
        "problems": source_import.issues,
        "inline": source_import.inline,
        "added": source_import.num_added,
        "written": source_import.written,
    }


BYTES_PER_GIB = 1 << 30


def print_insight(result: "InsightResult", output_format: str) -> int:
    """Where the page is, and the scores on it."""
    if output_format == "json":
        print_result(dump_json(result))
        return 0
    print_result(str(result.page))
    count = f"{result.clips:,} clip{'s' * (result.clips != 1)}"
    whose = "held out" if result.held_out else "it learned from, none were held out"
    print_status(f"{result.version} on {count} {whose}: {format_scores(result.scores)}")
    print_status(f"open it in a browser; its {len(result.pictures)} pictures lie beside it as PNG")
    return 0


def print_system_report(report: SystemReport, output_format: str) -> int:
    """What the machine has; exit 1 when a plan does not fit it, or a weight is not a number."""
    faults = report.weights.non_finite_tensors if report.weights else ()
    code = int(report.complaint is not None or bool(faults))
    if output_format == "json":
        print_result(dump_json(report))
        return code
    print_table(_hardware_rows(report) + plan_rows(report.plan))
    if report.fits:
        print_result()
        _print_fit_table(report.fits)
    if report.weights:
        print_result()
        _print_checkpoint_report(report.weights)
    if report.complaint:
        print_status(report.complaint, color="red")
    return code


def _hardware_rows(report: SystemReport) -> list[tuple[str, str]]:
    """A line for each thing this machine has."""
    machine = report.machine
    fast = "fast, by AMX" if machine.amx else "fast, by AVX-512" if machine.bf16 else "slow here"
    gpus = "; ".join(
        f"{gpu.name}, {gpu.free_memory / BYTES_PER_GIB:.0f} GiB free" for gpu in machine.gpus
    )
    return [
        ("cpu", f"{machine.cores} cores, bf16 {fast}"),
        ("gpu", gpus or "none"),
        (
            "memory",
            f"{machine.free_memory / BYTES_PER_GIB:.1f} of "
            f"{machine.memory / BYTES_PER_GIB:.1f} GiB free",
        ),
        ("disk", f"{machine.free_disk / BYTES_PER_GIB:.1f} GiB free at {report.home}"),
        ("decoder", report.decoder),
        ("resampler", report.resampler),
        ("hub cache", f"{report.cache}: {', '.join(report.cached) or 'no base of the catalogue'}"),
    ]


def _print_fit_table(fits: Sequence["FitRow"]) -> None:
    """A line for each base: what every way of teaching it takes, and how many rows fit at once."""
    modes = tuple(dict.fromkeys(fit.mode for fit in fits))
    cells: dict[str, list[str]] = {}
    for fit in fits:
        star = "*" if fit.gradient_checkpointing else ""
        fitting = f"{fit.max_batch_size} at once{star}" if fit.max_batch_size else "no"
        cells.setdefault(fit.model_key, []).append(
            f"{fitting}, {fit.min_bytes / BYTES_PER_GIB:.1f} GiB"
        )
    print_table([(base, *line) for base, line in cells.items()], header=("base", *modes))
    print_result("at the least, for rows of half a minute of sound; * with gradient checkpointing")


def _print_checkpoint_report(report: "CheckpointReport") -> None:
    """The formats of a base's tensors by part, and each tensor that is not finite."""
    rows = [
        (each.component, each.dtype, f"{each.num_tensors:,}", f"{each.size_bytes / 1e6:,.1f}")
        for each in report.dtype_counts
    ]
    print_table(rows, header=("part", "format", "tensors", "MB"))
    for fault in report.non_finite_tensors:
        print_status(f"{fault.file}: {fault.tensor_name} {fault.what}", color="red")
    if not report.non_finite_tensors:
        count = sum(each.num_tensors for each in report.dtype_counts)
        print_result(f"{report.model_key}: every number of {count:,} tensors is finite")


def print_tones(folder: "Path", output_format: str) -> int:
    """Say where they are, and how to go on."""
    print_result(str(folder))
    print_status(f"next: a document with `sources: {folder.name}` beside it, then `dlm train`")
    return 0


def print_shards(shards: "FeatureShardIndex", output_format: str) -> int:
    """Each shard in a line, and what is not in them."""
    for each in shards.shards:
        print_result(f"{each.name}  {each.samples:,} clips  {each.bytes / 1e6:.1f} MB")
    if shards.left_out:
        print_status(f"{shards.left_out:,} clips without sound are left out")
    return 0


MAX_GC_NAMES = 5
GC_KIND_LABELS = {
    "recordings": "recordings that no version learned from",
    "features": "features of recordings that were taken out",
    "answers": "answers of a teacher and older features",
    "states": "states of runs that cannot go on",
    "unfinished": "unfinished files",
}


def print_gc(result: "GcResult", output_format: str) -> int:
    """What was removed, or would be, by kind."""
    if output_format == "json":
        print_result(dump_json(result))
        return 0
    rows = []
    for kind, told in GC_KIND_LABELS.items():
        found = [each for each in result.unneeded if each.kind == kind]
        names = list(dict.fromkeys(each.name for each in found if each.name))
        more = f" and {len(names) - MAX_GC_NAMES:,} more" if len(names) > MAX_GC_NAMES else ""
        if found:
            size = f"{sum(each.size_bytes for each in found) / 1e6:,.1f} MB"
            rows.append((told, f"{len(found):,}", size, ", ".join(names[:MAX_GC_NAMES]) + more))
    print_table(rows)
    total = f"{sum(each.size_bytes for each in result.unneeded) / 1e6:,.1f} MB"
    if not rows:
        print_status(f"{result.document}: nothing is kept that nobody needs")
    elif result.removed:
        print_status(f"{total} removed")
    else:
        print_status(f"{total} would be removed: `dlm gc {result.document}`")
    return 0
