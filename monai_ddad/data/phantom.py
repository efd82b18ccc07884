"""Built-in synthetic data: drawn axial brain-like slices, some with lesions, for trying things out with no download."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from monai_ddad.data.resident import DataError
from monai_ddad.seeding import derive_seed

__all__ = ["draw_phantom", "write_phantom_dataset"]

logger = logging.getLogger(__name__)

VERSION = 2  # raised when the drawing changes, so that older folders are replaced
ABANDONED = 3600  # seconds after which an unfinished folder is nobody's
ANATOMY, LESION, ACQUISITION = range(3)  # random streams of one picture
KINDS = ("mass", "cyst", "ring", "oedema", "displacing")
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


def draw_phantom(seed: int, abnormal: bool, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Draw one synthetic axial head slice.

    Half of the pictures look like T1-weighted ones, half like T2-weighted ones. Anatomy (with the weighting), lesions
    and acquisition (gain, bias field, blur, noise) have random streams of their own, so the abnormal picture of a seed
    is its normal one with lesions added. The gain sets the mean brightness of the head to a level that is drawn alike
    for both classes.

    Args:
        seed: seed of the picture, a non-negative integer.
        abnormal: add one or two lesions, about 8 to 15 % of the side in radius.
        side: height and width, pixels, at least 32.

    Returns:
        (side, side) uint8 image and (side, side) bool mask of the lesions, all False for a normal picture.

    Raises:
        ValueError: ``side`` is below 32.

    Example:
        >>> image, mask = draw_phantom(0, abnormal=True, side=64)
        >>> image.shape, image.dtype, mask.dtype, bool(mask.any()), bool(draw_phantom(0, False, 64)[1].any())
        ((64, 64), dtype('uint8'), dtype('bool'), True, False)
    """
    if side < 32:
        raise ValueError(f"side must be at least 32 pixels, got {side}.")
    anatomy, lesion, acquisition = (
        np.random.default_rng(derive_seed(seed, stream)) for stream in (ANATOMY, LESION, ACQUISITION)
    )
    weighting = T2_LIKE if anatomy.random() < 0.5 else T1_LIKE
    tissue, radius = _draw_head(anatomy, side, weighting)
    mask = np.zeros((side, side), dtype=bool)
    if abnormal:
        for _ in range(1 + (lesion.random() < 0.3)):
            tissue, added = _add_lesion(lesion, tissue, radius, weighting)
            mask |= added
    return _acquire(acquisition, tissue, radius < 1), mask


def _smooth_noise(rng: np.random.Generator, side: int, scale: float) -> np.ndarray:
    """Draw (side, side) periodic Gaussian noise of mean 0 and variance 1, smooth over ``scale`` of the side."""
    frequencies = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side)[None] ** 2
    transfer = np.exp(-2 * (np.pi * scale * side) ** 2 * frequencies)
    transfer[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * transfer, s=(side, side))
    return noise / noise.std()


def _draw_head(rng: np.random.Generator, side: int, weighting: _Weighting) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head without noise: (side, side) brightness in [0, 1], and radius, 1 at the skin and 0 in the middle."""
    y, x = np.mgrid[0:side, 0:side] / (side / 2) - 1 + 1 / side
    x, y = x + rng.normal(0, 0.008), y + rng.normal(0, 0.008)
    angle = np.radians(rng.normal(0, 2))
    width, height = rng.normal(0.74, 0.015), rng.normal(0.90, 0.015)
    u = (np.cos(angle) * x + np.sin(angle) * y) / width
    v = (np.cos(angle) * y - np.sin(angle) * x) / height
    u *= 1 - rng.normal(0.10, 0.03) * v  # narrower at the forehead, which is up
    u, v = (axis + 0.004 * _smooth_noise(rng, side, 0.12) for axis in (u, v))
    pixel = 2 / side / width
    radius = np.hypot(u, v)

    def below(values: np.ndarray, limit: float | np.ndarray, edge: float = pixel) -> np.ndarray:
        """Tell softly, from 1 to 0 over ``edge``, where values are below the limit."""
        return np.clip((limit - values) / edge + 0.5, 0, 1)

    def paint(image: np.ndarray, brightness: float, share: np.ndarray) -> np.ndarray:
        return image + (brightness - image) * share

    # cortex: sulci run along the zero crossings of smooth noise, deepest at the surface, with grey matter beside them
    folds = np.abs(_smooth_noise(rng, side, rng.uniform(0.026, 0.036)))
    surface = 0.86
    depth = np.clip((surface - radius) / rng.uniform(0.22, 0.34), 0, 1)
    sulci = below(folds, 0.22 * (1 - depth) ** 1.2, 0.15) * (depth < 1)
    ribbon = np.maximum(below(folds, 0.2 + 0.8 * (1 - depth) ** 0.5, 0.2) * (depth < 1), below(surface - radius, 0.05))
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
    ganglia = below(np.hypot((across - 0.24) / 0.10, (v + 0.02) / 0.20), 1, 0.3)
    image = paint(image, weighting.grey, 0.85 * ganglia)
    size, middle = rng.lognormal(0, 0.2), rng.normal(-0.03, 0.02)
    reach = (v - middle) / rng.normal(0.36, 0.03)
    bow = 0.075 + 0.13 * np.clip(reach, 0, None) ** 2 + 0.06 * np.clip(-reach, 0, None) ** 2
    half = 0.05 * size * np.sqrt(np.clip(1 - reach**2, 0, None)) * (1 + 0.5 * reach**2)
    image = paint(image, weighting.csf, below(np.abs(across - bow), half) * (np.abs(reach) < 1))
    fissure = below(across, 0.014) * below(-np.abs(v), -0.42, 0.1) * below(radius, scalp)
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
    theta, distance = np.arctan2(y, x), np.hypot(y, x)
    outline = 1 + sum(rng.normal(0, 0.16 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    distance = distance / (size * np.clip(outline, 0.6, 1.5))  # 1 at the lesion's border
    kind = KINDS[rng.integers(len(KINDS))]
    contrast = rng.uniform(0.8, 1.0)
    inside = np.clip((1 - distance) * size / 2 + 0.5, 0, 1)
    brain = radius < 0.84
    mask = (distance < 1) & brain
    push = {"mass": 0.3, "cyst": 0.3, "ring": 0.4, "oedema": 0.0, "displacing": 0.8}[kind]
    pushed = tissue
    if push:  # what lay inside is squeezed out around the lesion, less with distance
        pulled = 1 - push * np.exp(-0.5 * distance**2)
        pushed = ndimage.map_coordinates(tissue, [row + y * pulled, column + x * pulled], order=1, mode="nearest")
    texture = 0.06 * _smooth_noise(rng, side, 0.02)
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
    grain = [_smooth_noise(rng, side, 0.008) for _ in range(2)]
    noisy = np.hypot(image + level * grain[0], level * grain[1])  # magnitude picture: Rician noise
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def write_phantom_dataset(
    folder: str | os.PathLike[str],
    seed: int = 0,
    normal: int = 256,
    unlabeled: int = 256,
    abnormal_rate: float = 0.6,
    test: int = 100,
    side: int = 128,
) -> Path:
    """Write a synthetic data set in the authors' structure, whole or not at all.

    The folder gets ``images/``, ``masks/`` (0 or 255, abnormal images alone, same names), ``data.json`` and
    ``phantom.json`` with the parameters. One that was written with the same parameters is kept as it is, one with
    others is replaced.

    Args:
        folder: where to write.
        seed: seed of all images, a non-negative integer.
        normal: number of known normal training images.
        unlabeled: number of unlabelled training images.
        abnormal_rate: share of abnormal images among the unlabelled, ``int(unlabeled * abnormal_rate)`` of them.
        test: number of test images of each class.
        side: height and width of the images, pixels.

    Returns:
        the folder.

    Raises:
        ValueError: a negative count, or a rate outside [0, 1].
        DataError: the folder holds something that this function did not write.

    Example:
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = write_phantom_dataset(Path(root) / "phantom", normal=2, unlabeled=2, test=1, side=32)
        ...     sorted(path.name for path in folder.iterdir())
        ['data.json', 'images', 'masks', 'phantom.json']
    """
    if min(normal, unlabeled, test) < 0 or not 0 <= abnormal_rate <= 1:
        raise ValueError(
            f"counts must not be negative and abnormal_rate must be in [0, 1], got normal={normal}, "
            f"unlabeled={unlabeled}, test={test}, abnormal_rate={abnormal_rate}."
        )
    folder = Path(folder).expanduser()
    abnormal = int(unlabeled * abnormal_rate)
    counts = [normal, unlabeled - abnormal, abnormal, test, test]
    parameters = {"version": VERSION, "seed": seed, "counts": counts, "side": side}
    logger.warning("The phantom images are SYNTHETIC: results on them say nothing about patients.")
    if _parameters_of(folder) == parameters:
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / "phantom.json").is_file():
        raise DataError("the folder for the synthetic images holds other files: give another --output_dir.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-phantom-"
    for leftover in folder.parent.glob(f"{glob.escape(prefix)}*"):  # of a run that was killed while it drew
        if time.time() - leftover.stat().st_mtime > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True)
    built = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    retired = built.with_name(f"{built.name}-old")
    try:
        _write_files(built, seed, counts, side)
        (built / "phantom.json").write_text(json.dumps(parameters, indent=1))
        built.chmod(0o755)
        if folder.exists():  # renamed first: a kill while it is being removed must not leave half of it in place
            os.replace(folder, retired)
        os.replace(built, folder)
    finally:
        for leftover in (built, retired):
            shutil.rmtree(leftover, ignore_errors=True)
    return folder


def _parameters_of(folder: Path) -> dict[str, Any] | None:
    """Read the parameters that a folder was written with; None if it is none of ours or damaged."""
    try:
        return json.loads((folder / "phantom.json").read_text()) if (folder / "data.json").is_file() else None
    except (OSError, ValueError):
        return None


def _write_files(folder: Path, seed: int, counts: list[int], side: int) -> None:
    """Draw and write all images and masks, then ``data.json``."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    groups = [("normal", False), ("unlabeled", False), ("unlabeled", True), ("test", False), ("test", True)]
    lists: list[list[str]] = []
    for index, ((group, abnormal), count) in enumerate(zip(groups, counts)):
        names = [f"{group}_{int(abnormal)}_{number:04d}.png" for number in range(count)]
        for number, name in enumerate(names):
            image, mask = draw_phantom(derive_seed(seed, index, number), abnormal, side)
            Image.fromarray(image).save(folder / "images" / name)
            if abnormal:
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
        lists.append(names)
    known, pool_normal, pool_abnormal, test_normal, test_abnormal = lists
    data = {
        "train": {"0": known, "unlabeled": {"0": pool_normal, "1": pool_abnormal}},
        "test": {"0": test_normal, "1": test_abnormal},
    }
    (folder / "data.json").write_text(json.dumps(data))
