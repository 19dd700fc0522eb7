"""The command `check`: everything wrong with a document's data before training, and its labels.

With `--listen` a model transcribes clips, to find transcripts that belong to other recordings.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.infer import InferenceTarget, resolve_inference_target
from dlm.commands.options import (
    AnyPath,
    BaseOnlyOption,
    DeviceOption,
    DocumentArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    VersionOption,
    require_range,
)
from dlm.errors import DataError, UsageError

if TYPE_CHECKING:
    from dlm.batching.inspect_labels import LabelView
    from dlm.commands.preflight import Preflight
    from dlm.data.types import Example
    from dlm.inference.label_check import TranscriptionCheck

DEFAULT_TRANSCRIBED_EXAMPLES = 200  # a few minutes for a small base on a CPU
HTML_SUFFIXES = (".html", ".htm")


def check(
    path: DocumentArg,
    *,
    show_labels: Annotated[
        bool, ParamInfo("Print the tokens of one clip and which of them carry loss.")
    ] = False,
    full: Annotated[
        bool, ParamInfo("Decode every recording, also where there are thousands.")
    ] = False,
    listen: Annotated[
        bool,
        ParamInfo(
            "Transcribe clips with the version in use, or else the base, to find wrong transcripts."
        ),
    ] = False,
    clips: Annotated[
        int | None,
        ParamInfo(f"Number of clips to transcribe; {DEFAULT_TRANSCRIBED_EXAMPLES} by default."),
    ] = None,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    page: Annotated[
        AnyPath | None,
        ParamInfo("Write the results as a page with audio players.", metavar="FILE.html"),
    ] = None,
    overrides: OverridesOption = None,
    progress: ProgressFn | None = None,
) -> "Preflight":
    """Find every problem that can be known before training."""
    from dlm.commands.preflight import run_preflight

    path, report_path = Path(path), Path(page) if page is not None else None
    require_range("--clips", clips, minimum=1)
    if not listen and (version or bare or device or clips is not None):
        what = "--clips, --version, --base and --device are options of --listen"
        raise UsageError(what, hint="add --listen", code="usage.listen_missing")
    if report_path is not None:
        _require_html_path(report_path)
    target = None
    if listen:
        target = resolve_inference_target(
            path, version, base_only=bare, device=device, base_is_fallback=True
        )
    preflight = run_preflight(path, overrides=overrides, progress=progress, full_scan=full)
    if show_labels:
        preflight = replace(preflight, label_view=_view_labels(preflight))
    if target is not None:
        max_examples = clips or DEFAULT_TRANSCRIBED_EXAMPLES
        transcription_check = _check_transcripts(preflight, target, max_examples, progress)
        preflight = replace(
            preflight,
            transcription_check=transcription_check,
            issues=(*preflight.issues, *transcription_check.iter_issues()),
        )
    return _write_report(preflight, report_path) if report_path is not None else preflight


def _require_html_path(report_path: Path) -> None:
    """Refuse a path for the page that may be a document or a recording."""
    from dlm.reports.data_report import DATA_REPORT_PACKAGES
    from dlm.reports.html import require_report_extra

    require_report_extra(DATA_REPORT_PACKAGES)
    if report_path.suffix.lower() not in HTML_SUFFIXES:
        what, hint = f"--page {report_path} is not an .html file", "name one, such as clips.html"
        raise UsageError(what, hint=hint, code="usage.not_html")


def _view_labels(preflight: "Preflight") -> "LabelView | None":
    """The labels of the first usable example, with audio where there is one."""
    from dlm.batching.inspect_labels import make_label_view
    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.models.load import load_tokenizer

    bad_locations = {issue.where for issue in preflight.fatal_issues}
    usable = [each for each in preflight.train_examples if each.location not in bad_locations]
    if not usable:
        return None
    example = next((each for each in usable if each.audio_segments), usable[0])
    spec, audio_config = preflight.spec, preflight.document.config.training.audio
    chat_encoder = build_chat_encoder(load_tokenizer(spec), spec)
    return make_label_view(example, chat_encoder, spec.audio_spec, audio_config.max_windows)


def _check_transcripts(
    preflight: "Preflight", target: InferenceTarget, max_examples: int, progress: ProgressFn | None
) -> "TranscriptionCheck":
    """Compare the transcripts of up to `max_examples` random examples with a model's."""
    examples = _list_transcribable_examples(preflight)
    if not examples:
        raise DataError(
            "no clip to transcribe",
            where=str(preflight.document.path),
            hint="correct what is wrong with them, or add clips with a transcript",
            code="data.nothing_to_transcribe",
        )

    from dlm.inference.label_check import check_transcripts

    num_drawn = min(max_examples, len(examples))
    indices = sorted(random.Random(0).sample(range(len(examples)), num_drawn))
    spec, version_dir = target.spec, target.version_dir
    released = f"{spec.key} as it was released"
    return check_transcripts(
        target.load_engine(),
        [examples[index] for index in indices],
        model_name=f"{version_dir.name} of {spec.key}" if version_dir else released,
        num_candidates=len(examples),
        progress=progress,
    )


def _list_transcribable_examples(preflight: "Preflight") -> "list[Example]":
    """The examples that are a transcript and whose audio can be decoded."""
    bad_locations = {issue.where for issue in preflight.fatal_issues}
    unusable = preflight.validation.unusable_segments
    return [
        example
        for example in (*preflight.train_examples, *preflight.held_out_examples)
        if example.task == "transcribe"
        and example.location not in bad_locations
        and not unusable.intersection(example.audio_segments)
    ]


def _write_report(preflight: "Preflight", report_path: Path) -> "Preflight":
    from dlm.reports.data_report import ReportHeader, write_data_report
    from dlm.store.versions import get_utc_timestamp

    created_at = get_utc_timestamp()[:16].replace("T", " ")
    write_data_report(
        report_path,
        ReportHeader(preflight.document.path.name, preflight.spec.key, created_at),
        preflight.validation,
        issues=preflight.issues,
        transcription_check=preflight.transcription_check,
    )
    return replace(preflight, report_path=report_path)
