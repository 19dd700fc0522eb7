"""Writes the insight page and its plots into a folder.

insight.html    one file: plots and audio are within it
loss.png ...    the same plots, for a paper or a talk
"""

from dataclasses import dataclass
from pathlib import Path

from dlm.errors import StoreError
from dlm.io import make_folder, wrap_write_errors, write_atomic
from dlm.reports.html import render_page
from dlm.reports.insight import Insight
from dlm.reports.plots import DARK_PALETTE, LIGHT_PALETTE, render_plots
from dlm.reports.run_curves import RunCurves
from dlm.training.events import MIN_AUDIO_GAP

INSIGHT_PAGE_FILE = "insight.html"
INSIGHT_PACKAGES = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class InsightHeader:
    """What a page is about.

    Attributes:
        document: its file name.
        base_model: key of the model.
        version: name of the version.
        created_at: time.
        num_steps: of the training.
        split_label: of the clips: "held out", or "it was trained on".
    """

    document: str
    base_model: str
    version: str
    created_at: str
    num_steps: int
    split_label: str


def prepare_insight_dir(folder: Path) -> None:
    """Make the folder for a page, or take one with an earlier page.

    Raises:
        StoreError: it holds something else (`store.not_empty`), or cannot be written.
    """
    with wrap_write_errors(folder):
        make_folder(folder)
        is_empty = not any(folder.iterdir())
    if not is_empty and not (folder / INSIGHT_PAGE_FILE).is_file():
        hint = "name an empty folder with --into, or one with an earlier page"
        raise StoreError("not empty", where=str(folder), hint=hint, code="store.not_empty")


def write_insight_page(
    header: InsightHeader, curves: RunCurves, insight: Insight, folder: Path
) -> tuple[Path, ...]:
    """Write the page and its plots; return their paths, the page first. Raises StoreError."""
    light, dark = (
        render_plots(curves, insight, palette) for palette in (LIGHT_PALETTE, DARK_PALETTE)
    )
    page = render_page(
        INSIGHT_PAGE_FILE,
        header=header,
        curves=curves,
        insight=insight,
        light_plots=light,
        dark_plots=dark,
        min_audio_gap=MIN_AUDIO_GAP,
    )
    files = {
        INSIGHT_PAGE_FILE: page.encode(),
        **{f"{name}.png": png for name, png in light.items()},
    }
    for name, data in files.items():
        write_atomic(folder / name, data)
    return tuple(folder / name for name in files)
