"""Synthetic frontal chest films."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

__all__ = ["draw_chest"]

LESIONS = ("consolidation", "mass", "effusion", "pneumothorax", "large heart")
SOFT, HEART, ABDOMEN = 0.52, 0.68, 0.72  # brightness; 0 around the body
DEPTH = 0.38  # by how much air darkens the film


@dataclass(frozen=True)
class _Chest:
    """A chest without noise; every map is (rows, columns).

    Attributes:
        solid: brightness of all but the lungs' air, bones included.
        body: True in the body.
        lung: share of the lungs, in [0, 1].
        air: air in the lungs, 1 where they are normal.
        markings: brightness of the lungs' vessels.
        across: distance from the midline, 1 at the widest place of the rib cage, positive on the picture's right.
        down: height, -1 at the top and 1 at the bottom.
        wall: half width of the rib cage at that height, in the unit of ``across``.
        floor: height of the diaphragm below each place.
        heart: row, column and size of the heart.
    """

    solid: np.ndarray
    body: np.ndarray
    lung: np.ndarray
    air: np.ndarray
    markings: np.ndarray
    across: np.ndarray
    down: np.ndarray
    wall: np.ndarray
    floor: np.ndarray
    heart: tuple[float, float, float]


def draw_chest(streams: Streams, abnormal: bool, side: int) -> Picture:
    """Draw a frontal chest film; rows are ``side``, columns .88 to 1.17 of it.

    The exposure sets the mean and the standard deviation of the body's brightness to levels drawn alike for both
    classes.

    Args:
        streams: random streams of the picture.
        abnormal: add a consolidation, a mass, an effusion, a pneumothorax or a large heart, sometimes two of them.
        side: height, pixels.

    Returns:
        (side, columns) uint8 image and (side, columns) bool mask of the lesions.

    Example:
        >>> streams = Streams(*(np.random.default_rng(seed) for seed in range(3)))
        >>> image, mask = draw_chest(streams, abnormal=True, side=64)
        >>> image.shape == mask.shape, image.dtype, bool(mask.any())
        (True, dtype('uint8'), True)
    """
    chest = _draw_anatomy(streams.anatomy, side)
    mask = np.zeros(chest.body.shape, dtype=bool)
    if abnormal:
        for name in streams.lesion.permutation(LESIONS)[: 1 + (streams.lesion.random() < 0.3)]:
            chest, added = _add_lesion(streams.lesion, chest, str(name))
            mask |= added
    film = chest.solid + chest.lung * (chest.markings * np.clip(chest.air, 0, 1) - DEPTH * chest.air)
    return _acquire(streams.acquisition, film, chest.body), mask


def _draw_anatomy(rng: np.random.Generator, side: int) -> _Chest:
    """Draw a normal chest."""
    shape = (side, round(side * rng.uniform(0.875, 1.17)))
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / (side / 2)
    y, x = y - 1 + rng.normal(0, 0.03), x - shape[1] / side + rng.normal(0, 0.02)
    angle, width = np.radians(rng.normal(0, 1.5)), rng.normal(0.80, 0.02) * (shape[1] / side) ** 0.8
    across = (np.cos(angle) * x + np.sin(angle) * y) / width + 0.006 * smooth_noise(rng, shape, 0.1)
    down = (np.cos(angle) * y - np.sin(angle) * x) / rng.normal(1, 0.03) + 0.006 * smooth_noise(rng, shape, 0.1)
    pixel, far = 3 / side, np.abs(across)
    left = across > 0  # the patient's left, on the picture's right

    # outlines: neck and shoulders, rib cage, diaphragm, heart, aortic arch, roots of the lungs
    slope = np.clip((down - rng.normal(-0.74, 0.03)) / 0.26, -1.6, 1.6)
    skin = 0.28 + rng.normal(0.96, 0.03) / (1 + np.exp(-3.2 * slope)) - 0.08 * np.clip(down, 0, 1)
    body = soft_below(far, skin, 0.10)
    wall = np.clip(1 - np.abs((down - 0.45) / 1.20) ** 2.6, 0, 1) ** (1 / 2.6)
    breath = rng.normal(0, 0.03)
    floor = np.where(left, 0.52, 0.45) + breath + np.where(far > 0.42, 0.24, 0.10) * ((far - 0.42) / 0.5) ** 2
    heart = (0.30 + breath / 2, rng.normal(0.14, 0.015), float(rng.lognormal(0, 0.05)))
    beating = _heart_share(across, down, heart, pixel)
    middle = 0.15 + rng.normal(0, 0.008) + 0.08 * left * np.exp(-(((down + 0.02) / 0.18) ** 2))
    arch = soft_below(np.hypot(across - 0.15, (down + 0.30) * 0.9), rng.normal(0.105, 0.008), pixel)
    roots = sum(np.exp(-(np.hypot((across - at) / 0.10, down / 0.17) ** 2)) for at in (-0.23, 0.25))
    lung = soft_below(far, wall, pixel) * soft_below(-far, -middle, 2 * pixel) * soft_below(down, floor, pixel)
    lung *= (1 - beating) * (1 - arch)

    # brightness: soft tissue, abdomen with the stomach's bubble on some, heart, bones, windpipe
    solid = body * (SOFT + 0.10 * np.clip(1 - far / skin, 0, 1))
    solid = paint(solid, ABDOMEN, body * soft_below(-down, -floor, pixel) * soft_below(far, wall + 0.05, 0.2))
    solid = paint(solid, HEART, np.maximum(beating, 0.7 * arch))
    solid += 0.07 * soft_below(far, middle, 0.06) * body + 0.12 * roots * lung
    solid += _draw_bones(rng, across, down, wall) * body
    solid -= 0.09 * soft_below(np.abs(across + 0.01), 0.045, 0.04) * soft_below(down, -0.12, 0.2) * body
    bubble = np.hypot((across - rng.normal(0.45, 0.05)) / 0.17, (down - breath - 0.66) / rng.uniform(0.05, 0.10))
    solid -= rng.choice([0, 0.16]) * soft_below(bubble, 1, 0.3)
    ridges = soft_below(np.abs(smooth_noise(rng, shape, 0.018)), 0.25, 0.3)  # vessels fan out from the roots
    markings = 0.05 * ridges * (0.35 + roots + np.exp(-(((far - 0.2) / 0.35) ** 2)))
    air = 1 + 0.10 * (0.3 - far) + rng.normal(0, 0.03) * down
    return _Chest(solid, body > 0.5, lung, air, markings, across, down, wall, floor, heart)


def _heart_share(
    across: np.ndarray, down: np.ndarray, heart: tuple[float, float, float], edge: float, growth: float = 1
) -> np.ndarray:
    """Draw the heart's shadow, a tilted ellipse, ``growth`` times as wide as it was."""
    row, column, size = heart
    y, x = down - row, across - column
    along, over = (x * 0.94 + y * 0.34) / (0.45 * size * growth), (y * 0.94 - x * 0.34) / (0.33 * size * growth**0.5)
    return soft_below((np.abs(along) ** 2.2 + np.abs(over) ** 2.2) ** (1 / 2.2), 1, 3 * edge)


def _draw_bones(rng: np.random.Generator, across: np.ndarray, down: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """Draw ribs, clavicles, shoulder blades and spine: the brightness that they add."""
    far = np.abs(across)
    spacing, start = rng.normal(0.152, 0.004), rng.uniform(-0.15, 0.15)
    cage = soft_below(far, wall + 0.03, 0.05) * soft_below(down, 0.62, 0.4) * soft_below(-down, 0.80, 0.05)
    bones = np.zeros_like(across)
    behind = rng.normal(0.50, 0.05) * (far - 0.22) ** 2
    before = -rng.normal(0.40, 0.04) * (far - 1.0) ** 2 + 0.45 * (1 - far)
    for course, strength, inner in ((behind, 0.10, 0.0), (before, 0.04, 0.45)):
        phase = (down - course) / spacing + start
        offset = np.abs(phase - np.rint(phase))
        rib = soft_below(offset, 0.21, 0.10) + 0.5 * soft_below(np.abs(offset - 0.20), 0.03, 0.1)
        bones += strength * rib * cage * soft_below(-far, -inner, 0.15)
    bones += 0.06 * soft_below(np.abs(far - wall - 0.03), 0.02, 0.05) * soft_below(np.abs(down), 0.62, 0.1)
    clavicle = np.abs(down + 0.52 + rng.normal(0.24, 0.04) * (far - 0.1) + 0.05 * np.sin(5 * far))
    bones += 0.16 * soft_below(clavicle, 0.035, 0.03) * soft_below(np.abs(far - 0.48), 0.38, 0.06)
    blade = np.abs(far - 0.93 + 0.25 * (down + 0.15) ** 2 - 0.1 * down)
    bones += 0.05 * soft_below(blade, 0.05, 0.06) * soft_below(np.abs(down + 0.25), 0.33, 0.1)
    vertebrae = 0.6 + 0.4 * np.cos(2 * np.pi * down / (0.9 * spacing))
    return bones + 0.10 * soft_below(far, 0.085, 0.04) * vertebrae


def _add_lesion(rng: np.random.Generator, chest: _Chest, name: str) -> tuple[_Chest, np.ndarray]:
    """Add a lesion of a random side, place and size; return the chest and the lesion's mask."""
    half = 1 if rng.random() < 0.5 else -1
    if name in ("consolidation", "mass"):
        return _add_opacity(rng, chest, half, solid=name == "mass")
    outward, down = half * chest.across, chest.down
    mine = soft_below(-outward, 0, 0.02) * chest.lung
    if name == "effusion":  # fluid that climbs along the wall
        level = rng.uniform(0.12, 0.32) - 0.40 * np.clip((outward - 0.5) / 0.5, 0, 1) ** 2
        share = soft_below(-down, -level, 0.05) * mine
        return replace(chest, air=chest.air * (1 - 0.95 * share)), share > 0.5
    if name == "pneumothorax":  # air without vessels around a lung that shrank
        reach = (rng.uniform(0.58, 0.70) * chest.wall - 0.25).clip(0.05)
        distance = np.hypot((outward - 0.25) / reach, np.clip(-down - 0.25, 0, 1))
        above = soft_below(down, 0.35, 0.3) * mine
        share = soft_below(-distance, -1, 0.05) * above * soft_below(-outward, -0.3, 0.1)
        edge = 0.05 * soft_below(np.abs(distance - 1), 0.05, 0.06) * above
        air = chest.air * (1 + 0.40 * share - 0.20 * (1 - share) * mine)
        return replace(chest, air=air, markings=chest.markings * (1 - share) + edge), share > 0.5
    grown = _heart_share(chest.across, down, chest.heart, 0.02, growth=rng.uniform(1.25, 1.40))
    return replace(chest, air=chest.air * (1 - grown)), grown * chest.lung > 0.5


def _add_opacity(rng: np.random.Generator, chest: _Chest, half: int, solid: bool) -> tuple[_Chest, np.ndarray]:
    """Add a round opacity to the upper or lower field of one lung: a mass if it is solid, else a consolidation."""
    row = rng.choice([-0.28, 0.14]) + rng.normal(0, 0.06)
    column = half * (rng.normal(0.52, 0.04) + 0.8 * max(row, 0))
    size = 2 * (rng.uniform(0.08, 0.11) if solid else rng.uniform(0.10, 0.15))
    distance = blob_distance(rng, chest.down - row, 0.8 * (chest.across - column), size)
    if solid:
        share = rng.uniform(0.7, 0.9) * soft_below(distance, 1, 0.25)
    else:
        cloudy = 1 + 0.25 * smooth_noise(rng, chest.lung.shape, 0.02)
        share = rng.uniform(0.75, 1.0) * cloudy * np.exp(-0.5 * (distance / 0.85) ** 4)
    return replace(chest, air=chest.air * (1 - np.clip(share, 0, 1))), (distance < 1) & (chest.lung > 0.5)


def _acquire(rng: np.random.Generator, film: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Take the picture: blur, gamma, exposure, noise, collimation, drawn alike for both classes; return uint8."""
    side = len(film)
    image = ndimage.gaussian_filter(film, rng.uniform(0.4, 1.0) * side / 128)
    image = np.clip(image, 0.01, 1) ** rng.uniform(0.8, 1.25)
    level, contrast = rng.uniform(0.46, 0.62), rng.uniform(0.14, 0.20)
    image = level + contrast * (image - image[body].mean()) / image[body].std()
    image = image + rng.uniform(0.005, 0.025) * smooth_noise(rng, film.shape, 0.007)
    if rng.random() < 0.35:
        border = float(rng.random() < 0.3)
        top, bottom, left, right = np.rint(rng.uniform(0, 0.06, 4) * side).astype(int)
        inside = np.zeros(film.shape, dtype=bool)
        inside[top : side - bottom, left : film.shape[1] - right] = True
        image = np.where(inside, image, border)
    return to_eight_bits(image)
