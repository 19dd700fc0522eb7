"""What --json prints: each verb's answer in the words of JSON."""

import json
from typing import TYPE_CHECKING, Any

from dlm.commands.options import as_jsonable
from dlm.commands.versions import DocumentStatus

if TYPE_CHECKING:
    from dlm.commands.preflight import Preflight
    from dlm.inference.evaluate import EvaluationReport


MAX_WORST_EXAMPLES = 10  # clips that eval names


def dump_json(value: object) -> str:
    """A value as one would read it: indented, and in its own letters."""
    return json.dumps(as_jsonable(value), indent=2, ensure_ascii=False)


def dump_json_line(value: object) -> str:
    """A value in one line."""
    return json.dumps(as_jsonable(value), ensure_ascii=False)


def preflight_to_dict(preflight: "Preflight") -> dict[str, Any]:
    """What check found."""
    heard = preflight.validation
    return {
        "document": preflight.document.path,
        "base_model": preflight.spec.key,
        "clips": heard.num_examples,
        "hours": heard.hours,
        "seconds": {
            "min": heard.seconds_min,
            "median": heard.seconds_median,
            "max": heard.seconds_max,
        },
        "sounds": heard.num_segments,
        "heard": heard.num_decoded,
        "rates": heard.sample_rates,
        "tasks": heard.tasks,
        "languages": heard.languages,
        "speakers": heard.speakers,
        "lengths": heard.lengths,
        "levels": heard.levels,
        "words_per_second": heard.words_per_second,
        "transcripts_per_minute": heard.transcripts_per_minute,
        "learn": len(preflight.train_examples),
        "held_out": len(preflight.held_out_examples),
        "source_directives": preflight.sources,
        "problems": preflight.issues,
        "left_out": preflight.skipped_issues,
        "plan": preflight.plan.summary if preflight.plan else [],
        "facts": list(heard.example_stats),
        "labels": preflight.label_view,
        "dictation": preflight.transcription_check,
        "page": preflight.report_path,
    }


def evaluation_to_dict(report: "EvaluationReport") -> dict[str, Any]:
    """What eval counted."""
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
        "source_directives": report.sources,
        "scores": report.scores,
        "worst": report.worst_examples[:MAX_WORST_EXAMPLES],
        "row": report.example_loss,
    }


def status_to_dict(status: DocumentStatus) -> dict[str, Any]:
    """What a document holds and what was learned from it."""
    return {
        "dlm_id": status.document.config.dlm_id,
        "path": status.document.path,
        "base_model": status.spec.key,
        "base_model_revision": status.spec.revision,
        "clips": status.num_examples,
        "source_directives": status.sources,
        "adapter_version": max((each.number for each in status.versions), default=None),
        "training_runs": len(status.versions),
        "last_trained_at": max((each.created_at for each in status.versions), default=None),
        "versions": [{"name": each.name, **vars(each)} for each in status.versions],
        "current": status.current,
        "exports": status.exports,
        "store": status.store,
        "total_size_bytes": status.size_bytes,
        **(
            {"train_recordings": status.requested_version.train_recordings}
            if status.requested_version
            else {}
        ),
    }
