"""check: what can be known of a document before it is learned, and what a model hears in it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.infer import InferenceTarget
from dlm.commands.options import (
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


DEFAULT_TRANSCRIBED_EXAMPLES = 200  # a few minutes for a small base without an accelerator


def check(
    path: DocumentArg,
    *,
    show_labels: Annotated[
        bool, ParamInfo("Decode one clip's row: what of it is learned.")
    ] = False,
    full: Annotated[bool, ParamInfo("Decode every sound, also where there are thousands.")] = False,
    listen: Annotated[
        bool,
        ParamInfo("Let the version in use, or else the base, transcribe clips: finds wrong texts."),
    ] = False,
    clips: Annotated[
        int | None,
        ParamInfo(f"Listen to so many clips; {DEFAULT_TRANSCRIBED_EXAMPLES} when not said."),
    ] = None,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    page: Annotated[
        Path | None, ParamInfo("Write all of it as a page with players.", metavar="FILE.html")
    ] = None,
    overrides: OverridesOption = None,
    progress: ProgressFn | None = None,
) -> "Preflight":
    """Find every problem that can be known before training."""
    from dlm.commands.preflight import run_preflight

    _validate_listen_options(
        listen=listen, num_examples=clips, has_model_option=bool(version or bare or device)
    )
    _require_html_path(page)
    listener = (
        _resolve_check_target(path, version, base_only=bare, device=device) if listen else None
    )
    checked = run_preflight(path, overrides=overrides, progress=progress, full_scan=full)
    if show_labels:
        checked = replace(checked, label_view=_view_labels(checked))
    if listener is not None:
        heard = _check_transcripts(
            checked, listener, clips or DEFAULT_TRANSCRIBED_EXAMPLES, progress
        )
        problems = (*checked.issues, *heard.iter_issues())
        checked = replace(checked, transcription_check=heard, issues=problems)
    return _write_report(checked, page) if page is not None else checked


def _validate_listen_options(
    *, listen: bool, num_examples: int | None, has_model_option: bool
) -> None:
    """Refuse options that only mean something beside --listen."""
    require_range("--clips", num_examples, minimum=1)
    if not listen and (has_model_option or num_examples is not None):
        what = "--clips, --version, --base and --device are about what --listen hears"
        raise UsageError(what, hint="add --listen")


def _require_html_path(report_path: Path | None) -> None:
    """Refuse a page that could not be written, or would overwrite something else."""
    if report_path is None:
        return
    from dlm.reports.data_report import require_data_report_extra

    require_data_report_extra()
    if report_path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--page {report_path} is no .html file", hint="name one, such as clips.html"
        )


def _view_labels(preflight: "Preflight") -> "LabelView | None":
    """The first row with sound as it is learned, through the base's tokenizer alone."""
    from dlm.batching.inspect_labels import make_label_view
    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.models.load import load_tokenizer

    bad = {problem.where for problem in preflight.fatal_issues}
    fine = [clip for clip in preflight.train_examples if clip.location not in bad]
    clip = next((clip for clip in fine if clip.audio_segments), fine[0] if fine else None)
    if clip is None:
        return None
    base, taken_in = preflight.spec, preflight.document.config.training.audio
    chat = build_chat_encoder(load_tokenizer(base), base)
    return make_label_view(clip, chat, base.audio_spec, taken_in.max_windows)


def _resolve_check_target(
    path: Path, version_name: str | None, *, base_only: bool, device: str | None
) -> InferenceTarget:
    """The version that is named or in use; else the base alone, which needs no training."""
    from dlm.commands.preflight import resolve_document, resolve_version
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.store.layout import get_dlm_home
    from dlm.store.versions import open_store

    if base_only and version_name:
        raise UsageError("--base and --version exclude each other", hint="give one of them")
    chosen = choose_device(device, detect_hardware(get_dlm_home()))
    document, base = resolve_document(path)
    if not base_only and (version_name or open_store(document.config.dlm_id).get_current_version()):
        document, base, kept = resolve_version(path, version_name)
        return InferenceTarget(document, base, kept.path, chosen)
    return InferenceTarget(document, base, None, chosen)


def _check_transcripts(
    preflight: "Preflight", target: InferenceTarget, max_examples: int, progress: ProgressFn | None
) -> "TranscriptionCheck":
    """What a model hears in clips that say what is said, `most` of them."""
    clips = _transcribable_examples(preflight)
    if not clips:
        mend = "mend what is wrong with them, or add clips with a transcript"
        where = str(preflight.document.path)
        raise DataError("no clip to listen to", where=where, hint=mend)

    from dlm.inference.engine import load_engine
    from dlm.inference.label_check import check_transcripts

    drawn = sorted(random.Random(0).sample(range(len(clips)), min(max_examples, len(clips))))
    base, version = target.spec, target.version_dir
    model = f"{version.name} of {base.key}" if version else f"{base.key} as it was released"
    asked = preflight.document.config.training
    using = load_engine(base, version, device=target.device, config=asked)
    chosen = [clips[at] for at in drawn]
    return check_transcripts(
        using, chosen, model_name=model, num_candidates=len(clips), progress=progress
    )


def _transcribable_examples(preflight: "Preflight") -> "Sequence[Example]":
    """Clips with a transcript whose sounds can be heard."""
    bad = {problem.where for problem in preflight.fatal_issues}
    both = (*preflight.train_examples, *preflight.held_out_examples)
    return [
        clip
        for clip in both
        if clip.task == "transcribe"
        and clip.location not in bad
        and not preflight.validation.unusable_segments.intersection(clip.audio_segments)
    ]


def _write_report(preflight: "Preflight", report_path: Path) -> "Preflight":
    from dlm.reports.data_report import ReportHeader, write_data_report
    from dlm.store.versions import get_utc_timestamp

    about = ReportHeader(
        preflight.document.path.name, preflight.spec.key, get_utc_timestamp()[:16].replace("T", " ")
    )
    told, heard = preflight.issues, preflight.transcription_check
    write_data_report(
        report_path, about, preflight.validation, issues=told, transcription_check=heard
    )
    return replace(preflight, report_path=report_path)
