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
from dlm.files import make_folder, write_atomic, writing
from dlm.training.events import DEAF_GAP
from dlm.use.insight import PLAYED_SECONDS, Insight
from dlm.use.insight_pictures import DARK, LIGHT, pictures
from dlm.use.insight_run import Curves

PAGE = "insight.html"
LIBRARIES = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class About:
    """What a page is about: the document, its base, the version, and the clips it was tried on."""

    document: str
    base: str
    version: str
    made_at: str
    steps: int
    whose: str  # clips: "held out", or "it learned from"


def require_extra() -> None:
    """Raise MissingExtra before any work is done where the page could not be drawn."""
    for library in LIBRARIES:
        if find_spec(library) is None:
            raise MissingExtra(library, "insight")


def make_room(folder: Path) -> None:
    """Make the folder for a page. Raises StoreError where it holds something else."""
    with writing(folder):
        make_folder(folder)
        there = any(folder.iterdir())
    if there and not (folder / PAGE).is_file():
        mend = "name an empty folder with --into, or one with an earlier page"
        raise StoreError("not empty", where=str(folder), mend=mend)


def write_page(about: About, curves: Curves, found: Insight, folder: Path) -> tuple[Path, ...]:
    """Write the page and its pictures into `folder`: the page first. Raises StoreError."""
    from jinja2 import Environment, StrictUndefined

    light, dark = (pictures(curves, found, palette) for palette in (LIGHT, DARK))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = _inline
    page = environment.from_string(files("dlm.use").joinpath(PAGE).read_text("utf-8"))
    text = page.render(
        about=about,
        curves=curves,
        found=found,
        light=light,
        dark=dark,
        deaf_gap=DEAF_GAP,
        played=PLAYED_SECONDS,
    )
    pages = {folder / PAGE: text.encode()}
    drawn = {folder / f"{name}.png": data for name, data in light.items()}
    for path, data in (pages | drawn).items():
        write_atomic(path, data)
    return (*pages, *drawn)


def _inline(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{b64encode(data).decode()}"
