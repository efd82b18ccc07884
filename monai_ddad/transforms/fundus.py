"""Fundus photographs to the network's square."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from monai_ddad.transforms.resample import Box, SquareTransform, SquareTransformd, square_around

__all__ = ["FundusField", "FundusFieldd", "field_of_view"]

FRAME = 0.06  # brightest of the three channels in the black frame; JPEG noise stays below
SMALLEST = 0.1  # share of the picture that a field of view has at least
FAINTEST = 1 / 255  # brightness of the darkest pixel inside the field: exactly 0 is outside


def field_of_view(picture: np.ndarray) -> np.ndarray:
    """Find the round field of view in the black frame of a fundus photograph.

    Args:
        picture: (C, H, W) float in [0, 1].

    Returns:
        (H, W) bool; all of the picture where there is no frame.

    Example:
        >>> y, x = np.mgrid[:60, :80]
        >>> disc = (y - 30) ** 2 + (x - 40) ** 2 < 25**2
        >>> bool((field_of_view(0.5 * disc[None]) == disc).all())
        True
    """
    bright = ndimage.median_filter(picture.max(axis=0), size=3) > FRAME
    parts, count = ndimage.label(bright)
    if count == 0:
        return np.ones(bright.shape, dtype=bool)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    field = ndimage.binary_fill_holes(largest)
    return field if field.mean() >= SMALLEST else np.ones(bright.shape, dtype=bool)


class FundusField(SquareTransform):
    """Cut out the field of view as a square, blacken what is outside it, and choose the colour channels.

    Outside the field of view the result is exactly 0 and inside it at least 1/255, so that a
    :class:`~monai_ddad.networks.DDADNet` with ``masked`` leaves the outside out of maps and scores.

    Args:
        image_size: side of the square, pixels.
        channels: ``"luminance"`` (as in the paper), ``"green"``, in which lesions show best, or ``"rgb"``.
        percentiles: brightness of the field, by channel, that becomes 0 and 1; None keeps the brightness.

    Raises:
        ValueError: an unknown ``channels``, or ``percentiles`` are not two rising numbers in [0, 100].

    Example:
        >>> import torch
        >>> photograph = torch.zeros(3, 60, 80)
        >>> photograph[:, 5:55, 15:65] = 0.5
        >>> FundusField(16, channels="green")(photograph).shape
        torch.Size([1, 16, 16])
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: Literal["luminance", "green", "rgb"] = "green",
        percentiles: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(image_size)
        if channels not in ("luminance", "green", "rgb"):
            raise ValueError(f"channels must be luminance, green or rgb, got {channels!r}.")
        if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"percentiles must be two rising numbers in [0, 100] or None, got {percentiles}.")
        self.channels = channels
        self.percentiles = percentiles

    def prepare(self, picture: np.ndarray, pixel_size: tuple[float, float] | None) -> tuple[np.ndarray, Box]:
        """Choose the channels and find the field of view; the last channel of the result is the field."""
        field = field_of_view(picture)
        chosen = picture
        if len(picture) == 3 and self.channels == "green":
            chosen = picture[1:2]
        elif len(picture) == 3 and self.channels == "luminance":
            chosen = _luminance(picture)
        if self.percentiles is not None:
            low, high = np.percentile(chosen[:, field], self.percentiles, axis=1)[:, :, None, None]
            chosen = np.clip((chosen - low) / np.maximum(high - low, 1e-6), 0, 1)
        return np.concatenate([chosen, field[None]]).astype(np.float32), square_around(field, pixel_size)

    def resize(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """Resize the channels, then set the outside to 0 and the inside to at least 1/255."""
        *channels, field = super().resize(picture, box)
        weight = np.maximum(field, 0.5)  # pixels on the rim are averages with the black outside
        return np.stack([np.clip(channel / weight, FAINTEST, 1) * (field >= 0.5) for channel in channels])


class FundusFieldd(SquareTransformd):
    """Dictionary form of :class:`FundusField`."""

    array_form = FundusField


def _luminance(picture: np.ndarray) -> np.ndarray:
    """Return the (1, H, W) luminance of a (3, H, W) picture, as PIL weighs the colours."""
    colours = np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).convert("L"))[None] / np.float32(255)
