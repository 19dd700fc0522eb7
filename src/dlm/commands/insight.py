"""insight: a page that shows whether a version listens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.infer import InferenceTarget, validate_audio_inputs
from dlm.commands.options import (
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
    from dlm.plan.model_spec import ModelSpec
    from dlm.reports.insight import RunCurves
    from dlm.store.records import Version


MAX_TRAIN_INSIGHT_EXAMPLES = 32  # that it learned from, where none are held out


@dataclass(frozen=True)
class InsightResult:
    """The page and its pictures, and what was measured for them."""

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
        Path | None, ParamInfo("A folder for it; one beside the document when not said.")
    ] = None,
    clips: Annotated[int, ParamInfo("Look closely at so many clips.")] = 8,
    version: VersionOption = None,
    device: DeviceOption = None,
    progress: ProgressFn | None = None,
) -> InsightResult:
    """Show on one page whether it listens: curves, scores, alignment, attention, worst clips."""
    from dlm.commands.preflight import resolve_version
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.reports.insight_page import (
        InsightHeader,
        prepare_insight_dir,
        require_insight_extra,
        write_insight_page,
    )
    from dlm.store.layout import get_dlm_home

    require_range("--clips", clips, minimum=1)
    require_insight_extra()
    chosen = choose_device(device, detect_hardware(get_dlm_home()))
    document, base, kept = resolve_version(path, version)
    opened = InferenceTarget(document, base, kept.path, chosen)
    tried, held_out = _select_insight_examples(document, base)
    validate_audio_inputs([sound for clip in tried for sound in clip.audio_segments], opened)
    folder = (into or path.with_name(f"{path.stem}-insight-{kept.name}")).absolute()
    prepare_insight_dir(folder)

    from dlm.inference.engine import load_engine
    from dlm.reports.insight import compute_insight
    from dlm.store.versions import get_utc_timestamp

    using = load_engine(
        base, kept.path, device=chosen, config=opened.training_config, cache_encoder_output=True
    )
    found = compute_insight(using, tried, num_examples=clips, progress=progress)
    about = InsightHeader(
        document=path.name,
        base_model=base.key,
        version=kept.name,
        created_at=get_utc_timestamp()[:16].replace("T", " "),
        num_steps=kept.steps,
        split_label="held out" if held_out else "it learned from",
    )
    page, *drawn = write_insight_page(about, _load_run_curves(document, kept), found, folder)
    return InsightResult(page, tuple(drawn), kept.name, len(tried), held_out, found.report.scores)


def _select_insight_examples(
    document: "Document", spec: "ModelSpec"
) -> "tuple[list[Example], bool]":
    """The clips to try it on, and whether they were held out."""
    from dlm.commands.preflight import filter_usable_examples
    from dlm.data.load import load_examples
    from dlm.data.split import train_eval_split

    gathered, asked = load_examples(document), document.config.training
    learn, held_out = train_eval_split(gathered, asked)
    tried = held_out or learn[: asked.train_count][:MAX_TRAIN_INSIGHT_EXAMPLES]
    return list(filter_usable_examples(document, spec, gathered, tried)), bool(held_out)


def _load_run_curves(document: "Document", version: "Version") -> "RunCurves":
    """What the run of a version said; nothing where its log is gone."""
    from dlm.reports.insight import parse_run_curves
    from dlm.store.runs import list_runs, read_run_log
    from dlm.store.versions import open_store

    left = list_runs(open_store(document.config.dlm_id))
    run = next((each for each in left if each.id == version.run), None)
    return parse_run_curves(read_run_log(run) if run else ())
