"""Synthetic fundus photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
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

__all__ = ["draw_fundus"]

LESIONS = ("haemorrhages", "exudates", "cotton wool", "new vessels", "large cup")
STEP = 0.03  # length of one piece of a vessel, in radii of the field
FINENESS = 4  # vessels are drawn this many times as large, then reduced
RETINA, BLOOD = np.array([0.78, 0.41, 0.20]), np.array([0.30, 0.58, 0.50])  # colour, and what blood takes away
DISC, CUP = np.array([1.0, 0.76, 0.41]), np.array([1.0, 0.92, 0.62])
EXUDATE, COTTON = np.array([0.98, 0.80, 0.42]), np.array([0.97, 0.82, 0.62])
Curve = tuple[np.ndarray, float]  # (points, 2) rows and columns, and the width, all in radii of the field


@dataclass(frozen=True)
class _Frame:
    """Where the round field of view lies in the picture, and whose eye it is."""

    shape: tuple[int, int]  # rows and columns, pixels
    middle: tuple[float, float]  # row and column, pixels
    radius: float  # pixels; above half the rows, the field is cut above and below
    flip: int  # 1 where the temple is on the picture's right, else -1

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the pixels' places from the middle in radii: (rows, columns) down and (rows, columns) to the temple."""
        rows, columns = np.mgrid[0 : self.shape[0], 0 : self.shape[1]]
        return (rows - self.middle[0]) / self.radius, self.flip * (columns - self.middle[1]) / self.radius

    def trace(self, curves: Iterable[Curve]) -> np.ndarray:
        """Draw curves with smooth edges: (rows, columns) share in [0, 1]."""
        canvas = Image.new("L", (FINENESS * self.shape[1], FINENESS * self.shape[0]))
        draw = ImageDraw.Draw(canvas)
        scale = FINENESS * self.radius
        for points, width in curves:
            places = points[:, ::-1] * (self.flip * scale, scale) + FINENESS * (np.array(self.middle[::-1]) + 0.5)
            draw.line(places.ravel().tolist(), fill=255, width=max(round(scale * width), 1))
        return np.asarray(canvas.reduce(FINENESS), dtype=float) / 255


@dataclass(frozen=True)
class _Eye:
    """A retina without light and noise."""

    colour: np.ndarray  # (rows, columns, 3)
    vessels: np.ndarray  # (rows, columns) share of the vessels, in [0, 1]
    disc: tuple[float, float, float]  # row, column and radius of the optic disc, in radii of the field


def draw_fundus(streams: Streams, abnormal: bool, side: int) -> Picture:
    """Draw a photograph of a left or right fundus in its black frame; columns are 1.25 times the rows.

    The colour gains set the mean of each channel in the field of view to levels drawn alike for both classes.

    Args:
        streams: random streams of the picture.
        abnormal: add haemorrhages, hard exudates, cotton-wool spots, new vessels or a large cup, sometimes two of them.
        side: height, pixels.

    Returns:
        (side, 1.25 side, 3) uint8 RGB image and (side, 1.25 side) bool mask of the lesions.

    Example:
        >>> streams = Streams(*(np.random.default_rng(seed) for seed in range(3)))
        >>> image, mask = draw_fundus(streams, abnormal=True, side=64)
        >>> image.shape, mask.shape, image.dtype, bool(mask.any())
        ((64, 80, 3), (64, 80), dtype('uint8'), True)
    """
    anatomy, lesion = streams.anatomy, streams.lesion
    shape = (side, round(1.25 * side))
    middle = (side - 1) / 2 + anatomy.normal(0, 0.01) * side, (shape[1] - 1) / 2 + anatomy.normal(0, 0.02) * side
    frame = _Frame(shape, middle, side * anatomy.uniform(0.45, 0.58), int(anatomy.choice([-1, 1])))
    eye = _draw_eye(anatomy, frame)
    colour, mask = eye.colour, np.zeros(shape, dtype=bool)
    if abnormal:
        for name in lesion.permutation(LESIONS)[: 1 + (lesion.random() < 0.3)]:
            colour, added = _add_lesion(lesion, frame, eye, colour, str(name))
            mask |= added
    field = soft_below(np.hypot(*frame.grid()), 1, 1.5 / frame.radius)
    return _acquire(streams.acquisition, colour, field), mask & (field > 0.5)


def _draw_eye(rng: np.random.Generator, frame: _Frame) -> _Eye:
    """Draw a normal retina: choroid, macula, optic disc and vessels."""
    y, x = frame.grid()
    row, column, size = rng.normal(0, 0.04), rng.normal(-0.60, 0.03), rng.normal(0.155, 0.008)
    choroid = 0.05 * smooth_noise(rng, frame.shape, 0.10) + 0.03 * smooth_noise(rng, frame.shape, 0.02)
    colour = RETINA * (1 + choroid[..., None] * (0.5, 1.0, 1.0))
    macula = np.hypot(y - row - rng.normal(0.07, 0.03), x - column - rng.normal(0.68, 0.03))
    dark = 0.35 * np.exp(-((macula / 0.28) ** 2)) + 0.20 * np.exp(-((macula / 0.09) ** 2))
    colour = colour * (1 - dark[..., None] * (0.55, 1.0, 1.0))
    away = np.hypot(y - row, (x - column) * rng.normal(1.08, 0.03))
    glow = 0.12 * np.exp(-((away / 0.35) ** 2))
    on_disc = soft_below(away, size, 0.05)
    colour = paint(colour + glow[..., None], DISC, 0.9 * on_disc[..., None])
    cup = soft_below(away, size * rng.normal(0.42, 0.05), 0.06)
    colour = paint(colour, CUP, 0.9 * cup[..., None])
    vessels = frame.trace(_tree(rng, row, column)) * (1 - 0.4 * on_disc)
    return _Eye(_bleed(colour, vessels), vessels, (row, column, size))


def _bleed(colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Darken to the red of blood."""
    return colour * (1 - share[..., None] * BLOOD)


def _tree(rng: np.random.Generator, row: float, column: float) -> Iterator[Curve]:
    """Draw the vessels that leave the disc: above and below, an artery and a vein to the temple and two to the nose."""
    for half in (-1, 1):
        for width in (0.026, 0.038):
            start = np.array([row, column]) + rng.normal(0, 0.02, 2)
            yield from _grow(rng, start, half * rng.uniform(1.25, 1.6), 1.7, width, -half * rng.uniform(0.9, 1.2), 2)
            yield from _grow(rng, start, half * rng.uniform(2.1, 2.7), 0.6, 0.8 * width, rng.uniform(-0.5, 0.5), 1)
        start = np.array([row, column])
        yield from _grow(rng, start, half * rng.uniform(0.3, 0.6), 0.4, 0.016, -half * rng.uniform(0.2, 0.8), 0)


def _grow(
    rng: np.random.Generator, start: np.ndarray, angle: float, length: float, width: float, bend: float, depth: int
) -> Iterator[Curve]:
    """Draw a winding vessel and its branches; an angle of 0 points to the temple, ``bend`` is radians a radius."""
    pieces = max(int(length / STEP), 3)
    angles = angle + bend * STEP * np.arange(pieces) + np.cumsum(rng.normal(0, 0.07, pieces))
    points = start + STEP * np.cumsum(np.stack([np.sin(angles), np.cos(angles)], axis=1), axis=0)
    third = pieces // 3
    for part in range(3):  # thinner with the way
        yield points[part * third : (part + 1) * third + 1], width * (1 - 0.22 * part)
    if depth:
        for at in rng.integers(pieces // 6, pieces - 2, rng.integers(2, 5)):
            half = rng.choice([-1, 1])
            turned, reach = angles[at] + half * rng.uniform(0.4, 0.9), length * rng.uniform(0.3, 0.55)
            yield from _grow(rng, points[at], turned, reach, width * rng.uniform(0.5, 0.7), -half * 0.5, depth - 1)


def _add_lesion(
    rng: np.random.Generator, frame: _Frame, eye: _Eye, colour: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Add a lesion of a random place and size; return the picture and the lesion's mask."""
    y, x = frame.grid()
    if name == "large cup":
        row, column, size = eye.disc
        distance = np.hypot(y - row, x - column) / (size * rng.uniform(0.85, 1.0))
        share = soft_below(distance, 1, 0.3) * (1 - 0.6 * eye.vessels)
        return paint(colour, CUP, 0.95 * share[..., None]), distance < 1
    angle, reach = rng.choice([-1.8, -0.6, 0.6, 1.8]) + rng.normal(0, 0.15), rng.normal(0.45, 0.06)
    y, x = y - reach * np.sin(angle), x - reach * np.cos(angle)
    size = rng.uniform(0.18, 0.28)
    distance = blob_distance(rng, y, x, size)
    grain = smooth_noise(rng, frame.shape, 0.012)
    if name == "new vessels":
        place = np.array([reach * np.sin(angle), reach * np.cos(angle)])
        starts = place + rng.normal(0, 0.40 * size, (12, 2))
        turns = rng.uniform(-1, 1, (12, 2)) * (np.pi, 9)
        tangle = [
            curve
            for start, (turn, bend) in zip(starts, turns)
            for curve in _grow(rng, start, turn, 1.4 * size, 0.024, bend, 1)
        ]
        share = np.maximum(0.9 * frame.trace(tangle), 0.45 * np.exp(-0.5 * distance**2))
        return _bleed(colour, share), distance < 1
    if name == "haemorrhages":
        spots = soft_below(-grain, -1.7, 0.4) * soft_below(distance, 2, 0.3)
        share = np.maximum(soft_below(distance, 0.75, 0.2), spots)
        return _bleed(colour, 0.8 * share), share > 0.5
    if name == "exudates":
        share = soft_below(-grain - 1.4 * (1 - distance), -0.5, 0.6) * soft_below(distance, 1.3, 0.3)
        return paint(colour, EXUDATE, 0.75 * share[..., None]), share > 0.5
    share = np.zeros(frame.shape)
    for row, column in rng.normal(0, 0.8 * size, (rng.integers(3, 5), 2)):
        share = np.maximum(share, np.exp(-0.5 * blob_distance(rng, y - row, x - column, 0.4 * size) ** 3))
    return paint(colour, COTTON, 0.6 * share[..., None]), share > 0.5


def _acquire(rng: np.random.Generator, colour: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Take the picture: vignetting, blur, colour gains, noise and frame, all drawn alike for both classes; uint8."""
    side = len(colour)
    down, right = np.linspace(-1, 1, side)[:, None], np.linspace(-1.25, 1.25, colour.shape[1])[None]
    tilt_y, tilt_x = rng.normal(0, 0.05, 2)
    light = 1 - rng.uniform(0.20, 0.35) * (down**2 + right**2) + tilt_y * down + tilt_x * right
    blur = rng.uniform(0.3, 0.9) * side / 128
    image = ndimage.gaussian_filter(colour * light[..., None], (blur, blur, 0))
    red, green = rng.uniform(0.55, 0.75), rng.uniform(0.45, 0.60)
    levels = red * np.array([1, green, green * rng.uniform(0.32, 0.62)])
    image *= levels / image[field > 0.5].mean(axis=0)
    grain = np.stack([smooth_noise(rng, field.shape, 0.006) for _ in range(3)], axis=-1)
    image = np.clip(image, 0, 1) * field[..., None]
    return to_eight_bits(image + (0.004 + field[..., None] * rng.uniform(0.002, 0.018)) * grain)
