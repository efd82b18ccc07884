"""Synthetic axial brain-like slices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from monai_ddad.data.phantom.drawing import (
    Picture,
    Streams,
    blob_distance,
    paint,
    smooth_noise,
    soft_below,
    to_eight_bits,
)

__all__ = ["draw_brain"]

LESIONS = ("mass", "cyst", "ring", "oedema", "displacing")
AIR, SKULL = 0.02, 0.12  # brightness


@dataclass(frozen=True)
class _Weighting:
    """Brightness of the tissues in one kind of picture."""

    scalp: float
    csf: float
    grey: float
    white: float


T1_LIKE = _Weighting(scalp=0.72, csf=0.18, grey=0.46, white=0.66)
T2_LIKE = _Weighting(scalp=0.50, csf=0.95, grey=0.62, white=0.42)


def draw_brain(streams: Streams, abnormal: bool, side: int) -> Picture:
    """Draw an axial head slice; half of the pictures look like T1-weighted ones, half like T2-weighted ones.

    The gain sets the mean brightness of the head to a level that is drawn alike for both classes.

    Args:
        streams: random streams of the picture.
        abnormal: add one or two lesions, about 8 to 15 % of the side in radius.
        side: height and width, pixels.

    Returns:
        (side, side) uint8 image and (side, side) bool mask of the lesions.

    Example:
        >>> streams = Streams(*(np.random.default_rng(seed) for seed in range(3)))
        >>> image, mask = draw_brain(streams, abnormal=True, side=64)
        >>> image.shape, image.dtype, bool(mask.any())
        ((64, 64), dtype('uint8'), True)
    """
    weighting = T2_LIKE if streams.anatomy.random() < 0.5 else T1_LIKE
    tissue, radius = _draw_head(streams.anatomy, side, weighting)
    mask = np.zeros((side, side), dtype=bool)
    if abnormal:
        for _ in range(1 + (streams.lesion.random() < 0.3)):
            tissue, added = _add_lesion(streams.lesion, tissue, radius, weighting)
            mask |= added
    return _acquire(streams.acquisition, tissue, radius < 1), mask


def _draw_head(rng: np.random.Generator, side: int, weighting: _Weighting) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head without noise: (side, side) brightness in [0, 1], and radius, 1 at the skin and 0 in the middle."""
    y, x = np.mgrid[0:side, 0:side] / (side / 2) - 1 + 1 / side
    x, y = x + rng.normal(0, 0.008), y + rng.normal(0, 0.008)
    angle = np.radians(rng.normal(0, 2))
    width, height = rng.normal(0.74, 0.015), rng.normal(0.90, 0.015)
    u = (np.cos(angle) * x + np.sin(angle) * y) / width
    v = (np.cos(angle) * y - np.sin(angle) * x) / height
    u *= 1 - rng.normal(0.10, 0.03) * v  # narrower at the forehead, which is up
    u, v = (axis + 0.004 * smooth_noise(rng, (side, side), 0.12) for axis in (u, v))
    pixel = 2 / side / width
    radius = np.hypot(u, v)
    below = partial(soft_below, edge=pixel)
    # cortex: sulci run along the zero crossings of smooth noise, deepest at the surface, with grey matter beside them
    folds = np.abs(smooth_noise(rng, (side, side), rng.uniform(0.026, 0.036)))
    surface = 0.86
    depth = np.clip((surface - radius) / rng.uniform(0.22, 0.34), 0, 1)
    sulci = below(folds, 0.22 * (1 - depth) ** 1.2, edge=0.15) * (depth < 1)
    ribbon = np.maximum(
        below(folds, 0.2 + 0.8 * (1 - depth) ** 0.5, edge=0.2) * (depth < 1), below(surface - radius, 0.05)
    )
    image = np.full((side, side), AIR)
    skull, scalp = rng.normal(0.925, 0.008), rng.normal(0.885, 0.006)
    for brightness, share in (
        (weighting.scalp, below(radius, 1)),
        (SKULL, below(radius, skull)),
        (weighting.csf, below(radius, scalp)),
        (weighting.white, below(radius, surface)),
        (weighting.grey, ribbon * below(radius, surface)),
        (weighting.csf, rng.uniform(0.15, 0.9) * sulci * below(radius, surface)),
    ):
        image = paint(image, brightness, share)
    # basal ganglia, ventricles (two crescents that part to the back and the front), and falx, mirrored
    across = np.abs(u + 0.015 * np.sin(3 * v + rng.uniform(0, 6)))
    ganglia = below(np.hypot((across - 0.24) / 0.10, (v + 0.02) / 0.20), 1, edge=0.3)
    image = paint(image, weighting.grey, 0.85 * ganglia)
    size, middle = rng.lognormal(0, 0.2), rng.normal(-0.03, 0.02)
    reach = (v - middle) / rng.normal(0.36, 0.03)
    bow = 0.075 + 0.13 * np.clip(reach, 0, None) ** 2 + 0.06 * np.clip(-reach, 0, None) ** 2
    half = 0.05 * size * np.sqrt(np.clip(1 - reach**2, 0, None)) * (1 + 0.5 * reach**2)
    image = paint(image, weighting.csf, below(np.abs(across - bow), half) * (np.abs(reach) < 1))
    fissure = below(across, 0.014) * below(-np.abs(v), -0.42, edge=0.1) * below(radius, scalp)
    return paint(image, weighting.csf, 0.8 * fissure), radius


def _add_lesion(
    rng: np.random.Generator, tissue: np.ndarray, radius: np.ndarray, weighting: _Weighting
) -> tuple[np.ndarray, np.ndarray]:
    """Add a lesion of a random kind, place, size and contrast; return the picture and the lesion's mask."""
    side = len(tissue)
    # deep white matter of the four quadrants, in shares of the head's half axes
    height, width = (np.ptp(np.flatnonzero((radius < 1).any(axis))) / 2 for axis in (1, 0))
    middle_y, middle_x = np.argwhere(radius < 1).mean(axis=0)
    row = middle_y + height * (rng.choice([-0.28, 0.28]) + rng.normal(0, 0.08))
    column = middle_x + width * (rng.choice([-0.34, 0.34]) + rng.normal(0, 0.06))
    size = rng.uniform(0.08, 0.15) * side
    y, x = np.mgrid[0:side, 0:side]
    y, x = y - row, x - column
    distance = blob_distance(rng, y, x, size)
    kind = LESIONS[rng.integers(len(LESIONS))]
    contrast = rng.uniform(0.8, 1.0)
    inside = np.clip((1 - distance) * size / 2 + 0.5, 0, 1)
    brain = radius < 0.84
    mask = (distance < 1) & brain
    push = {"mass": 0.3, "cyst": 0.3, "ring": 0.4, "oedema": 0.0, "displacing": 0.8}[kind]
    pushed = tissue
    if push:  # what lay inside is squeezed out around the lesion, less with distance
        pulled = 1 - push * np.exp(-0.5 * distance**2)
        pushed = ndimage.map_coordinates(tissue, [row + y * pulled, column + x * pulled], order=1, mode="nearest")
    texture = 0.06 * smooth_noise(rng, (side, side), 0.02)
    if kind == "mass":
        target = 1.0 + texture
    elif kind == "cyst":
        target = weighting.csf - 0.06 + 0.3 * texture
    elif kind == "ring":
        target = np.where(distance > 0.6, 1.0, 0.22) + texture
    elif kind == "displacing":
        target = weighting.grey + 0.6 * (weighting.grey - weighting.white) + texture
    else:
        target = 0.95 + 2 * texture
        inside = np.exp(-0.5 * (distance / 0.8) ** 4)
    halo = rng.uniform(0.4, 0.8) * np.exp(-0.5 * (distance / 1.3) ** 2)
    swollen = pushed + halo * (0.95 - pushed)
    lesion = swollen + contrast * (target - swollen) * inside
    return np.where(brain, lesion, tissue), mask


def _acquire(rng: np.random.Generator, tissue: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Take the picture: bias field, blur, gain and noise, all drawn alike for both classes; return uint8."""
    side = len(tissue)
    ramp = np.linspace(-1, 1, side)
    tilt_y, tilt_x, bowl = rng.normal(0, 0.05, 3)
    bias = np.exp(tilt_y * ramp[:, None] + tilt_x * ramp[None] + bowl * (ramp[:, None] ** 2 + ramp[None] ** 2))
    image = ndimage.gaussian_filter(tissue * bias, rng.uniform(0.5, 1.8) * side / 128)
    image *= rng.uniform(0.32, 0.50) / image[head].mean()
    level = rng.uniform(0.01, 0.07)
    grain = [smooth_noise(rng, (side, side), 0.008) for _ in range(2)]
    noisy = np.hypot(image + level * grain[0], level * grain[1])  # magnitude picture: Rician noise
    return to_eight_bits(noisy)
