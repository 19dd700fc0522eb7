"""Draws the plots of the insight page with matplotlib, in a light and a dark palette.

    loss  rates  gradients  changes  gap      curves by step
    alignment                                 audio beside text, on a PCA map
    attention                                 by layer and head

What was not measured has no plot: the page says so in its place.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dlm.reports.insight import Insight
from dlm.reports.probes import AudioAttention, EmbeddingMap
from dlm.reports.run_curves import Curve, RunCurves
from dlm.training.events import MIN_AUDIO_GAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FIGURE_INCHES = (5.6, 3.3)  # with ten points: text that can be read on a phone
FIGURE_DPI = 200
# the same for all plots, so that they align
FIGURE_MARGINS = {"left": 0.13, "right": 0.98, "top": 0.91, "bottom": 0.16}
MAX_MARKED_STEPS = 12  # steps that are dots on their curve
NUM_SMOOTHED_POINTS = 40  # means along a curve that has many more steps
LOG_SCALE_RATIO = 30  # of the largest value to the smallest, above which an axis is logarithmic
# of a step's update to the weights (Stanford CS231n, Neural Networks Part 3)
TYPICAL_UPDATE_RATIO = 1e-3
MAX_POINT_LABEL_CHARS = 18
POINT_LABEL_PIXELS = (90, 26)  # width and height of a label


@dataclass(frozen=True)
class Palette:
    """Colors of one kind of page; those of series can be told apart by color-blind people too."""

    text_color: str
    grid_color: str
    series_colors: tuple[str, ...]


LIGHT_PALETTE = Palette(
    text_color="#4a4742",
    grid_color="#dedad2",
    series_colors=(
        *("#1f6f8b", "#c4622d", "#6b5b95", "#8f8a1d"),
        *("#b23a6b", "#2e8b73", "#8c6d46", "#5a6b7b"),
    ),
)
DARK_PALETTE = Palette(
    text_color="#c9c4bb",
    grid_color="#3d3b37",
    series_colors=(
        *("#6cb8d6", "#ef9a63", "#ab9bd9", "#d0cb5c"),
        *("#ea85ad", "#6cc9ae", "#c9a675", "#a3b3c2"),
    ),
)

DrawFn = Callable[["Axes", Palette], None]


def render_plots(curves: RunCurves, insight: Insight, palette: Palette) -> dict[str, bytes]:
    """Render every plot there is data for, as PNG with a transparent background, by name."""
    draw_fns: dict[str, DrawFn] = {}
    if curves.loss:
        draw_fns["loss"] = partial(_plot_loss, curves)
    if curves.learning_rates:
        draw_fns["rates"] = partial(_plot_by_component, curves.learning_rates, "learning rate")
    if curves.grad_norm:
        grad_norms = {"all": curves.grad_norm, **curves.component_grad_norms}
        draw_fns["gradients"] = partial(_plot_by_component, grad_norms, "gradient norm")
    if curves.update_ratios:
        draw_fns["changes"] = partial(_plot_update_ratios, curves.update_ratios)
    if curves.audio_gap:
        draw_fns["gap"] = partial(_plot_audio_gap, curves.audio_gap)
    if insight.embedding_map:
        draw_fns["alignment"] = partial(_plot_embedding_map, insight.embedding_map)
    if insight.audio_attention:
        draw_fns["attention"] = partial(_plot_attention, insight.audio_attention)
    return {name: _render_png(draw_fn, palette) for name, draw_fn in draw_fns.items()}


def _render_png(draw_fn: DrawFn, palette: Palette) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_make_rc_params(palette)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks
        figure = Figure(FIGURE_INCHES, FIGURE_DPI, facecolor="none")
        figure.subplots_adjust(**FIGURE_MARGINS)
        draw_fn(figure.add_subplot(facecolor="none"), palette)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _make_rc_params(palette: Palette) -> dict[Any, Any]:
    """No frame, thin lines, text in the color of the page."""
    texts = ("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor")
    lines = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")
    hidden = ("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon")
    return {
        **dict.fromkeys(texts, palette.text_color),
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
    """Plot a curve; one of many steps is faint, with means of equal stretches over it."""
    steps, values = np.array(list(curve)), np.array(list(curve.values()), float)
    stretch = len(steps) // NUM_SMOOTHED_POINTS
    if stretch < 2:
        marker = "o" if len(steps) < MAX_MARKED_STEPS else ""
        axes.plot(steps, values, color=color, label=label, marker=marker)
        return
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    num_averaged = len(steps) // stretch * stretch
    means = (each[:num_averaged].reshape(-1, stretch).mean(axis=1) for each in (steps, values))
    axes.plot(*means, color=color, label=label)


def _plot_by_component(
    curves: dict[str, Curve], title: str, axes: "Axes", palette: Palette
) -> None:
    """One curve for each component, or for those with the same values."""
    names_by_points: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, curve in curves.items():
        names_by_points.setdefault(tuple(curve.items()), []).append(name)
    for number, (points, names) in enumerate(names_by_points.items()):
        color = palette.series_colors[number % len(palette.series_colors)]
        # a space first: legends leave out what begins with an underscore
        _plot_curve(axes, dict(points), color, " " + ", ".join(names))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    values = [value for curve in curves.values() for value in curve.values() if value > 0]
    if values and max(values) > LOG_SCALE_RATIO * min(values):
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
    """Make the vertical axis logarithmic, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plot_audio_gap(curve: Curve, axes: "Axes", palette: Palette) -> None:
    low, high = min(0.0, *curve.values()), max(2 * MIN_AUDIO_GAP, *curve.values())
    axes.axhspan(-MIN_AUDIO_GAP, MIN_AUDIO_GAP, color=palette.grid_color, alpha=0.6, linewidth=0)
    _plot_curve(axes, curve, palette.series_colors[5])
    axes.set_ylim(low - 0.05 * (high - low), high * 1.08)
    _label_axes(axes, "listening gap, nats per token")


def _label_axes(axes: "Axes", title: str, x_label: str = "step") -> None:
    """Name the axes; integers on the horizontal one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label)
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlim(left=0)


def _plot_embedding_map(embedding_map: EmbeddingMap, axes: "Axes", palette: Palette) -> None:
    """Audio tokens as small dots, examples as discs, texts as squares."""
    colors = _assign_colors(embedding_map, palette)
    audio_colors = [colors[group] for group in embedding_map.audio_groups]
    example_colors = [colors[group] for group in embedding_map.example_groups]
    audio_points = embedding_map.audio_points.numpy()
    example_points, text_points = (
        embedding_map.example_points.numpy(),
        embedding_map.text_points.numpy(),
    )
    (x, y), edge = audio_points.T, palette.text_color
    axes.scatter(x, y, c=audio_colors, s=5, alpha=0.35, linewidths=0)
    x, y = example_points.T
    axes.scatter(x, y, c=example_colors, s=46, edgecolors=edge, linewidths=0.6)
    num_texts = len(text_points)
    text_colors = colors if embedding_map.is_labeled else [palette.text_color] * num_texts
    x, y = text_points.T
    axes.scatter(x, y, c=text_colors, s=20, marker="s", linewidths=0)
    label_points = text_points
    if embedding_map.is_labeled:  # at the audio: it separates before the texts do
        groups = np.array(embedding_map.example_groups)
        label_points = np.stack(
            [example_points[groups == group].mean(axis=0) for group in range(num_texts)]
        )
    for number in _select_non_overlapping(axes.transData.transform(label_points)):
        label = embedding_map.text_labels[number]
        if len(label) > MAX_POINT_LABEL_CHARS:
            label = f"{label[: MAX_POINT_LABEL_CHARS - 1]}…"
        axes.annotate(
            label,
            (float(label_points[number, 0]), float(label_points[number, 1])),
            (5, 4),
            textcoords="offset points",
            color=text_colors[number],
            fontsize=8,
        )
    axes.grid(True, axis="both")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    first, second = embedding_map.explained_variance
    axes.set_xlabel(f"first axis, {first:.0%} of the variance")
    axes.set_ylabel(f"second axis, {second:.0%}")


def _select_non_overlapping(points: np.ndarray) -> list[int]:
    """The points (points, 2), in pixels, whose labels would not overlap an earlier one."""
    selected: list[int] = []
    for number, point in enumerate(points):
        is_apart = np.abs(points[selected] - point) > POINT_LABEL_PIXELS
        if is_apart.any(axis=1).all():
            selected.append(number)
    return selected


def _assign_colors(embedding_map: EmbeddingMap, palette: Palette) -> list[str]:
    """A color for each label, or for each example."""
    if embedding_map.is_labeled:
        return list(palette.series_colors[: len(embedding_map.text_labels)])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    positions = np.linspace(0.05, 0.95, len(embedding_map.example_points))
    return [to_hex(color) for color in colormaps["turbo"](positions)]


def _plot_attention(attention: AudioAttention, axes: "Axes", palette: Palette) -> None:
    layers, color = range(1, len(attention.per_head) + 1), palette.series_colors[0]
    for layer, heads in zip(layers, attention.per_head, strict=True):
        axes.scatter([layer] * len(heads), heads, color=color, s=12, alpha=0.4, linewidths=0)
    axes.plot(layers, attention.per_layer, color=color, marker="o", markersize=5)
    baseline = attention.uniform_baseline
    axes.axhline(baseline, color=palette.text_color, linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda fraction, position: f"{fraction:.0%}")
    _label_axes(axes, "attention to audio", "layer")
    axes.set_xlim(0.5, len(attention.per_head) + 0.5)
