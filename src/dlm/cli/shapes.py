"""What --json prints: each verb's answer in the words of JSON."""

import json
from typing import Any

from dlm.verbs.keep import Shown
from dlm.verbs.say import plain

WORST = 10  # clips that eval names


def as_json(value: object) -> str:
    """A value as one would read it: indented, and in its own letters."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def as_json_line(value: object) -> str:
    """A value in one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def checked(found: Any) -> dict[str, Any]:
    """What check found."""
    heard = found.audit
    return {
        "document": found.document.path,
        "base_model": found.base.key,
        "clips": heard.clips,
        "hours": heard.hours,
        "seconds": {
            "min": heard.seconds_min,
            "median": heard.seconds_median,
            "max": heard.seconds_max,
        },
        "sounds": heard.sounds,
        "heard": heard.heard,
        "rates": heard.rates,
        "tasks": heard.tasks,
        "languages": heard.languages,
        "speakers": heard.speakers,
        "lengths": heard.lengths,
        "levels": heard.levels,
        "words_per_second": heard.words_per_second,
        "transcripts_per_minute": heard.transcripts_per_minute,
        "learn": len(found.learn),
        "held_out": len(found.held_out),
        "source_directives": found.sources,
        "problems": found.problems,
        "left_out": found.left_out,
        "plan": found.plan.lines if found.plan else [],
        "facts": list(heard.facts),
        "labels": found.row,
        "dictation": found.dictation,
        "page": found.page,
    }


def evaluated(report: Any) -> dict[str, Any]:
    """What eval counted."""
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
        "source_directives": report.sources,
        "scores": report.scores,
        "worst": report.worst[:WORST],
        "row": report.row,
    }


def shown(found: Shown) -> dict[str, Any]:
    """What a document holds and what was learned from it."""
    return {
        "dlm_id": found.document.settings.dlm_id,
        "path": found.document.path,
        "base_model": found.base.key,
        "base_model_revision": found.base.revision,
        "clips": found.clips,
        "source_directives": found.sources,
        "adapter_version": max((each.number for each in found.versions), default=None),
        "training_runs": len(found.versions),
        "last_trained_at": max((each.created_at for each in found.versions), default=None),
        "versions": [{"name": each.name, **vars(each)} for each in found.versions],
        "current": found.current,
        "exports": found.exports,
        "store": found.store,
        "total_size_bytes": found.size_bytes,
        **({"learned_from": found.asked.learned_from} if found.asked else {}),
    }
