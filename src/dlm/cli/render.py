"""The text each command prints: rows of a result on stdout, issues and hints on stderr.

A renderer takes what a command returned and the output format, and returns the exit code.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from dlm.cli import json_output
from dlm.cli.console import (
    confirm,
    escape_controls,
    print_line,
    print_status,
    print_table,
    print_text,
)
from dlm.cli.json_output import MAX_WORST_EXAMPLES, dump_json
from dlm.errors import DlmError

if TYPE_CHECKING:
    from pathlib import Path

    from dlm.batching.inspect_labels import LabelView
    from dlm.commands.data import SourceImport
    from dlm.commands.insight import InsightResult
    from dlm.commands.preflight import Preflight
    from dlm.commands.versions import (
        DocumentStatus,
        GcResult,
        StitchResult,
        SystemReport,
        VerifyResult,
    )
    from dlm.config.parser import Document
    from dlm.data.export import ExportSummary
    from dlm.data.load import SourceReport
    from dlm.data.preview import SourcePreview
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
    from dlm.training.events import ScoreDifference, VersionComparison

BYTES_PER_GIB = 1 << 30
SHORT_SHA_CHARS = 12
MAX_ISSUES_PER_HINT = 20  # issues printed with the same hint; the rest are counted
MAX_SEPARATE_ISSUES = 3  # that differ in their location alone; more of them are one line
MAX_MISMATCHES = 20  # examples printed of a transcription check
MAX_GROUPS = 4  # languages, speakers and rates printed by name
MAX_PREVIEW_ISSUES = 5
MAX_PREVIEW_COUNTS = 5  # languages and speakers printed of a source
MAX_PREVIEW_CHARS = 60
MAX_GC_NAMES = 5
SPARKLINE_CHARS = " ▁▂▃▄▅▆▇█"
TASK_LABELS = {"transcribe": "to transcribe", "answer": "to answer", "text": "of text"}
EXPORT_KIND_LABELS = {"native": "an HF audio snapshot", "stitched": "a base of its own"}
SCORE_LABELS = {
    "loss": ("loss", ""),
    "shuffled_loss": ("loss", "with another clip's audio"),
    "gap": ("listening gap", "the difference"),
}
SKIP_REASON_LABELS = {
    "skipped_audio_no_transcript": "without a transcript",
    "skipped_rows_no_audio": "without a recording",
    "skipped_not_audio": "not audio",
    "skipped_excluded": "excluded",
    "skipped_over_max_files": "over max_files",
}
GC_KIND_LABELS = {
    "recordings": "recordings that no version was trained on",
    "features": "features of recordings that were removed",
    "answers": "outputs of a distillation teacher, and older features",
    "states": "checkpoints of runs that cannot be resumed",
    "unfinished": "unfinished files",
}


def print_error(error: DlmError) -> None:
    """Print an error in one line."""
    print_status(" ".join(str(error).split()), color="red")


def print_init(document: "Document", output_format: str) -> int:
    """Print the document that was written and the next command."""
    print_status(f"wrote {document.path} ({document.config.base_model})")
    print_status(f"next: put your clips in it, then `dlm check {document.path}`")
    return 0


def print_tones(folder: "Path", output_format: str) -> int:
    """Print the folder and the next command."""
    print_line(str(folder))
    print_status(f"next: a document with `sources: {folder.name}` beside it, then `dlm train`")
    return 0


def print_import(source_import: "SourceImport", output_format: str) -> int:
    """Print a preview; in a terminal ask whether to write it. Exit 1 when nothing is written."""
    if output_format == "json":
        print_text(dump_json(json_output.import_to_dict(source_import)))
        return int(not source_import.num_added)
    _print_preview(source_import)
    if not source_import.written:
        if not source_import.num_added:
            print_status("nothing is written: the source gives no clip", color="red")
            return 1
        if not sys.stdin.isatty():
            print_status("nothing is written: check the preview and pass --yes", color="yellow")
            return 1
        if not confirm(f"write this into {source_import.path}?"):
            print_status("nothing is written")
            return 1
        source_import.write()
    is_inline = source_import.inline
    count = format_count(source_import.num_added, "section") if is_inline else "the source"
    sample = ", and took the sample clip out" if source_import.has_sample else ""
    print_status(f"wrote {count} into {source_import.path}{sample}")
    print_status(f"next: `dlm check {source_import.path}`")
    return 0


def print_check(preflight: "Preflight", output_format: str) -> int:
    """Print every issue with its location and a summary; exit 1 when training would stop."""
    num_fatal = len(preflight.fatal_issues)
    if output_format == "json":
        print_text(dump_json(json_output.preflight_to_dict(preflight)))
        return int(num_fatal > 0)
    print_issues(preflight.issues)
    print_data_summary(preflight, extra_rows=_make_stats_rows(preflight.validation))
    if preflight.transcription_check:
        _print_transcription_check(preflight.transcription_check)
    if preflight.label_view:
        _print_labels(preflight.label_view)
    if preflight.report_path:
        print_status(f"open {preflight.report_path} in a browser")
    if num_fatal:
        print_status(f"{format_count(num_fatal, 'problem')} would stop training", color="red")
    return int(num_fatal > 0)


def print_stitch(result: "StitchResult", output_format: str) -> int:
    """Print the folder and the size of the base."""
    print_line(str(result.folder))
    print_status(f"{result.spec.key}, {format_size(result.size_bytes)}: it is not trained yet")
    return 0


def print_answer(chunks: Iterator[str], output_format: str) -> int:
    """Print the answer as it is generated, or as one JSON object."""
    if output_format == "json":
        print_text(dump_json({"answer": "".join(chunks)}))
        return 0
    for chunk in chunks:
        print_text(chunk)
    print_line()
    return 0


def print_transcripts(transcripts: Iterator["Transcript"], output_format: str) -> int:
    """Print text by file, JSON Lines, subtitles of one recording, or the files written."""
    for transcript in transcripts:
        if not transcript.text and output_format != "json":
            print_status(f"{transcript.path}: no speech was found")
        if transcript.output is not None:
            print_line(str(transcript.output))
        elif output_format == "json":
            print_text(dump_json(json_output.transcript_to_dict(transcript), indent=None))
        elif output_format == "text":
            print_text(f"{escape_controls(str(transcript.path))}: {transcript.text}\n")
        else:
            print_text(transcript.format_subtitles(output_format))
        if transcript.num_cut and output_format != "json":
            _print_cut_answers(transcript.num_cut, f"{transcript.path}: ")
    return 0


def _print_cut_answers(num_cut: int, where: str = "") -> None:
    print_status(f"{where}{format_count(num_cut, 'answer')} cut: longer than anybody speaks")


def print_evaluation(report: "EvaluationReport", output_format: str) -> int:
    """Print error rates, losses and the worst examples."""
    if output_format == "json":
        print_text(dump_json(json_output.evaluation_to_dict(report)))
        return 0
    if report.example_loss:
        _print_token_losses(report.example_loss)
        return 0
    rows: list[tuple[str, ...]] = []
    for name, errors in (("WER", report.word_errors), ("CER", report.character_errors)):
        if errors:
            edits = f"{errors.substitutions:,} substituted, {errors.deletions:,} deleted"
            edits += f", {errors.insertions:,} inserted, of {errors.reference_length:,}"
            rows.append((name, f"{errors.rate:.1%}", edits))
    for score, (label, meaning) in SCORE_LABELS.items():
        if score in report.scores:
            rows.append((label, f"{report.scores[score]:.3f}", meaning))
    rows.append(("clips", f"{report.num_examples:,}", f"normaliser {report.normalizer}"))
    print_table(rows + [_make_source_row(source) for source in report.sources])
    if report.num_cut:
        _print_cut_answers(report.num_cut)
    worst = [
        (f"{score.wer:.0%}", score.location, score.reference, score.hypothesis)
        for score in report.worst_examples[:MAX_WORST_EXAMPLES]
        if score.wer
    ]
    if worst:
        print_line()
        print_table(worst, header=("WER", "clip", "reference", "hypothesis"))
    return 0


def print_insight(result: "InsightResult", output_format: str) -> int:
    """Print the path of the page and the scores on it."""
    if output_format == "json":
        print_text(dump_json(json_output.insight_to_dict(result)))
        return 0
    print_line(str(result.page))
    split = "held out" if result.held_out else "it was trained on, none were held out"
    count = format_count(result.clips, "clip")
    print_status(f"{result.version} on {count} {split}: {format_scores(result.scores)}")
    num_plots = len(result.pictures)
    print_status(f"open it in a browser; its {num_plots} plots are beside it as PNG files")
    return 0


def print_document_status(status: "DocumentStatus", output_format: str) -> int:
    """Print a document's clips, sources, versions and exports."""
    _print_damage(status)
    if output_format == "json":
        print_text(dump_json(json_output.status_to_dict(status)))
        return 0
    config, revision = status.document.config, status.spec.revision
    streamed = " read, of a stream" if config.training.uses_streaming else ""
    rows = [
        ("document", f"{status.document.path} ({config.dlm_id})"),
        ("base", status.spec.key + (f", revision {revision}" if revision else "")),
        ("clips", f"{status.num_examples:,}{streamed}"),
        *map(_make_source_row, status.sources),
    ]
    for version in status.versions:
        in_use = " (in use)" if version.name == status.current else ""
        scores = format_scores(version.scores)
        steps = format_count(version.steps, "step")
        rows.append(("version", f"{version.name}{in_use}, {steps}, {scores}"))
    rows += [("export", f"{export.version}, {export.path}") for export in status.exports]
    rows.append(("store", f"{status.store} ({format_size(status.size_bytes)})"))
    print_table(rows)
    if status.requested_version:
        recordings = status.requested_version.train_recordings
        count = format_count(len(recordings), "recording")
        print_line()
        print_line(f"{status.requested_version.name} was trained on {count}")
        print_table([(each.sha256[:SHORT_SHA_CHARS], each.path) for each in recordings])
    return 0


def print_versions(status: "DocumentStatus", output_format: str) -> int:
    """Print a line for each version; a star marks the one in use."""
    _print_damage(status)
    if output_format == "json":
        print_text(dump_json(json_output.versions_to_list(status.versions)))
        return 0
    for version in status.versions:
        mark = "*" if version.name == status.current else " "
        created_at = version.created_at[:16].replace("T", " ")
        steps, scores = format_count(version.steps, "step"), format_scores(version.scores)
        print_table([(f"{mark} {version.name}", created_at, f"{steps}, {scores}")])
        if version.comparison and not version.is_accepted:
            print_line(f"    not put in use: {_describe_comparison(version.comparison)}")
    if not status.versions and not status.damaged:
        print_status(f"no version yet: run `dlm train {status.document.path}`")
    return 0


def _print_damage(status: "DocumentStatus") -> None:
    """Print the records of the store that cannot be read."""
    for line in status.damaged:
        hint = f"`dlm verify {status.document.path} --repair` restores what it can"
        print_status(f"{line}; {hint}", color="red")


def print_comparison(version: "Version", document_path: "Path") -> None:
    """Print whether a new version took the place of the one in use, and why."""
    comparison = version.comparison
    if comparison is None:
        return
    if not comparison.is_accepted:
        what = f"{version.name} is kept, and {comparison.current} stays in use"
        hint = f"use it with `dlm use {document_path} {version.name}`"
        print_status(f"{what}: {_describe_comparison(comparison)}; {hint}", color="yellow")
        return
    what = f"{version.name} is in use in place of {comparison.current}"
    print_status(f"{what}: {_describe_comparison(comparison)}")


def _describe_comparison(comparison: "VersionComparison") -> str:
    """The scores beside those that are clearly better, or else beside all; and what is missing."""
    differences = comparison.differences
    worse = [difference for difference in differences if difference.is_clearly_worse]
    texts = [_describe_difference(each, comparison.metric) for each in worse or differences]
    if comparison.reason and not worse:
        texts.append(f"not compared: {comparison.reason}")
    return "; ".join(texts)


def _describe_difference(difference: "ScoreDifference", metric: str) -> str:
    def write(score: float) -> str:
        return f"{score:.3f}" if metric == "loss" else f"{score:.1%}"

    name = "loss" if metric == "loss" else metric.upper()
    other = "the base" if difference.name == "base" else difference.name
    interval = (
        f"95 % interval of the difference {write(difference.low)} to {write(difference.high)}"
    )
    scores = f"{name} {write(difference.score)} against {write(difference.other_score)} of {other}"
    return f"{scores} on {format_count(difference.num_clips, 'held-out clip')} ({interval})"


def print_version_in_use(version: "Version", output_format: str) -> int:
    """Print the version that is now in use."""
    print_status(f"{version.name} is in use")
    return 0


def print_export(export: "ExportInfo", output_format: str) -> int:
    """Print the folder and what it holds."""
    from dlm.exporters.manifest import EXPORT_MANIFEST_FILE

    print_line(str(export.path))
    num_files = len(export.hashes.keys() - {EXPORT_MANIFEST_FILE})  # as `dlm verify` counts them
    files = f"{format_count(num_files, 'file')} and their manifest, README.md first"
    print_status(f"{export.version} written as {EXPORT_KIND_LABELS[export.kind]} ({files})")
    return 0


def print_shards(index: "FeatureShardIndex", output_format: str) -> int:
    """Print a line for each shard, and how many clips are in none."""
    for shard in index.shards:
        clips = format_count(shard.samples, "clip")
        print_line(f"{shard.name}  {clips}  {format_size(shard.bytes)}")
    if index.left_out:
        verb = "is" if index.left_out == 1 else "are"
        print_status(f"{format_count(index.left_out, 'clip')} without audio {verb} left out")
    return 0


def print_data_export(summary: "ExportSummary", output_format: str) -> int:
    """Print what was written, what was left out, and the command that imports it."""
    clips = format_count(summary.num_examples, "clip")
    recordings = format_count(summary.num_recordings, "recording")
    print_line(f"{summary.path}: {clips}, {recordings}, {format_duration(summary.seconds)}")
    if summary.num_without_audio:
        print_status(f"left out, since they have no audio: {summary.num_without_audio:,}")
    if summary.num_unusable:
        count = f"{summary.num_unusable:,}"
        print_status(f"left out, since they cannot be used: {count}; `dlm check` shows why")
    task = " --task answer" if summary.num_answers and not summary.source_path else ""
    source = summary.path / summary.source_path
    print_status(f"next: `dlm import {source} --into other.dlm{task}`")
    return 0


def print_verification(result: "VerifyResult", output_format: str) -> int:
    """Print each file that changed; exit 1 when there is one."""
    if output_format == "json":
        print_text(dump_json(json_output.verification_to_dict(result)))
        return int(bool(result.differences))
    for line in result.mended:
        print_status(line)
    for line in result.differences:
        print_status(line, color="red")
    if not result.differences:
        files = (
            "1 file is as it was"
            if result.files == 1
            else f"{result.files:,} files are as they were"
        )
        print_line(f"{result.path}: {files} written")
    return int(bool(result.differences))


def print_gc(result: "GcResult", output_format: str) -> int:
    """Print what was removed, or would be, by kind."""
    if output_format == "json":
        print_text(dump_json(json_output.gc_to_dict(result)))
        return 0
    rows = []
    for kind, label in GC_KIND_LABELS.items():
        items = [item for item in result.unneeded if item.kind == kind]
        names = list(dict.fromkeys(item.name for item in items if item.name))
        more = f" and {len(names) - MAX_GC_NAMES:,} more" if len(names) > MAX_GC_NAMES else ""
        if items:
            size = format_size(sum(item.size_bytes for item in items))
            rows.append((label, f"{len(items):,}", size, ", ".join(names[:MAX_GC_NAMES]) + more))
    print_table(rows)
    total = format_size(sum(item.size_bytes for item in result.unneeded))
    if not rows:
        print_status(f"{result.document}: there is nothing to remove")
    elif result.removed:
        print_status(f"{total} removed")
    else:
        print_status(f"{total} would be removed: `dlm gc {result.document}`")
    return 0


def print_system_report(report: "SystemReport", output_format: str) -> int:
    """Print the machine; exit 1 when a plan does not fit it or a weight is not finite."""
    non_finite = report.weights.non_finite_tensors if report.weights else ()
    exit_code = int(report.complaint is not None or bool(non_finite))
    if output_format == "json":
        print_text(dump_json(json_output.system_report_to_dict(report)))
        return exit_code
    print_table(_make_hardware_rows(report) + _make_plan_rows(report.plan))
    if report.fits:
        print_line()
        _print_fit_table(report.fits)
    if report.weights:
        print_line()
        _print_checkpoint_report(report.weights)
    if report.complaint:
        print_status(report.complaint, color="red")
    return exit_code


def print_data_summary(
    preflight: "Preflight", *, extra_rows: Sequence[tuple[str, str]] = ()
) -> None:
    """Print the number and length of the clips, `extra_rows`, the sources and the plan."""
    from dlm.plan.summary import summarize_plan

    report = preflight.validation
    tasks = ", ".join(f"{count:,} {TASK_LABELS[task]}" for task, count in report.tasks.items())
    rows = [("clips", f"{report.num_examples:,}" + (f" ({tasks})" if tasks else ""))]
    if report.sample_rates:
        span = f"{report.seconds_min:.1f} to {report.seconds_max:.1f} s a clip"
        total = format_duration(report.hours * 3600)
        rows.append(("audio", f"{total} ({span}, median {report.seconds_median:.1f} s)"))
    if report.num_decoded < report.num_segments:
        decoded = f"{report.num_decoded:,} of {report.num_segments:,} recordings in full"
        hint = "(check --full decodes all)"
        rows.append(("decoded", f"{decoded}, the others by their headers {hint}"))
    rows += extra_rows
    rows.append(("held out", f"{len(preflight.held_out_examples):,} (not trained on)"))
    rows += map(_make_source_row, preflight.sources)
    print_table(rows + _make_plan_rows(summarize_plan(preflight.plan) if preflight.plan else ()))


def print_issues(issues: Iterable["Issue"]) -> None:
    """Print a line for each kind of issue; of very many with the same hint, the first only."""
    counts: Counter[str] = Counter()
    for group in _group_issues(issues):
        is_shown = len(group) > MAX_SEPARATE_ISSUES or counts[group[0].hint] < MAX_ISSUES_PER_HINT
        if is_shown:
            _print_issues_of_kind(group)
        if len(group) <= MAX_SEPARATE_ISSUES:
            counts[group[0].hint] += 1
    for hint, count in counts.items():
        if count > MAX_ISSUES_PER_HINT:
            more = count - MAX_ISSUES_PER_HINT
            print_status(f"and {more:,} more ({hint}): `dlm check --json` lists all")


def format_scores(scores: Mapping[str, float]) -> str:
    """Write the scores that were measured in one line."""
    texts = [f"{name.upper()} {scores[name]:.1%}" for name in ("wer", "cer") if name in scores]
    if "loss" in scores:
        texts.append(f"loss {scores['loss']:.3f}")
    if "gap" in scores:
        texts.append(f"listening gap {scores['gap']:.3f}")
    return ", ".join(texts) or "no scores"


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_size(num_bytes: int) -> str:
    """Write a number of bytes in B, kB or MB, with no more than one decimal."""
    if num_bytes < 1000:
        return f"{num_bytes:,} B"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:,.1f} MB"


def format_count(count: int, noun: str) -> str:
    """Write a number of things: `1 clip`, `2 clips`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _group_issues(issues: "Iterable[Issue]") -> "Iterator[list[Issue]]":
    """Issues that say the same of many clips, together; any other by itself, in their order."""
    groups: dict[tuple[str, str, str, bool], list[Issue]] = {}
    for issue in (issues := list(issues)):
        groups.setdefault((issue.code, issue.what, issue.hint, issue.fatal), []).append(issue)
    for issue in issues:
        group = groups[issue.code, issue.what, issue.hint, issue.fatal]
        if len(group) <= MAX_SEPARATE_ISSUES:
            yield [issue]
        elif issue is group[0]:
            yield group


def _print_issues_of_kind(group: "Sequence[Issue]") -> None:
    """Print one line for issues that differ in their location alone."""
    names = ", ".join(issue.where for issue in group[:MAX_SEPARATE_ISSUES])
    num_more = len(group) - MAX_SEPARATE_ISSUES
    line = str(group[0])
    if num_more > 0:
        line = f"{names} and {num_more:,} more: {group[0].what}; {group[0].hint}"
    print_status(" ".join(line.split()), color="red" if group[0].fatal else "yellow")


def _make_plan_rows(summary: Iterable["SummaryLine"]) -> list[tuple[str, str]]:
    return [(line.name, line.value + (f" ({line.why})" if line.why else "")) for line in summary]


def _make_source_row(source: "SourceReport") -> tuple[str, str]:
    skipped = "".join(f", {count:,} {label}" for label, count in _count_skipped(source))
    return "source", f"{source.path}: {format_count(source.audio_count, 'clip')}{skipped}"


def _count_skipped(source: "SourceReport") -> Iterator[tuple[str, int]]:
    """The label and the count of each reason for which a source's clips were skipped."""
    for name, label in SKIP_REASON_LABELS.items():
        if count := vars(source)[name]:
            yield label, count


def _make_stats_rows(report: "ValidationReport") -> list[tuple[str, str]]:
    """Lengths, levels, speaking rate, sample rates, languages and speakers of the clips."""
    rows = []
    if sum(report.lengths.counts) > 1:
        rows.append(("lengths", _format_histogram(report.lengths, "s")))
    if sum(report.levels.counts) > 1:
        rows.append(("levels", _format_histogram(report.levels, "dBFS")))
    if report.transcripts_per_minute:
        rate = f"{report.words_per_second:.1f} words per second"
        rows.append(("pace", f"{rate}, {report.transcripts_per_minute:.1f} transcripts a minute"))
    if len(report.sample_rates) > 1:
        rates = (f"{rate:,} Hz {count:,}" for rate, count in report.sample_rates.most_common())
        rows.append(("rates", _join_first(rates, len(report.sample_rates))))
    for name, groups in (("languages", report.languages), ("speakers", report.speakers)):
        if groups:
            rows.append((name, _join_first(_format_count_durations(groups), len(groups))))
    return rows


def _format_histogram(histogram: "Histogram", unit: str) -> str:
    """A histogram in a line: a block for each bin between its ends, and the fullest bin."""
    filled = [index for index, count in enumerate(histogram.counts) if count]
    counts = histogram.counts[filled[0] : filled[-1] + 1]
    edges = histogram.edges[filled[0] : filled[-1] + 2]
    highest = max(counts)
    blocks = "".join(
        SPARKLINE_CHARS[math.ceil(count / highest * (len(SPARKLINE_CHARS) - 1))] for count in counts
    )
    index = counts.index(highest)
    span = f"{edges[index]:g} to {edges[index + 1]:g} {unit}"
    return f"{edges[0]:g} {blocks} {edges[-1]:g} {unit}, most of them {span} ({highest:,})"


def _format_count_durations(groups: Mapping[str, "CountDuration"]) -> Iterator[str]:
    for name, group in groups.items():
        yield f"{name} {group.num_examples:,} ({format_duration(group.seconds)})"


def _join_first(items: Iterable[str], num_items: int) -> str:
    more = f", and {num_items - MAX_GROUPS:,} more" if num_items > MAX_GROUPS else ""
    return ", ".join(islice(items, MAX_GROUPS)) + more


def _print_transcription_check(check: "TranscriptionCheck") -> None:
    """Print the transcripts that differ from what a model heard, the worst first."""
    print_line()
    count = f"{len(check.transcripts):,} of {check.num_candidates:,} clips"
    print_line(f"{check.model_name} transcribed {count}: {check.wer:.1%} of the words differ")
    wrong = [transcript for transcript in check.transcripts if transcript.wer]
    rows = [
        (f"{each.wer:.0%}", each.location, each.reference, each.hypothesis)
        for each in wrong[:MAX_MISMATCHES]
    ]
    if rows:
        print_table(rows, header=("WER", "clip", "reference", "hypothesis"))


def _print_labels(label_view: "LabelView") -> None:
    """Print an encoded example span by span; `>` marks those with loss."""
    print_line()
    print_line(
        f"{label_view.location}: {label_view.num_label_tokens:,} "
        f"of {label_view.num_tokens:,} tokens carry loss (marked >)"
    )
    for span in label_view.spans:
        text = span.text.replace("\n", "\\n")
        line = f"{'>' if span.has_loss else ' '} {span.num_tokens:>5}  {text}"
        print_line(line, color="green" if span.has_loss else None)


def _print_token_losses(example_loss: "ExampleLoss") -> None:
    """Print the loss of one example, token by token."""
    count = format_count(len(example_loss.token_losses), "label token")
    losses = f"loss {example_loss.recomputed_loss:.4f} recomputed"
    losses += f", {example_loss.trainer_loss:.4f} in training"
    print_line(f"{example_loss.location}: {count}, {losses}")
    rows = [
        (repr(each.token), f"{each.loss:.3f}", repr(each.predicted_token))
        for each in example_loss.token_losses
    ]
    print_table(rows, header=("token", "loss", "predicted"))


def _print_preview(source_import: "SourceImport") -> None:
    """Print counts of a source, its first examples and its issues."""
    preview, issues = source_import.preview, source_import.issues
    num_fatal = sum(issue.fatal for issue in issues)
    problems = f"{len(issues):,}, {num_fatal:,} of them fatal" if issues else "none"
    rows = _make_preview_rows(preview, source_import.entry_yaml)
    print_table([*rows, ("problems", problems)])
    if preview.first_examples:
        print_line()
        examples = [
            (example.location, f"{example.seconds:.2f}", _shorten_text(example.text))
            for example in preview.first_examples
        ]
        print_table(examples, header=("clip", "seconds", "text"))
    groups = list(_group_issues(issues))
    for group in groups[:MAX_PREVIEW_ISSUES]:
        _print_issues_of_kind(group)
    if num_more := sum(map(len, groups[MAX_PREVIEW_ISSUES:])):
        print_status(f"and {num_more:,} more; --json has all")


def _make_preview_rows(preview: "SourcePreview", entry_yaml: str) -> list[tuple[str, str]]:
    partial = " of the first rows" if preview.is_partial else ""
    rates = {f"{rate:,} Hz": count for rate, count in preview.rates.items()}
    pace = f"{preview.transcripts_per_minute:.1f} a minute of audio"
    return [
        ("source", entry_yaml),
        ("format", f"{preview.format} ({preview.format_description})"),
        ("clips", f"{len(preview.examples):,}{partial}"),
        ("audio", format_duration(preview.seconds)),
        ("rates", _format_counts(rates)),
        ("languages", _format_counts(preview.languages)),
        ("speakers", _format_counts(preview.speakers)),
        ("transcripts", f"{pace}, {preview.words_per_minute:.0f} words a minute"),
        *(("left out", f"{count:,} {label}") for label, count in _count_skipped(preview.report)),
    ]


def _format_counts(counts: Mapping[str, int]) -> str:
    """The first few names with their counts."""
    first = ", ".join(
        f"{name} {count:,}" for name, count in islice(counts.items(), MAX_PREVIEW_COUNTS)
    )
    more = len(counts) - MAX_PREVIEW_COUNTS
    return first + (f" and {more:,} more" if more > 0 else "") or "not given"


def _shorten_text(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_PREVIEW_CHARS else f"{line[: MAX_PREVIEW_CHARS - 3]}..."


def _make_hardware_rows(report: "SystemReport") -> list[tuple[str, str]]:
    machine = report.machine
    bf16 = "fast, by AMX" if machine.amx else "fast, by AVX-512" if machine.bf16 else "slow here"
    gpus = "; ".join(
        f"{gpu.name}, {gpu.free_memory / BYTES_PER_GIB:.0f} GiB free" for gpu in machine.gpus
    )
    free, total = machine.free_memory / BYTES_PER_GIB, machine.memory / BYTES_PER_GIB
    cached = ", ".join(report.cached) or "no base of the catalogue"
    return [
        ("cpu", f"{machine.cores} cores, bf16 {bf16}"),
        ("gpu", gpus or "none"),
        ("memory", f"{free:.1f} of {total:.1f} GiB free"),
        ("disk", f"{machine.free_disk / BYTES_PER_GIB:.1f} GiB free at {report.home}"),
        ("decoder", report.decoder),
        ("resampler", report.resampler),
        ("hub cache", f"{report.cache}: {cached}"),
    ]


def _print_fit_table(fits: Sequence["FitRow"]) -> None:
    """Print a line for each base: the batch size and memory of each way to train it."""
    modes = tuple(dict.fromkeys(fit.mode for fit in fits))
    cells: dict[str, list[str]] = {}
    for fit in fits:
        star = "*" if fit.gradient_checkpointing else ""
        batch_size = f"{fit.max_batch_size} at once{star}" if fit.max_batch_size else "no"
        row = cells.setdefault(fit.model_key, [])
        row.append(f"{batch_size}, {fit.min_bytes / BYTES_PER_GIB:.1f} GiB")
    print_table([(key, *row) for key, row in cells.items()], header=("base", *modes))
    print_line("least memory, for rows of half a minute of audio; * with gradient checkpointing")


def _print_checkpoint_report(report: "CheckpointReport") -> None:
    """Print the dtypes of a base's tensors by component, and each tensor that is not finite."""
    rows = [
        (each.component, each.dtype, f"{each.num_tensors:,}", f"{each.size_bytes / 1e6:,.1f}")
        for each in report.dtype_counts
    ]
    print_table(rows, header=("component", "dtype", "tensors", "MB"))
    for tensor in report.non_finite_tensors:
        print_status(f"{tensor.file}: {tensor.tensor_name} {tensor.what}", color="red")
    if not report.non_finite_tensors:
        num_tensors = sum(count.num_tensors for count in report.dtype_counts)
        print_line(f"{report.model_key}: all values of {num_tensors:,} tensors are finite")
