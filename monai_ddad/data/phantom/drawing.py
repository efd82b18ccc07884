"""What the synthetic pictures of all kinds are drawn with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Picture", "Streams", "blob_distance", "paint", "smooth_noise", "soft_below", "to_eight_bits"]

Picture = tuple[np.ndarray, np.ndarray]  # uint8 image, and bool mask of the lesions


class Streams(NamedTuple):
    """Random streams of one picture: the abnormal picture of a seed is its normal one with lesions added."""

    anatomy: np.random.Generator
    lesion: np.random.Generator
    acquisition: np.random.Generator


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Draw periodic Gaussian noise of mean 0 and variance 1.

    Args:
        rng: where the noise comes from.
        shape: rows and columns, pixels.
        scale: standard deviation of the blur, a share of the rows.

    Returns:
        (rows, columns) float64.

    Example:
        >>> noise = smooth_noise(np.random.default_rng(0), (32, 40), 0.1)
        >>> noise.shape, bool(abs(noise.mean()) < 1e-9), round(float(noise.std()), 6)
        ((32, 40), True, 1.0)
    """
    rows, columns = shape
    frequencies = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(columns)[None] ** 2
    transfer = np.exp(-2 * (np.pi * scale * rows) ** 2 * frequencies)
    transfer[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * transfer, s=shape)
    return noise / noise.std()


def soft_below(values: np.ndarray, limit: float | np.ndarray, edge: float) -> np.ndarray:
    """Tell softly, from 1 to 0 over ``edge``, where values are below the limit.

    Example:
        >>> soft_below(np.array([0.0, 1.0, 2.0]), 1.0, edge=0.5)
        array([1. , 0.5, 0. ])
    """
    return np.clip((limit - values) / edge + 0.5, 0, 1)


def paint(image: np.ndarray, brightness: float | np.ndarray, share: np.ndarray) -> np.ndarray:
    """Cover an image with a brightness or colour where ``share`` is 1, mix the two between, and leave it at 0.

    Example:
        >>> paint(np.zeros(3), 0.8, np.array([0.0, 0.5, 1.0]))
        array([0. , 0.4, 0.8])
    """
    return image + (brightness - image) * share


def blob_distance(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, size: float) -> np.ndarray:
    """Measure from the middle of a blob of irregular outline.

    Args:
        rng: where the outline comes from.
        y: row offsets from the middle.
        x: column offsets from the middle.
        size: mean radius, in the unit of the offsets.

    Returns:
        distance of each position, 1 on the outline.

    Example:
        >>> y, x = np.mgrid[-9:10, -9:10]
        >>> distance = blob_distance(np.random.default_rng(0), y, x, size=4)
        >>> float(distance[9, 9]), bool(distance[0, 0] > 1)
        (0.0, True)
    """
    theta, distance = np.arctan2(y, x), np.hypot(y, x)
    outline = 1 + sum(rng.normal(0, 0.16 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    return distance / (size * np.clip(outline, 0.6, 1.5))


def to_eight_bits(image: np.ndarray) -> np.ndarray:
    """Round an image to uint8, where 1 becomes 255; values outside [0, 1] are clipped.

    Example:
        >>> to_eight_bits(np.array([-1.0, 0.5, 2.0]))
        array([  0, 128, 255], dtype=uint8)
    """
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
