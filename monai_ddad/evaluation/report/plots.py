"""Plots of a report as SVG that follows the reader's light or dark colours."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_ddad.evaluation.metrics import expected_rates, flag_rate, precision_recall_points, roc_points

__all__ = ["Plot", "data_address", "plot_calibration", "plot_histogram", "plot_precision_recall", "plot_roc"]

NORMAL, ABNORMAL = "#0072b2", "#d55e00"  # distinguishable with colour blindness
INK, FAINT, GRID, UNKNOWN = "#1b2530", "#66717d", "#d8dde3", "#707a85"
LINES = (NORMAL, ABNORMAL, "#00785a", "#a03d85", "#8a6a00")
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))  # lines differ without colour, too
DARK = {
    INK: "#e6eaef",
    FAINT: "#a0abb6",
    GRID: "#3c4651",
    UNKNOWN: "#9aa4ae",
    NORMAL: "#5ab4ec",
    ABNORMAL: "#ff9757",
    "#00785a": "#45cba0",
    "#a03d85": "#e690cc",
    "#8a6a00": "#e2c04c",
}
STYLE: Any = {
    "svg.hashsalt": "monai_ddad",  # equal plots are equal files
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 11,
    "legend.fontsize": 10,
}
WIDTH, LEFT, RIGHT, BELOW, ABOVE, LINE = 4.2, 0.7, 0.35, 0.55, 0.12, 0.2  # inches: a plot, its margins, a legend's line
ALPHAS = 100  # steps of the false-positive rate at which the calibration is drawn


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        title: what is shown, in a few words.
        alt: what the plot says, with figures, for readers who do not see it.
        source: address that holds the whole picture.
    """

    title: str
    alt: str
    source: str


def data_address(content: bytes, kind: str) -> str:
    """Return an address that holds a whole file.

    Example:
        >>> data_address(b"GIF", "image/gif")
        'data:image/gif;base64,R0lG'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@rc_context(STYLE)
def plot_roc(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    areas: Mapping[str, float],
    title: str,
    point: tuple[float, float] | None = None,
) -> Plot:
    """Draw ROC curves.

    Args:
        scores: (N,) float by the curve's name.
        labels: (N,) 0 or 1 by the curve's name, both present.
        areas: AUROC by the curve's name.
        title: of the plot.
        point: false-positive rate and sensitivity of the decisions; None where nothing is decided.
    """
    figure, axes = _square("false-positive rate (1 - specificity)", "sensitivity")
    for name, line in zip(scores, _lines()):
        axes.plot(*roc_points(scores[name], labels[name]), label=f"{name} ({areas[name]:.3f})", **line)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":")
    said = "; ".join(f"{name} has an AUROC of {areas[name]:.3f}" for name in scores)
    if point:
        axes.plot(*point, "o", color=INK, label="decisions", clip_on=False)
        said += f". Decisions: false-positive rate {point[0]:.3f}, sensitivity {point[1]:.3f}"
    return _finish(figure, axes, title, f"ROC curves: {said}.")


@rc_context(STYLE)
def plot_precision_recall(
    scores: Mapping[str, np.ndarray], labels: np.ndarray, averages: Mapping[str, float], title: str
) -> Plot:
    """Draw precision-recall curves, and the share of abnormal images that chance would reach.

    Args:
        scores: (N,) float by name.
        labels: (N,) 0 or 1, both present.
        averages: average precision by name.
        title: of the plot.
    """
    figure, axes = _square("recall (sensitivity)", "precision")
    for name, line in zip(scores, _lines()):
        recall, precision = precision_recall_points(scores[name], labels)
        steps = np.r_[0.0, recall], np.r_[precision[0], precision]
        axes.plot(*steps, drawstyle="steps-pre", label=f"{name} ({averages[name]:.3f})", **line)
    axes.axhline(labels.mean(), color=FAINT, linewidth=0.8, linestyle=":")
    said = "; ".join(f"{name} has an average precision of {averages[name]:.3f}" for name in scores)
    return _finish(figure, axes, title, f"Precision-recall curves: {said}; chance has {labels.mean():.3f}.")


@rc_context(STYLE)
def plot_histogram(values: np.ndarray, labels: np.ndarray, name: str, title: str, threshold: float | None) -> Plot:
    """Draw the histogram of a score, normal and abnormal images apart.

    Args:
        values: (N,) float.
        labels: (N,) 0, 1 or -1 (unknown).
        name: of the score.
        title: of the plot.
        threshold: the lowest score that is flagged; None where none is, or where another score decides.
    """
    figure, axes = _figure(3.4, name, "number")
    low, high = values.min(), values.max()
    bins = np.linspace(low, max(high, low + 1e-3 * abs(low), low + 1e-12), 41)
    said = []
    for label, kind, colour, hatch in (
        (0, "normal", NORMAL, ""),
        (1, "abnormal", ABNORMAL, "///"),
        (-1, "without label", UNKNOWN, ""),
    ):
        part = values[labels == label]
        if len(part):
            heights = np.histogram(part, bins)[0]
            axes.stairs(heights, bins, fill=True, alpha=0.35, color=colour)
            axes.stairs(heights, bins, color=colour, hatch=hatch, label=f"{kind} ({len(part)})")
            said.append(f"{len(part)} {kind} with a median of {np.median(part):.4g}")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.4, label=f"flagged from {threshold:.4g}")
        said.append(f"flagged are scores from {threshold:.4g}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return _finish(figure, axes, title, f"Histogram of {name}: {'; '.join(said)}.")


@rc_context(STYLE)
def plot_calibration(p_values: np.ndarray, groups: int, alpha: float, title: str) -> Plot:
    """Draw realised against wanted false-positive rates, with the range that chance allows.

    Args:
        p_values: (N,) in [0, 1], of normal test images.
        groups: of the calibration images.
        alpha: the wanted rate at which images are flagged.
        title: of the plot.
    """
    alphas = np.linspace(0, 1, ALPHAS + 1)
    rates = np.array([flag_rate(p_values, wanted).value for wanted in alphas])
    low, high = np.array([expected_rates(groups, len(p_values), wanted) for wanted in alphas]).T
    figure, axes = _square("wanted false-positive rate", "realised false-positive rate")
    axes.fill_between(alphas, low, high, color=NORMAL, alpha=0.2, linewidth=0, label="by chance (95 %)")
    axes.plot(alphas, rates, color=NORMAL, label="realised")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="as wanted")
    axes.axvline(alpha, color=INK, linewidth=1, linestyle=":", label=f"decisions ({alpha:.3g})")
    inside = float(((low <= rates) & (rates <= high)).mean())
    said = f"on {len(p_values)} normal images the realised rate is in the range by chance at {inside:.0%} of the rates"
    return _finish(figure, axes, title, f"Realised against wanted false-positive rate: {said}.")


def _lines() -> Iterator[dict[str, Any]]:
    styles = itertools.chain.from_iterable(
        STYLES[turn:] + STYLES[:turn] for turn in itertools.cycle(range(len(STYLES)))
    )
    return ({"color": colour, "linestyle": style} for colour, style in zip(itertools.cycle(LINES), styles))


def _square(across: str, up: str) -> tuple[Figure, Axes]:
    figure, axes = _figure(WIDTH - LEFT - RIGHT + BELOW + ABOVE, across, up)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    return figure, axes


def _figure(height: float, across: str, up: str) -> tuple[Figure, Axes]:
    """Return a figure whose axes are so many inches high with their labels, at fixed places, which is quick to draw."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((LEFT / WIDTH, BELOW / height, (WIDTH - LEFT - RIGHT) / WIDTH, 1 - (BELOW + ABOVE) / height))
    axes.set(xlabel=across, ylabel=up)
    return figure, axes


def _finish(figure: Figure, axes: Axes, title: str, alt: str) -> Plot:
    """Add the legend below the axes, and turn colours into variables that dark surroundings change."""
    number = len(axes.get_legend_handles_labels()[0])
    if number:
        rows = -(-number // 2)
        figure.legend(loc="lower center", ncols=2, borderaxespad=0, handlelength=1.8, columnspacing=1)
        width, height = figure.get_size_inches()
        box = axes.get_position()
        extra = LINE * rows + 0.1
        figure.set_size_inches(width, height + extra)
        axes.set_position(
            (box.x0, (box.y0 * height + extra) / (height + extra), box.width, box.height * height / (height + extra))
        )
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = file.getvalue()
    picture = picture[picture.index("<svg") :]
    for light in DARK:
        picture = picture.replace(light, f"var(--c{light[1:]}, {light})")
    dark = "".join(f"--c{light[1:]}:{colour};" for light, colour in DARK.items())
    start = picture.index(">") + 1
    picture = f"{picture[:start]}<style>@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>{picture[start:]}"
    return Plot(title, alt, data_address(picture.encode(), "image/svg+xml"))
