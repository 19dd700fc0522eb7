"""What `--json` prints: the keys of each command's result, written out one by one.

Scripts read these keys: they stay when a record's attribute is renamed.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.batching.inspect_labels import LabelView
    from dlm.commands.data import SourceImport
    from dlm.commands.insight import InsightResult
    from dlm.commands.preflight import Preflight
    from dlm.commands.versions import DocumentStatus, GcResult, SystemReport, VerifyResult
    from dlm.data.load import SourceReport
    from dlm.data.stats import CountDuration, ExampleStats, Histogram
    from dlm.data.types import Issue
    from dlm.inference.evaluate import EvaluationReport, ExampleLoss
    from dlm.inference.label_check import TranscriptionCheck
    from dlm.inference.metrics import UtteranceScore
    from dlm.inference.transcribe import Transcript
    from dlm.models.inspect_checkpoint import CheckpointReport
    from dlm.plan.hardware import Hardware
    from dlm.plan.types import SummaryLine
    from dlm.store.records import ExportInfo, RecordingHash, Version
    from dlm.training.events import VersionComparison

MAX_WORST_EXAMPLES = 10  # examples that eval lists

JsonDict = dict[str, Any]


def dump_json(value: JsonDict | list[JsonDict], *, indent: int | None = 2) -> str:
    """Write a value as JSON: paths as text, a number that is not finite as null, UTF-8 as it is."""
    from dlm.store.records import to_jsonable  # here, so that --help stays fast

    return json.dumps(to_jsonable(value), indent=indent, ensure_ascii=False) + "\n"


def preflight_to_dict(preflight: "Preflight") -> JsonDict:
    """The result of `check`."""
    from dlm.plan.summary import summarize_plan

    report = preflight.validation
    label_view, check = preflight.label_view, preflight.transcription_check
    return {
        "document": preflight.document.path,
        "base_model": preflight.spec.key,
        "clips": report.num_examples,
        "hours": report.hours,
        "seconds": {
            "min": report.seconds_min,
            "median": report.seconds_median,
            "max": report.seconds_max,
        },
        "sounds": report.num_segments,
        "heard": report.num_decoded,
        "rates": report.sample_rates,
        "tasks": report.tasks,
        "languages": _count_durations_to_dict(report.languages),
        "speakers": _count_durations_to_dict(report.speakers),
        "lengths": _histogram_to_dict(report.lengths),
        "levels": _histogram_to_dict(report.levels),
        "words_per_second": report.words_per_second,
        "transcripts_per_minute": report.transcripts_per_minute,
        "learn": len(preflight.train_examples),
        "held_out": len(preflight.held_out_examples),
        "source_directives": list(map(_source_to_dict, preflight.sources)),
        "problems": list(map(_issue_to_dict, preflight.issues)),
        "left_out": list(map(_issue_to_dict, preflight.skipped_issues)),
        "plan": _summary_to_list(summarize_plan(preflight.plan) if preflight.plan else ()),
        "facts": list(map(_example_stats_to_dict, report.example_stats)),
        "labels": label_view and _label_view_to_dict(label_view),
        "dictation": check and _transcription_check_to_dict(check),
        "page": preflight.report_path,
    }


def evaluation_to_dict(report: "EvaluationReport") -> JsonDict:
    """The result of `eval`."""
    words = report.word_errors
    return {
        "clips": report.num_examples,
        "wer": words and words.rate,
        "cer": report.character_errors and report.character_errors.rate,
        "substitutions": words and words.substitutions,
        "deletions": words and words.deletions,
        "insertions": words and words.insertions,
        "words": words and words.reference_length,
        "normaliser": report.normalizer,
        "source_directives": list(map(_source_to_dict, report.sources)),
        "scores": report.scores,
        "worst": list(map(_utterance_to_dict, report.worst_examples[:MAX_WORST_EXAMPLES])),
        "row": report.example_loss and _example_loss_to_dict(report.example_loss),
        "cut": report.num_cut,
    }


def status_to_dict(status: "DocumentStatus") -> JsonDict:
    """The result of `show`."""
    requested = status.requested_version
    recordings = requested and list(map(_recording_to_dict, requested.train_recordings))
    return {
        "dlm_id": status.document.config.dlm_id,
        "path": status.document.path,
        "base_model": status.spec.key,
        "base_model_revision": status.spec.revision,
        "clips": status.num_examples,
        "source_directives": list(map(_source_to_dict, status.sources)),
        "adapter_version": max((version.number for version in status.versions), default=None),
        "training_runs": len(status.versions),
        "last_trained_at": max((version.created_at for version in status.versions), default=None),
        "versions": versions_to_list(status.versions),
        "current": status.current,
        "exports": list(map(_export_to_dict, status.exports)),
        "store": status.store,
        "total_size_bytes": status.size_bytes,
        "damaged": status.damaged,
        **({"train_recordings": recordings} if requested else {}),
    }


def versions_to_list(versions: "Iterable[Version]") -> list[JsonDict]:
    """The result of `versions`."""
    return [
        {
            "name": version.name,
            "document_sha256": version.document_sha256,
            "data_sha256": version.data_sha256,
            "plan": version.plan,
            "seed": version.seed,
            "base": version.base_model,
            "base_revision": version.base_model_revision,
            "train_recordings": list(map(_recording_to_dict, version.train_recordings)),
            "overrides": version.overrides,
            "audio_backends": version.audio_backends,
            "num_threads": version.num_threads,
            "steps": version.steps,
            "seconds": version.seconds,
            "scores": version.scores,
            "run": version.run,
            "accepted": version.is_accepted,
            "comparison": version.comparison and _comparison_to_dict(version.comparison),
            "environment": version.environment,
            "number": version.number,
            "created_at": version.created_at,
            "hashes": version.hashes,
            "path": version.path,
        }
        for version in versions
    ]


def _comparison_to_dict(comparison: "VersionComparison") -> JsonDict:
    return {
        "current": comparison.current,
        "metric": comparison.metric,
        "differences": [
            {
                "name": difference.name,
                "num_clips": difference.num_clips,
                "score": difference.score,
                "other_score": difference.other_score,
                "low": difference.low,
                "high": difference.high,
                "clearly_worse": difference.is_clearly_worse,
            }
            for difference in comparison.differences
        ],
        "reason": comparison.reason,
    }


def transcript_to_dict(transcript: "Transcript") -> JsonDict:
    """A line of `transcribe`."""
    return {
        "path": transcript.path,
        "seconds": transcript.seconds,
        "segments": [
            {"start": segment.start, "end": segment.end, "text": segment.text}
            for segment in transcript.segments
        ],
        "text": transcript.text,
        "cut": transcript.num_cut,
    }


def import_to_dict(source_import: "SourceImport") -> JsonDict:
    """The result of `import`."""
    preview = source_import.preview
    return {
        "document": source_import.path,
        "source": source_import.entry,
        "format": preview.format,
        "clips": len(preview.examples),
        "partly": preview.is_partial,
        "hours": preview.hours,
        "transcripts_per_minute": preview.transcripts_per_minute,
        "words_per_minute": preview.words_per_minute,
        "rates": preview.rates,
        "languages": preview.languages,
        "speakers": preview.speakers,
        "report": _source_to_dict(preview.report),
        "first": [
            {"location": example.location, "seconds": example.seconds, "text": example.text}
            for example in preview.first_examples
        ],
        "problems": list(map(_issue_to_dict, source_import.issues)),
        "inline": source_import.inline,
        "added": source_import.num_added,
        "written": source_import.written,
    }


def verification_to_dict(result: "VerifyResult") -> JsonDict:
    """The result of `verify`."""
    return {
        "path": result.path,
        "files": result.files,
        "differences": result.differences,
        "mended": result.mended,
    }


def insight_to_dict(result: "InsightResult") -> JsonDict:
    """The result of `insight`."""
    return {
        "page": result.page,
        "pictures": result.pictures,
        "version": result.version,
        "clips": result.clips,
        "held_out": result.held_out,
        "scores": result.scores,
    }


def gc_to_dict(result: "GcResult") -> JsonDict:
    """The result of `gc`."""
    return {
        "document": result.document,
        "unneeded": [
            {
                "kind": item.kind,
                "path": item.path,
                "size_bytes": item.size_bytes,
                "name": item.name,
            }
            for item in result.unneeded
        ],
        "removed": result.removed,
    }


def system_report_to_dict(report: "SystemReport") -> JsonDict:
    """The result of `doctor`."""
    return {
        "machine": _hardware_to_dict(report.machine),
        "decoder": report.decoder,
        "resampler": report.resampler,
        "cache": report.cache,
        "cached": report.cached,
        "home": report.home,
        "plan": _summary_to_list(report.plan),
        "complaint": report.complaint,
        "fits": [
            {
                "model_key": fit.model_key,
                "mode": fit.mode,
                "min_bytes": fit.min_bytes,
                "max_batch_size": fit.max_batch_size,
                "gradient_checkpointing": fit.gradient_checkpointing,
            }
            for fit in report.fits
        ],
        "weights": report.weights and _checkpoint_to_dict(report.weights),
    }


def _hardware_to_dict(hardware: "Hardware") -> JsonDict:
    return {
        "cores": hardware.cores,
        "memory": hardware.memory,
        "free_memory": hardware.free_memory,
        "free_disk": hardware.free_disk,
        "bf16": hardware.bf16,
        "amx": hardware.amx,
        "gpus": [
            {
                "name": gpu.name,
                "memory": gpu.memory,
                "free_memory": gpu.free_memory,
                "bf16": gpu.bf16,
            }
            for gpu in hardware.gpus
        ],
    }


def _checkpoint_to_dict(report: "CheckpointReport") -> JsonDict:
    return {
        "model_key": report.model_key,
        "dtype_counts": [
            {
                "component": count.component,
                "dtype": count.dtype,
                "num_tensors": count.num_tensors,
                "size_bytes": count.size_bytes,
            }
            for count in report.dtype_counts
        ],
        "non_finite_tensors": [
            {"file": tensor.file, "tensor_name": tensor.tensor_name, "what": tensor.what}
            for tensor in report.non_finite_tensors
        ],
    }


def _summary_to_list(summary: "Iterable[SummaryLine]") -> list[JsonDict]:
    return [{"name": line.name, "value": line.value, "why": line.why} for line in summary]


def _issue_to_dict(issue: "Issue") -> JsonDict:
    return {
        "where": issue.where,
        "what": issue.what,
        "hint": issue.hint,
        "fatal": issue.fatal,
        "code": issue.code,
    }


def _source_to_dict(source: "SourceReport") -> JsonDict:
    return {
        "path": source.path,
        "audio_count": source.audio_count,
        "audio_bytes": source.audio_bytes,
        "skipped_audio_no_transcript": source.skipped_audio_no_transcript,
        "skipped_rows_no_audio": source.skipped_rows_no_audio,
        "skipped_not_audio": source.skipped_not_audio,
        "skipped_excluded": source.skipped_excluded,
        "skipped_over_max_files": source.skipped_over_max_files,
        "skipped_other_split": source.skipped_other_split,
        "audio_names": source.audio_names,
        "skipped_names": source.skipped_names,
        "test_benchmarks": source.test_benchmarks,
        "held_out": source.held_out,
    }


def _example_stats_to_dict(stats: "ExampleStats") -> JsonDict:
    return {
        "location": stats.location,
        "task": stats.task,
        "seconds": stats.seconds,
        "num_samples": stats.num_samples,
        "sample_rate": stats.sample_rate,
        "num_channels": stats.num_channels,
        "peak": stats.peak,
        "rms": stats.rms,
        "silent_fraction": stats.silent_fraction,
        "clipped_fraction": stats.clipped_fraction,
        "num_words": stats.num_words,
        "words_per_second": stats.words_per_second,
        "sha256": stats.sha256,
        "durations": stats.durations,
        "content_sha256": stats.content_sha256,
    }


def _count_durations_to_dict(counts: "Mapping[str, CountDuration]") -> JsonDict:
    return {
        name: {"num_examples": count.num_examples, "seconds": count.seconds}
        for name, count in counts.items()
    }


def _histogram_to_dict(histogram: "Histogram") -> JsonDict:
    return {"edges": histogram.edges, "counts": histogram.counts}


def _label_view_to_dict(label_view: "LabelView") -> JsonDict:
    return {
        "location": label_view.location,
        "num_tokens": label_view.num_tokens,
        "num_label_tokens": label_view.num_label_tokens,
        "spans": [
            {"text": span.text, "num_tokens": span.num_tokens, "has_loss": span.has_loss}
            for span in label_view.spans
        ],
    }


def _transcription_check_to_dict(check: "TranscriptionCheck") -> JsonDict:
    return {
        "model_name": check.model_name,
        "transcripts": [
            {**_utterance_to_dict(transcript), "better_match": transcript.better_match}
            for transcript in check.transcripts
        ],
        "num_candidates": check.num_candidates,
        "wer": check.wer,
    }


def _utterance_to_dict(score: "UtteranceScore") -> JsonDict:
    return {
        "location": score.location,
        "reference": score.reference,
        "hypothesis": score.hypothesis,
        "wer": score.wer,
    }


def _example_loss_to_dict(example_loss: "ExampleLoss") -> JsonDict:
    return {
        "location": example_loss.location,
        "token_losses": [
            {"token": loss.token, "loss": loss.loss, "predicted_token": loss.predicted_token}
            for loss in example_loss.token_losses
        ],
        "recomputed_loss": example_loss.recomputed_loss,
        "trainer_loss": example_loss.trainer_loss,
    }


def _recording_to_dict(recording: "RecordingHash") -> JsonDict:
    return {"path": recording.path, "sha256": recording.sha256}


def _export_to_dict(export: "ExportInfo") -> JsonDict:
    return {
        "kind": export.kind,
        "version": export.version,
        "created_at": export.created_at,
        "path": export.path,
        "hashes": export.hashes,
    }
