"""Chest films to the network's square."""

from __future__ import annotations

import numpy as np
from skimage.exposure import equalize_adapthist

from monai_ddad.transforms.resample import Box, SquareTransform, SquareTransformd, square_around

__all__ = ["ChestFilm", "ChestFilmd", "exposed_field"]

FLAT = 0.02  # standard deviation along a line, of the range [0, 1], below which nothing is pictured there
NARROWEST = 0.5  # share of the picture's side that the exposed field has at least


def exposed_field(picture: np.ndarray) -> np.ndarray:
    """Find the part of a film that is not its collimation border.

    A border is made of lines along an edge on which the brightness hardly varies, black or white.

    Args:
        picture: (H, W) float in [0, 1].

    Returns:
        (H, W) bool, a rectangle; all of the picture where more than half of a side would be border.

    Example:
        >>> picture = np.zeros((40, 40))
        >>> picture[5:35, 8:40] = np.random.default_rng(0).random((30, 32))
        >>> field = exposed_field(picture)
        >>> int(field.any(axis=1).sum()), int(field.any(axis=0).sum())
        (30, 32)
    """
    field = np.ones(picture.shape, dtype=bool)
    for axis in (1, 0):  # rows, then columns within the rows that are left
        lines = picture[field.any(axis=1)][:, field.any(axis=0)]
        pictured = np.flatnonzero(lines.std(axis=axis) > FLAT)
        if len(pictured) == 0 or np.ptp(pictured) + 1 < NARROWEST * picture.shape[1 - axis]:
            continue
        keep = np.zeros(lines.shape[1 - axis], dtype=bool)
        keep[pictured[0] : pictured[-1] + 1] = True
        whole = np.zeros(picture.shape[1 - axis], dtype=bool)
        whole[field.any(axis=axis)] = keep
        field &= whole[:, None] if axis == 1 else whole[None]
    return field


class ChestFilm(SquareTransform):
    """Cut off the collimation border, keep the aspect ratio, and set a robust range of brightness.

    Args:
        image_size: side of the square, pixels; the film's shorter side is filled up with black.
        percentiles: brightness of the exposed field that becomes 0 and 1.
        clahe: equalise the local contrast (CLAHE of scikit-image) with this clip limit, in (0, 1]; None does not.

    Raises:
        ValueError: ``percentiles`` are not two rising numbers in [0, 100], or ``clahe`` is not in (0, 1].

    Example:
        >>> import torch
        >>> ChestFilm(16)(torch.rand(1, 40, 30, generator=torch.Generator().manual_seed(0))).shape
        torch.Size([1, 16, 16])
    """

    def __init__(
        self, image_size: int = 64, percentiles: tuple[float, float] = (1.0, 99.0), clahe: float | None = None
    ) -> None:
        super().__init__(image_size)
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must be two rising numbers in [0, 100], got {percentiles}.")
        if clahe is not None and not 0 < clahe <= 1:
            raise ValueError(f"clahe must be in (0, 1] or None, got {clahe}.")
        self.percentiles = low, high
        self.clahe = clahe

    def prepare(self, picture: np.ndarray, pixel_size: tuple[float, float] | None) -> tuple[np.ndarray, Box]:
        """Set the range and find the exposed field."""
        field = exposed_field(picture.mean(axis=0))
        low, high = np.percentile(picture[:, field], self.percentiles)
        scaled = np.clip((picture - low) / max(float(high - low), 1e-6), 0, 1) * field
        if self.clahe is not None:
            scaled = np.stack([equalize_adapthist(channel, clip_limit=self.clahe) for channel in scaled]) * field
        return scaled.astype(np.float32), square_around(field, pixel_size)


class ChestFilmd(SquareTransformd):
    """Dictionary form of :class:`ChestFilm`."""

    array_form = ChestFilm
