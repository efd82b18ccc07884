"""Pictures of chosen images with their anomaly maps, for an evaluation's report."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image

from monai_ddad.decision.overlay import overlay_heat_map
from monai_ddad.io.writing import write_picture

__all__ = ["GALLERY", "Extremes", "choose_rows", "write_gallery"]

Kept = TypeVar("Kept")

GALLERY = r"\d{6,}_(image|overlay)\.png"  # names of the files written here
LEAST_SIDE = 192  # pixels; smaller images are enlarged to it


def choose_rows(scores: np.ndarray, labels: np.ndarray, flagged: np.ndarray | None, number: int) -> list[int]:
    """Choose images of each kind to look at: right and wrong ones, flagged and not.

    Args:
        scores: (N,) of the deciding score.
        labels: (N,) 0 (normal), 1 (abnormal) or -1 (unknown).
        flagged: (N,) bool; None where nothing is decided: the highest and lowest half are taken instead.
        number: the most images of each kind.

    Returns:
        rows: of each label the highest scores of those that are flagged, and the lowest of those that are not.

    Example:
        >>> choose_rows(np.arange(6.0), np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1], dtype=bool), 1)
        [0, 2, 3, 5]
    """
    order = np.argsort(-scores, kind="stable")
    if flagged is None:
        flagged = np.zeros(len(scores), dtype=bool)
        flagged[order[: len(order) // 2]] = True
    chosen: list[int] = []
    for label in (0, 1, -1):
        members = order[labels[order] == label]
        high, low = members[flagged[members]], members[~flagged[members]]
        chosen += [*high[:number].tolist(), *low[::-1][:number].tolist()]
    return sorted(chosen)


class Extremes(Generic[Kept]):
    """Keep what belongs to the highest and lowest scores of each label, of images that come one after the other.

    Args:
        number: how many of the highest and of the lowest to keep of each label.

    Example:
        >>> extremes = Extremes[str](1)
        >>> for row, (score, kept) in enumerate([(0.2, "a"), (0.1, "b"), (0.3, "c"), (0.25, "d")]):
        ...     extremes.add(row, 0, score, lambda kept=kept: kept)
        >>> extremes.kept
        {1: 'b', 2: 'c'}
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._heaps: dict[tuple[int, int], list[tuple[float, int, Kept]]] = {}

    def add(self, row: int, label: int, score: float, make: Callable[[], Kept]) -> None:
        """Take an image, and make what is kept of it if it is; of equal scores the first rows count as the higher."""
        for sign in (1, -1):
            heap, place = self._heaps.setdefault((label, sign), []), (sign * score, -sign * row)
            if len(heap) < self.number:
                heapq.heappush(heap, (*place, make()))
            elif place > heap[0][:2]:
                heapq.heapreplace(heap, (*place, make()))

    @property
    def kept(self) -> dict[int, Kept]:
        """What was kept, by row."""
        found = {abs(row): kept for heap in self._heaps.values() for _, row, kept in heap}
        return dict(sorted(found.items()))


def write_gallery(images: torch.Tensor, percentiles: np.ndarray, rows: Sequence[int], folder: Path) -> None:
    """Write ``NNNNNN_image.png`` and ``NNNNNN_overlay.png`` of each image.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        percentiles: (N, H, W) map in percentiles of normal pixels, in [0, 100].
        rows: the numbers in the file names.
        folder: where to write.
    """
    for row, image, heat in zip(rows, images.numpy(), percentiles):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        pair = {"image": picture, "overlay": overlay_heat_map(picture, heat)}
        scale = -(-LEAST_SIDE // picture.height)
        for name, shown in pair.items():
            shown = shown.resize((scale * shown.width, scale * shown.height), Image.Resampling.BILINEAR)
            write_picture(folder / f"{row:06d}_{name}.png", shown)
