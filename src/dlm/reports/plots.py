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

from dlm.reports.insight import Curve, Insight, RunCurves
from dlm.reports.probes import AudioAttention, EmbeddingMap
from dlm.training.events import MIN_AUDIO_GAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FIGURE_INCHES = (5.6, 3.3)  # with ten points: letters that can be read on a phone
FIGURE_DPI = 200
FIGURE_MARGINS = {
    "left": 0.13,
    "right": 0.98,
    "top": 0.91,
    "bottom": 0.16,
}  # the same for all: they align
MAX_MARKED_STEPS = 12  # steps that are dots on their curve
NUM_SMOOTHED_POINTS = 40  # means along a curve that has many more steps
TYPICAL_UPDATE_RATIO = (
    1e-3  # of the weights by one step (Stanford's CS231n, Neural Networks Part 3)
)
MAX_POINT_LABEL_CHARS = 18  # letters
POINT_LABEL_PIXELS = (90, 26)  # that a name takes, across and up


@dataclass(frozen=True)
class Palette:
    """Colours of one kind of page; those of `series` are told apart by the colour-blind too."""

    name: str
    text_color: str
    grid_color: str
    series_colors: tuple[str, ...]


LIGHT_PALETTE = Palette(
    name="light",
    text_color="#4a4742",
    grid_color="#dedad2",
    series_colors=(
        "#1f6f8b",
        "#c4622d",
        "#6b5b95",
        "#8f8a1d",
        "#b23a6b",
        "#2e8b73",
        "#8c6d46",
        "#5a6b7b",
    ),
)
DARK_PALETTE = Palette(
    name="dark",
    text_color="#c9c4bb",
    grid_color="#3d3b37",
    series_colors=(
        "#6cb8d6",
        "#ef9a63",
        "#ab9bd9",
        "#d0cb5c",
        "#ea85ad",
        "#6cc9ae",
        "#c9a675",
        "#a3b3c2",
    ),
)

DrawFn = Callable[["Axes", Palette], None]


def render_plots(curves: RunCurves, insight: Insight, palette: Palette) -> dict[str, bytes]:
    """Every picture there is something for, as PNG without a background, by name."""
    drawn: dict[str, DrawFn] = {}
    if curves.loss:
        drawn["loss"] = partial(_plot_loss, curves)
    if curves.learning_rates:
        drawn["rates"] = partial(_plot_by_component, curves.learning_rates, "learning rate")
    if curves.grad_norm:
        every = {"all": curves.grad_norm, **curves.component_grad_norms}
        drawn["gradients"] = partial(_plot_by_component, every, "gradient norm")
    if curves.update_ratios:
        drawn["changes"] = partial(_plot_update_ratios, curves.update_ratios)
    if curves.audio_gap:
        drawn["gap"] = partial(_plot_audio_gap, curves.audio_gap)
    if insight.embedding_map:
        drawn["alignment"] = partial(_plot_embedding_map, insight.embedding_map)
    if insight.audio_attention:
        drawn["attention"] = partial(_plot_attention, insight.audio_attention)
    return {name: _render_png(draw, palette) for name, draw in drawn.items()}


def _render_png(draw_fn: DrawFn, palette: Palette) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_make_rc_params(palette)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # words in letters its font lacks
        figure = Figure(FIGURE_INCHES, FIGURE_DPI, facecolor="none")
        figure.subplots_adjust(**FIGURE_MARGINS)
        draw_fn(figure.add_subplot(facecolor="none"), palette)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _make_rc_params(palette: Palette) -> dict[Any, Any]:
    """No frame, thin lines, letters in the ink of the page."""
    inks = ("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor")
    lines = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")
    hidden = ("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon")
    return {
        **dict.fromkeys(inks, palette.text_color),
        **dict.fromkeys(lines, palette.grid_color),
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


def _plot_curve(axes: "Axes", curve: Curve, color: str, label: str = "") -> None:
    """A curve; one of many steps faint, with its mean over stretches of them."""
    steps, values = np.array(list(curve)), np.array(list(curve.values()), float)
    stretch = len(steps) // NUM_SMOOTHED_POINTS
    mark = "o" if len(steps) < MAX_MARKED_STEPS else ""
    if stretch < 2:
        axes.plot(steps, values, color=color, label=label, marker=mark)
        return
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    whole = len(steps) // stretch * stretch
    means = (each[:whole].reshape(-1, stretch).mean(axis=1) for each in (steps, values))
    axes.plot(*means, color=color, label=label)


def _plot_by_component(
    curves: dict[str, Curve], title: str, axes: "Axes", palette: Palette
) -> None:
    """One curve for each part, or for those that share it; by powers of ten where far apart."""
    shared: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, line in curves.items():
        shared.setdefault(tuple(line.items()), []).append(name)
    for number, (points, names) in enumerate(shared.items()):
        shown = " " + ", ".join(names)  # legends leave out what begins with an underscore
        _plot_curve(
            axes, dict(points), palette.series_colors[number % len(palette.series_colors)], shown
        )
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    values = [value for line in curves.values() for value in line.values() if value > 0]
    if values and max(values) > 30 * min(values):
        _set_log_scale(axes)
    if len(curves) > 1:
        axes.legend(loc="best", fontsize=9)
    _label_axes(axes, title)


def _plot_loss(curves: RunCurves, axes: "Axes", palette: Palette) -> None:
    _plot_curve(axes, curves.loss, palette.series_colors[0])
    for step in curves.skipped_steps:
        axes.axvline(step, color=palette.series_colors[1], linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    _label_axes(axes, "loss, nats per token")


def _plot_update_ratios(curves: dict[str, Curve], axes: "Axes", palette: Palette) -> None:
    _plot_by_component(curves, "change over weights, a step", axes, palette)
    _set_log_scale(axes)
    axes.axhline(TYPICAL_UPDATE_RATIO, color=palette.text_color, linewidth=0.8, linestyle="--")


def _set_log_scale(axes: "Axes") -> None:
    """Powers of ten, told in digits."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plot_audio_gap(curve: Curve, axes: "Axes", palette: Palette) -> None:
    low, high = min(0.0, *curve.values()), max(2 * MIN_AUDIO_GAP, *curve.values())
    axes.axhspan(-MIN_AUDIO_GAP, MIN_AUDIO_GAP, color=palette.grid_color, alpha=0.6, linewidth=0)
    _plot_curve(axes, curve, palette.series_colors[5])
    axes.set_ylim(low - 0.05 * (high - low), high * 1.08)
    _label_axes(axes, "listening gap, nats per token")


def _label_axes(axes: "Axes", title: str, x_label: str = "step") -> None:
    """What is on each axis; whole numbers below."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label)
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlim(left=0)


def _plot_embedding_map(embedding_map: EmbeddingMap, axes: "Axes", palette: Palette) -> None:
    """Tokens as dust, clips as discs, words where they lie."""
    colours = _assign_colors(embedding_map, palette)
    dust, discs = embedding_map.audio_points.numpy(), embedding_map.example_points.numpy()
    of, group = (
        [colours[each] for each in embedding_map.audio_groups],
        [colours[each] for each in embedding_map.example_groups],
    )
    axes.scatter(dust[:, 0], dust[:, 1], c=of, s=5, alpha=0.35, linewidths=0)
    axes.scatter(
        discs[:, 0], discs[:, 1], c=group, s=46, edgecolors=palette.text_color, linewidths=0.6
    )
    at = embedding_map.text_points.numpy()
    inks = colours if embedding_map.is_labeled else [palette.text_color] * len(at)
    axes.scatter(at[:, 0], at[:, 1], c=inks, s=20, marker="s", linewidths=0)
    named = at
    if embedding_map.is_labeled:  # at the sounds: they lie apart before the words do
        of_label = np.array(embedding_map.example_groups)
        named = np.stack([discs[of_label == label].mean(axis=0) for label in range(len(at))])
    for number in _select_non_overlapping(axes.transData.transform(named)):
        word = embedding_map.text_labels[number]
        shown = (
            word if len(word) <= MAX_POINT_LABEL_CHARS else f"{word[: MAX_POINT_LABEL_CHARS - 1]}…"
        )
        place = (float(named[number, 0]), float(named[number, 1]))
        ink = inks[number]
        axes.annotate(shown, place, (5, 4), textcoords="offset points", color=ink, fontsize=8)
    axes.grid(True, axis="both")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    one, two = embedding_map.explained_variance
    axes.set_xlabel(f"first axis, {one:.0%} of the variance")
    axes.set_ylabel(f"second axis, {two:.0%}")


def _select_non_overlapping(points: np.ndarray) -> list[int]:
    """Those of the points (points, 2), in pixels, whose names would not lie over an earlier one."""
    kept: list[int] = []
    for number, place in enumerate(points):
        away = np.abs(points[kept] - place) > POINT_LABEL_PIXELS
        if away.any(axis=1).all():
            kept.append(number)
    return kept


def _assign_colors(embedding_map: EmbeddingMap, palette: Palette) -> list[str]:
    """One for each label, or a row of them through the clips."""
    if embedding_map.is_labeled:
        return list(palette.series_colors[: len(embedding_map.text_labels)])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["turbo"](np.linspace(0.05, 0.95, len(embedding_map.example_points)))
    return [to_hex(each) for each in scale]


def _plot_attention(attention: AudioAttention, axes: "Axes", palette: Palette) -> None:
    layers = range(1, len(attention.per_head) + 1)
    for layer, heads in zip(layers, attention.per_head, strict=True):
        at = [layer] * len(heads)
        axes.scatter(at, heads, color=palette.series_colors[0], s=12, alpha=0.4, linewidths=0)
    axes.plot(layers, attention.per_layer, color=palette.series_colors[0], marker="o", markersize=5)
    axes.axhline(
        attention.uniform_baseline, color=palette.text_color, linewidth=0.8, linestyle="--"
    )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    _label_axes(axes, "attention to sound", "layer")
    axes.set_xlim(0.5, len(attention.per_head) + 0.5)
