"""What every reader of image files returns and refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["MAX_PIXELS", "MIN_SIDE", "DecodedImage", "ImageReadError", "check_size", "in_channels_of", "record"]

MIN_SIDE = 8  # pixels; anything smaller is not a picture of a patient
MAX_PIXELS = 2**27  # values in one image, checked from the header before anything is decoded


class ImageReadError(ValueError):
    """An image file that cannot be read; the message never holds its path, a value of its header or a pixel."""


@dataclass(frozen=True)
class DecodedImage:
    """An image as the readers hand it over.

    Attributes:
        values: (C, H, W) picture or (C, I, J, K) volume, C = 1 (grey) or 3 (RGB), uint8 or float32 in [0, 1].
        photometry: what was done to the stored values, see :func:`record`.
        affine: (4, 4) voxel -> RAS+ mm of a volume.
        pixel_size: (row spacing, column spacing) of a picture in mm; None if the file does not say.
    """

    values: np.ndarray
    photometry: dict[str, Any]
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    pixel_size: tuple[float, float] | None = None


def record(source: str, scaled: str, **steps: Any) -> dict[str, Any]:
    """Say what was done to the stored values; every value can be collated into a batch.

    Args:
        source: ``"dicom"``, ``"nifti"`` or ``"picture"``.
        scaled: where [0, 1] comes from: ``"window"``, ``"lut"``, ``"eight bits"``, ``"min to max"``, ``"type"`` (the
            range of the stored type, for a constant image) or ``"as stored"``.
        **steps: those that were taken of ``modality`` (``"lut"``, ``"rescale"``), ``voi`` (``"lut"``, ``"window"``),
            ``inverted`` and ``padding``.

    Returns:
        the record, with ``"none"`` or False for a step that was not taken.

    Example:
        >>> record("picture", "eight bits")
        {'source': 'picture', 'modality': 'none', 'voi': 'none', 'inverted': False, 'range': 'eight bits',
         'padding': False}
    """
    steps = {"modality": "none", "voi": "none", "inverted": False, "padding": False} | steps
    return {
        "source": source,
        "modality": steps["modality"],
        "voi": steps["voi"],
        "inverted": steps["inverted"],
        "range": scaled,
        "padding": steps["padding"],
    }


def check_size(sides: Sequence[int], channels: int = 1) -> None:
    """Refuse an image by the size that its header claims.

    Args:
        sides: rows and columns of a picture, or the three sides of a volume.
        channels: values a pixel.

    Raises:
        ImageReadError: a side is below 1 or the two longest below 8 pixels, or there are more than 2**27 values.

    Example:
        >>> check_size((65535, 65535))
        Traceback (most recent call last):
            ...
        monai_ddad.io.formats.decoded.ImageReadError: the header claims more than 134217728 pixels
    """
    if min(sides) < 1 or sorted(sides)[-2] < MIN_SIDE:
        raise ImageReadError(f"fewer than {MIN_SIDE} x {MIN_SIDE} pixels")
    if prod(sides) * channels > MAX_PIXELS:
        raise ImageReadError(f"the header claims more than {MAX_PIXELS} pixels")


def in_channels_of(values: np.ndarray, in_channels: int) -> np.ndarray:
    """Give an image the wanted channels and its final type.

    Args:
        values: see :class:`DecodedImage`.
        in_channels: 1 for grey (RGB is converted as PIL does), 3 for RGB (grey is repeated).

    Returns:
        (``in_channels``, ...) contiguous float32 in [0, 1]; 8-bit values are exactly u / 255.

    Example:
        >>> red = np.zeros((3, 8, 8), np.uint8)
        >>> red[0] = 255
        >>> bool(in_channels_of(red, 1)[0, 0, 0] == np.float32(76 / 255))  # 0.299 of 255
        True
    """
    if len(values) == 3 and in_channels == 1:
        flat = np.ascontiguousarray(np.moveaxis(values, 0, -1)).reshape(values.shape[1], -1, 3)
        values = np.asarray(Image.fromarray(flat).convert("L")).reshape(1, *values.shape[1:])
    if values.dtype == np.uint8:
        values = values / np.float32(255)
    if len(values) < in_channels:
        values = np.repeat(values, in_channels, axis=0)
    return np.ascontiguousarray(values, dtype=np.float32)
