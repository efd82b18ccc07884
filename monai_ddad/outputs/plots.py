"""ROC curves, score histograms and the gallery of extreme images as PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from monai_ddad.metrics import auroc, roc_points
from monai_ddad.writing import atomic_file

__all__ = ["plot_gallery", "plot_histograms", "plot_roc"]

NORMAL, ABNORMAL = "#0072b2", "#d55e00"  # distinguishable with colour blindness
COLOURS = 10  # of different lines in Matplotlib's cycle
ACROSS = 4  # histograms side by side


def plot_roc(scores: dict[str, np.ndarray], names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw the ROC curve of each score.

    Args:
        scores: ``"label"`` (N,), both 0 and 1 present and -1 left out, and (N,) scores by name.
        names: which scores.
        path: the PNG file.
    """
    labels = scores["label"]
    figure = Figure(figsize=(5, 5 + 0.12 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        style = "-" if number < COLOURS else "--"
        known = labels >= 0
        area = float(auroc(scores[name][known], labels[known]))
        axes.plot(*roc_points(scores[name][known], labels[known]), style, label=f"{name}  (AUROC {area:.3f})")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    _save(figure, path)


def plot_histograms(scores: dict[str, np.ndarray], names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw a histogram of each score, normal and abnormal images apart.

    Args:
        scores: ``"label"`` (N,) with 0, 1 or -1 (unknown), and (N,) scores by name.
        names: which scores.
        path: the PNG file.
    """
    columns = min(ACROSS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 3 * rows), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, place)
        low, high = scores[name].min(), scores[name].max()
        bins = np.linspace(low, max(high, low + 1e-3 * abs(low), 1e-12), 41)
        for label, kind, colour in ((0, "normal", NORMAL), (1, "abnormal", ABNORMAL), (-1, "unlabelled", "grey")):
            values = scores[name][scores["label"] == label]
            if len(values):
                axes.hist(values, bins=bins.tolist(), alpha=0.6, color=colour, label=f"{kind} ({len(values)})")
        axes.set(xlabel=name, ylabel="images")
        axes.legend(fontsize="small")
    _save(figure, path)


def plot_gallery(
    images: np.ndarray,
    maps: np.ndarray,
    names: Sequence[str],
    titles: Sequence[str],
    limits: Sequence[float],
    path: str | os.PathLike[str],
) -> None:
    """Draw images with their anomaly maps, one column an image.

    Args:
        images: (N, C, H, W) in [-1, 1], C = 1 or 3.
        maps: (N, M, H, W) anomaly maps.
        names: the M maps' names.
        titles: the N images' titles.
        limits: value of each map that is drawn in the brightest colour.
        path: the PNG file.
    """
    rows, columns = 1 + len(names), len(images)
    figure = Figure(figsize=(1.3 * columns + 0.8, 1.4 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for column in range(columns):
        picture = np.clip((images[column].transpose(1, 2, 0) + 1) / 2, 0, 1)
        grid[0, column].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
        grid[0, column].set_title(titles[column], fontsize=7)
        for row, limit in enumerate(limits):
            shown = grid[row + 1, column].imshow(maps[column, row], cmap="inferno", vmin=0, vmax=limit)
            if column == columns - 1:
                figure.colorbar(shown, ax=grid[row + 1, :].tolist(), fraction=0.02, pad=0.01).ax.tick_params(
                    labelsize=6
                )
    for axes, label in zip(grid[:, 0], ["image", *names]):
        axes.set_ylabel(label, fontsize=8)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
