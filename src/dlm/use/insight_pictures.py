"""How each thing that was measured is drawn: one picture a question, for light and dark pages.

    loss  rates  gradients  changes  gap      curves by step
    alignment                                 sound beside words
    attention                                 by layer and head

What was not measured has no picture: the page says so in its place.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dlm.training.events import DEAF_GAP
from dlm.use.insight import Insight
from dlm.use.insight_inside import Attention, Map
from dlm.use.insight_run import Curves, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (5.6, 3.3)  # with ten points: letters that can be read on a phone
DOTS_PER_INCH = 200
MARGINS = {"left": 0.13, "right": 0.98, "top": 0.91, "bottom": 0.16}  # the same for all: they align
FEW = 12  # steps that are dots on their curve
SMOOTH = 40  # means along a curve that has many more steps
USUAL_CHANGE = 1e-3  # of the weights by one step (Stanford's CS231n, Neural Networks Part 3)
LONGEST_WORD = 18  # letters
NAME_PIXELS = (90, 26)  # that a name takes, across and up


@dataclass(frozen=True)
class Palette:
    """Colours of one kind of page; those of `series` are told apart by the colour-blind too."""

    name: str
    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Palette(
    name="light",
    ink="#4a4742",
    faint="#dedad2",
    series=("#1f6f8b", "#c4622d", "#6b5b95", "#8f8a1d", "#b23a6b", "#2e8b73", "#8c6d46", "#5a6b7b"),
)
DARK = Palette(
    name="dark",
    ink="#c9c4bb",
    faint="#3d3b37",
    series=("#6cb8d6", "#ef9a63", "#ab9bd9", "#d0cb5c", "#ea85ad", "#6cc9ae", "#c9a675", "#a3b3c2"),
)

Draw = Callable[["Axes", Palette], None]


def pictures(curves: Curves, found: Insight, palette: Palette) -> dict[str, bytes]:
    """Every picture there is something for, as PNG without a background, by name."""
    drawn: dict[str, Draw] = {}
    if curves.loss:
        drawn["loss"] = partial(_loss, curves)
    if curves.rates:
        drawn["rates"] = partial(_by_part, curves.rates, "learning rate")
    if curves.gradient_norm:
        every = {"all": curves.gradient_norm, **curves.norms}
        drawn["gradients"] = partial(_by_part, every, "gradient norm")
    if curves.changes:
        drawn["changes"] = partial(_changes, curves.changes)
    if curves.gap:
        drawn["gap"] = partial(_gap, curves.gap)
    if found.points:
        drawn["alignment"] = partial(_alignment, found.points)
    if found.attention:
        drawn["attention"] = partial(_attention, found.attention)
    return {name: _png(draw, palette) for name, draw in drawn.items()}


def _png(draw: Draw, palette: Palette) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_style(palette)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # words in letters its font lacks
        figure = Figure(INCHES, DOTS_PER_INCH, facecolor="none")
        figure.subplots_adjust(**MARGINS)
        draw(figure.add_subplot(facecolor="none"), palette)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _style(palette: Palette) -> dict[Any, Any]:
    """No frame, thin lines, letters in the ink of the page."""
    inks = ("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor")
    lines = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")
    hidden = ("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon")
    return {
        **dict.fromkeys(inks, palette.ink),
        **dict.fromkeys(lines, palette.faint),
        **dict.fromkeys(hidden, False),
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "font.size": 10,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "text.parse_math": False,  # a dollar in a transcript is a dollar
        "ytick.major.size": 0,
    }


def _curve(axes: "Axes", line: Line, colour: str, name: str = "") -> None:
    """A curve; one of many steps faint, with its mean over stretches of them."""
    steps, values = np.array(list(line)), np.array(list(line.values()), float)
    stretch = len(steps) // SMOOTH
    mark = "o" if len(steps) < FEW else ""
    if stretch < 2:
        axes.plot(steps, values, color=colour, label=name, marker=mark)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    whole = len(steps) // stretch * stretch
    means = (each[:whole].reshape(-1, stretch).mean(axis=1) for each in (steps, values))
    axes.plot(*means, color=colour, label=name)


def _by_part(lines: dict[str, Line], said: str, axes: "Axes", palette: Palette) -> None:
    """One curve for each part, or for those that share it; by powers of ten where far apart."""
    shared: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, line in lines.items():
        shared.setdefault(tuple(line.items()), []).append(name)
    for number, (points, names) in enumerate(shared.items()):
        shown = " " + ", ".join(names)  # legends leave out what begins with an underscore
        _curve(axes, dict(points), palette.series[number % len(palette.series)], shown)
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    values = [value for line in lines.values() for value in line.values() if value > 0]
    if values and max(values) > 30 * min(values):
        _logarithmic(axes)
    if len(lines) > 1:
        axes.legend(loc="best", fontsize=9)
    _axes(axes, said)


def _loss(curves: Curves, axes: "Axes", palette: Palette) -> None:
    _curve(axes, curves.loss, palette.series[0])
    for step in curves.skipped:
        axes.axvline(step, color=palette.series[1], linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    _axes(axes, "loss, nats per token")


def _changes(lines: dict[str, Line], axes: "Axes", palette: Palette) -> None:
    _by_part(lines, "change over weights, a step", axes, palette)
    _logarithmic(axes)
    axes.axhline(USUAL_CHANGE, color=palette.ink, linewidth=0.8, linestyle="--")


def _logarithmic(axes: "Axes") -> None:
    """Powers of ten, told in digits."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _gap(line: Line, axes: "Axes", palette: Palette) -> None:
    low, high = min(0.0, *line.values()), max(2 * DEAF_GAP, *line.values())
    axes.axhspan(-DEAF_GAP, DEAF_GAP, color=palette.faint, alpha=0.6, linewidth=0)
    _curve(axes, line, palette.series[5])
    axes.set_ylim(low - 0.05 * (high - low), high * 1.08)
    _axes(axes, "listening gap, nats per token")


def _axes(axes: "Axes", said: str, below: str = "step") -> None:
    """What is on each axis; whole numbers below."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(below)
    axes.set_title(said, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlim(left=0)


def _alignment(points: Map, axes: "Axes", palette: Palette) -> None:
    """Tokens as dust, clips as discs, words where they lie."""
    colours = _colours(points, palette)
    dust, discs = points.tokens.numpy(), points.clips.numpy()
    of, group = [colours[each] for each in points.of], [colours[each] for each in points.group]
    axes.scatter(dust[:, 0], dust[:, 1], c=of, s=5, alpha=0.35, linewidths=0)
    axes.scatter(discs[:, 0], discs[:, 1], c=group, s=46, edgecolors=palette.ink, linewidths=0.6)
    at = points.spots.numpy()
    inks = colours if points.labelled else [palette.ink] * len(at)
    axes.scatter(at[:, 0], at[:, 1], c=inks, s=20, marker="s", linewidths=0)
    named = at
    if points.labelled:  # at the sounds: they lie apart before the words do
        of_label = np.array(points.group)
        named = np.stack([discs[of_label == label].mean(axis=0) for label in range(len(at))])
    for number in _apart(axes.transData.transform(named)):
        word = points.words[number]
        shown = word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}…"
        place = (float(named[number, 0]), float(named[number, 1]))
        ink = inks[number]
        axes.annotate(shown, place, (5, 4), textcoords="offset points", color=ink, fontsize=8)
    axes.grid(True, axis="both")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    one, two = points.variance
    axes.set_xlabel(f"first axis, {one:.0%} of the variance")
    axes.set_ylabel(f"second axis, {two:.0%}")


def _apart(places: np.ndarray) -> list[int]:
    """Those of the points (points, 2), in pixels, whose names would not lie over an earlier one."""
    kept: list[int] = []
    for number, place in enumerate(places):
        away = np.abs(places[kept] - place) > NAME_PIXELS
        if away.any(axis=1).all():
            kept.append(number)
    return kept


def _colours(points: Map, palette: Palette) -> list[str]:
    """One for each label, or a row of them through the clips."""
    if points.labelled:
        return list(palette.series[: len(points.words)])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["turbo"](np.linspace(0.05, 0.95, len(points.clips)))
    return [to_hex(each) for each in scale]


def _attention(found: Attention, axes: "Axes", palette: Palette) -> None:
    layers = range(1, len(found.heads) + 1)
    for layer, heads in zip(layers, found.heads, strict=True):
        at = [layer] * len(heads)
        axes.scatter(at, heads, color=palette.series[0], s=12, alpha=0.4, linewidths=0)
    axes.plot(layers, found.layers, color=palette.series[0], marker="o", markersize=5)
    axes.axhline(found.even, color=palette.ink, linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    _axes(axes, "attention to sound", "layer")
    axes.set_xlim(0.5, len(found.heads) + 0.5)
