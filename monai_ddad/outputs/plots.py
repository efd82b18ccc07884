"""The gallery of extreme images as PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from monai_ddad.writing import atomic_file

__all__ = ["plot_gallery"]


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
