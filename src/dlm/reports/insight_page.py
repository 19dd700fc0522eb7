"""The page that shows what was measured: one file that asks nothing of the network.

    insight.html    the page; its pictures and sounds are within it
    loss.png ...    the same pictures, for a paper or a talk

Its policy lets a browser load nothing but what is in the file, and run nothing at all.
"""

from base64 import b64encode
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from dlm.errors import MissingExtra, StoreError
from dlm.io import make_folder, wrap_write_errors, write_atomic
from dlm.reports.insight import INSIGHT_PREVIEW_SECONDS, Insight, RunCurves
from dlm.reports.plots import DARK_PALETTE, LIGHT_PALETTE, render_plots
from dlm.training.events import MIN_AUDIO_GAP

INSIGHT_PAGE_FILE = "insight.html"
INSIGHT_PACKAGES = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class InsightHeader:
    """What a page is about: the document, its base, the version, and the clips it was tried on."""

    document: str
    base_model: str
    version: str
    created_at: str
    num_steps: int
    split_label: str  # clips: "held out", or "it learned from"


def require_insight_extra() -> None:
    """Raise MissingExtra before any work is done where the page could not be drawn."""
    for library in INSIGHT_PACKAGES:
        if find_spec(library) is None:
            raise MissingExtra(library, "insight")


def prepare_insight_dir(folder: Path) -> None:
    """Make the folder for a page. Raises StoreError where it holds something else."""
    with wrap_write_errors(folder):
        make_folder(folder)
        there = any(folder.iterdir())
    if there and not (folder / INSIGHT_PAGE_FILE).is_file():
        mend = "name an empty folder with --into, or one with an earlier page"
        raise StoreError("not empty", where=str(folder), hint=mend)


def write_insight_page(
    header: InsightHeader, curves: RunCurves, insight: Insight, folder: Path
) -> tuple[Path, ...]:
    """Write the page and its pictures into `folder`: the page first. Raises StoreError."""
    from jinja2 import Environment, StrictUndefined

    light, dark = (
        render_plots(curves, insight, palette) for palette in (LIGHT_PALETTE, DARK_PALETTE)
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = _to_data_uri
    page = environment.from_string(
        files("dlm.reports").joinpath(INSIGHT_PAGE_FILE).read_text("utf-8")
    )
    text = page.render(
        about=header,
        curves=curves,
        found=insight,
        light=light,
        dark=dark,
        deaf_gap=MIN_AUDIO_GAP,
        played=INSIGHT_PREVIEW_SECONDS,
    )
    pages = {folder / INSIGHT_PAGE_FILE: text.encode()}
    drawn = {folder / f"{name}.png": data for name, data in light.items()}
    for path, data in (pages | drawn).items():
        write_atomic(path, data)
    return (*pages, *drawn)


def _to_data_uri(data: bytes, mime_type: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"
