"""The gallery of extreme images as PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from monai_ddad.io.writing import PNG_LEVEL, atomic_file

__all__ = ["plot_gallery"]

CELL, LEFT, RIGHT, TOP = 1.3, 0.25, 0.6, 0.3  # inches: a picture with its gap, and what is around them
GAP = 24  # of a picture's width is a gap


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
    width, height = LEFT + CELL * columns + RIGHT, TOP + CELL * rows
    figure = Figure(figsize=(width, height))
    pictures = np.clip((images.transpose(0, 2, 3, 1) + 1) / 2, 0, 1)
    for row, name in enumerate(["image", *names]):
        below = (CELL * (rows - 1 - row)) / height
        axes = figure.add_axes((LEFT / width, below, CELL * columns / width, CELL / height))
        if row == 0:
            axes.imshow(_side_by_side(pictures, 1.0).squeeze(), cmap="gray", vmin=0, vmax=1)
            for column, title in enumerate(titles):
                middle = (LEFT + CELL * (column + 0.5)) / width
                figure.text(middle, 1 - TOP / height, title, fontsize=7, ha="center", va="bottom")
        else:
            shown = axes.imshow(_side_by_side(maps[:, row - 1], np.nan), cmap="inferno", vmin=0, vmax=limits[row - 1])
            scale = figure.add_axes(
                ((width - RIGHT + 0.05) / width, below + 0.1 * CELL / height, 0.12 / width, 0.8 * CELL / height)
            )
            figure.colorbar(shown, cax=scale).ax.tick_params(labelsize=6)
        axes.set_ylabel(name, fontsize=8)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120, pil_kwargs={"compress_level": PNG_LEVEL})


def _side_by_side(pictures: np.ndarray, gap_value: float) -> np.ndarray:
    """Join (N, H, W, ...) pictures to one row, with gaps between them."""
    gap = np.full_like(pictures[0, :, : max(1, pictures.shape[2] // GAP)], gap_value)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
