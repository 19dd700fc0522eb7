"""The command `insight`: a page with curves, scores and pictures of what a version attends to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.infer import InferenceTarget, validate_audio_inputs
from dlm.commands.options import (
    AnyPath,
    DeviceOption,
    DocumentArg,
    ParamInfo,
    ProgressFn,
    VersionOption,
    require_range,
)

if TYPE_CHECKING:
    from dlm.config.parser import Document
    from dlm.data.types import Example
    from dlm.reports.run_curves import RunCurves
    from dlm.store.records import Version

MAX_TRAIN_INSIGHT_EXAMPLES = 32  # training examples to show where none are held out


@dataclass(frozen=True)
class InsightResult:
    """The page of a version.

    Attributes:
        page: path of the HTML file.
        pictures: paths of its pictures, PNG.
        version: name of the version.
        clips: number of clips the scores are of.
        held_out: whether these were held out.
        scores: by name, as of `eval`.
    """

    page: Path
    pictures: tuple[Path, ...]
    version: str
    clips: int
    held_out: bool
    scores: dict[str, float]


def insight(
    path: DocumentArg,
    *,
    into: Annotated[
        AnyPath | None, ParamInfo("Folder of the page; by default one beside the document.")
    ] = None,
    clips: Annotated[int, ParamInfo("Number of clips to show in detail.")] = 8,
    version: VersionOption = None,
    device: DeviceOption = None,
    progress: ProgressFn | None = None,
) -> InsightResult:
    """Show on one page whether a version uses the audio.

    The page has loss curves, scores, alignment, attention and the worst clips.
    """
    from dlm.commands.preflight import resolve_version
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.reports.html import require_report_extra
    from dlm.reports.insight_page import (
        INSIGHT_PACKAGES,
        InsightHeader,
        prepare_insight_dir,
        write_insight_page,
    )
    from dlm.store.layout import get_dlm_home

    path = Path(path)
    require_range("--clips", clips, minimum=1)
    require_report_extra(INSIGHT_PACKAGES)
    chosen_device = choose_device(device, detect_hardware(get_dlm_home()))
    document, spec, record = resolve_version(path, version)
    target = InferenceTarget(document, spec, record, chosen_device)
    examples, held_out = _select_insight_examples(target)
    validate_audio_inputs((each for example in examples for each in example.audio_segments), target)
    folder = Path(into or path.with_name(f"{path.stem}-insight-{record.name}")).absolute()
    prepare_insight_dir(folder)

    from dlm.reports.insight import compute_insight
    from dlm.store.versions import get_utc_timestamp

    engine = target.load_engine(cache_encoder_output=True)
    report = compute_insight(engine, examples, num_examples=clips, progress=progress)
    header = InsightHeader(
        document=path.name,
        base_model=spec.key,
        version=record.name,
        created_at=get_utc_timestamp()[:16].replace("T", " "),
        num_steps=record.steps,
        split_label="held out" if held_out else "it was trained on",
    )
    page, *pictures = write_insight_page(header, _load_run_curves(document, record), report, folder)
    scores = report.report.scores
    return InsightResult(page, tuple(pictures), record.name, len(examples), held_out, scores)


def _select_insight_examples(target: InferenceTarget) -> "tuple[list[Example], bool]":
    """The held-out examples, or else some training examples, and whether they were held out."""
    from dlm.commands.preflight import filter_usable_examples
    from dlm.data.load import load_examples
    from dlm.data.split import train_eval_split

    loaded, config = load_examples(target.document), target.training_config
    train, held_out = train_eval_split(loaded, config)
    examples = held_out or train[: config.train_count][:MAX_TRAIN_INSIGHT_EXAMPLES]
    usable = filter_usable_examples(target.document, target.spec, loaded, examples)
    return list(usable), bool(held_out)


def _load_run_curves(document: "Document", version: "Version") -> "RunCurves":
    """The losses in the log of the version's run; empty where the log is gone."""
    from dlm.reports.run_curves import parse_run_curves
    from dlm.store.runs import list_runs, read_run_log
    from dlm.store.versions import open_store

    runs = list_runs(open_store(document.config.dlm_id))
    run = next((run for run in runs if run.id == version.run), None)
    return parse_run_curves(read_run_log(run) if run else ())
