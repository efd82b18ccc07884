"""Built-in synthetic data: drawn pictures, some with lesions, for trying things out with no download."""

from __future__ import annotations

import glob
import io
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from monai_ddad.data.phantom.brain import draw_brain
from monai_ddad.data.phantom.chest import draw_chest
from monai_ddad.data.phantom.drawing import Picture, Streams
from monai_ddad.data.phantom.fundus import draw_fundus
from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import private_folder
from monai_ddad.seeding import derive_seed

__all__ = ["PhantomKind", "draw_phantom", "write_phantom_dataset"]

logger = logging.getLogger(__name__)

PhantomKind = Literal["brain", "chest", "fundus"]

VERSION = 2  # raised when a drawing changes, so that older folders are replaced
ABANDONED = 3600  # seconds after which an unfinished folder is nobody's
MIN_SIDE = 32
DRAWERS: dict[str, Callable[[Streams, bool, int], Picture]] = {
    "brain": draw_brain,
    "chest": draw_chest,
    "fundus": draw_fundus,
}


def draw_phantom(seed: int, abnormal: bool, side: int = 128, kind: PhantomKind = "brain") -> Picture:
    """Draw one synthetic picture: an axial head slice, a frontal chest film or a fundus photograph.

    Anatomy, lesions and acquisition (exposure, blur, noise) have random streams of their own, so the abnormal picture
    of a seed is its normal one with lesions added. Brightness is drawn alike for both classes.

    Args:
        seed: seed of the picture, a non-negative integer.
        abnormal: add lesions; the largest are about 8 to 15 % of the side in radius.
        side: height of the picture, pixels, at least 32.
        kind: ``"brain"``, (side, side) grey; ``"chest"``, (side, .88 to 1.17 side) grey; or ``"fundus"``,
            (side, 1.25 side, 3) RGB.

    Returns:
        uint8 image, and (rows, columns) bool mask of the lesions, all False for a normal picture.

    Raises:
        ValueError: ``side`` is below 32, or another kind.

    Example:
        >>> image, mask = draw_phantom(0, abnormal=True, side=64)
        >>> image.shape, image.dtype, mask.dtype, bool(mask.any()), bool(draw_phantom(0, False, 64)[1].any())
        ((64, 64), dtype('uint8'), dtype('bool'), True, False)
        >>> draw_phantom(0, abnormal=False, side=64, kind="fundus")[0].shape
        (64, 80, 3)
    """
    _check_drawing(side, kind)
    streams = Streams(*(np.random.default_rng(derive_seed(seed, stream)) for stream in range(len(Streams._fields))))
    return DRAWERS[kind](streams, abnormal, side)


def _check_drawing(side: int, kind: str) -> None:
    """Raise for a kind or a side that nothing is drawn for."""
    if kind not in DRAWERS:
        raise ValueError(f"kind must be one of {', '.join(DRAWERS)}, got {kind!r}.")
    if side < MIN_SIDE:
        raise ValueError(f"side must be at least {MIN_SIDE} pixels, got {side}.")


def write_phantom_dataset(
    folder: str | os.PathLike[str],
    kind: PhantomKind = "brain",
    seed: int = 0,
    normal: int = 288,
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
        kind: what to draw: ``"brain"``, ``"chest"`` or ``"fundus"``; see :func:`draw_phantom`.
        seed: seed of all images, a non-negative integer.
        normal: number of known normal training images.
        unlabeled: number of unlabelled training images.
        abnormal_rate: share of abnormal images among the unlabelled, ``int(unlabeled * abnormal_rate)`` of them.
        test: number of test images of each class.
        side: height of the images, pixels, at least 32.

    Returns:
        the folder.

    Raises:
        ValueError: a negative count, a rate outside [0, 1], a side below 32, or another kind.
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
    _check_drawing(side, kind)
    folder = Path(os.path.expanduser(folder))
    abnormal = int(unlabeled * abnormal_rate)
    counts = [normal, unlabeled - abnormal, abnormal, test, test]
    parameters = {"version": VERSION, "kind": kind, "seed": seed, "counts": counts, "side": side}
    logger.warning("The phantom images are SYNTHETIC: results on them say nothing about patients.")
    if _parameters_of(folder) == parameters:
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / "phantom.json").is_file():
        raise DataError("the folder for the synthetic images holds other files: give another --output_dir.")
    private_folder(folder.parent)
    prefix = f".{folder.name}-phantom-"
    for leftover in folder.parent.glob(f"{glob.escape(prefix)}*"):  # of a run that was killed while it drew
        if time.time() - leftover.stat().st_mtime > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True)
    built = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    retired = built.with_name(f"{built.name}-old")
    try:
        _write_files(built, kind, seed, counts, side)
        _write(built / "phantom.json", json.dumps(parameters, indent=1).encode())
        if _parameters_of(folder) == parameters:  # another process has drawn the same meanwhile, and may be reading it
            return folder
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


def _write_files(folder: Path, kind: PhantomKind, seed: int, counts: list[int], side: int) -> None:
    """Draw and write all images and masks, then ``data.json``."""
    for name in ("images", "masks"):
        private_folder(folder / name)
    groups = [("normal", False), ("unlabeled", False), ("unlabeled", True), ("test", False), ("test", True)]
    lists: list[list[str]] = []
    for index, ((group, abnormal), count) in enumerate(zip(groups, counts)):
        names = [f"{group}_{int(abnormal)}_{number:04d}.png" for number in range(count)]
        for number, name in enumerate(names):
            image, mask = draw_phantom(derive_seed(seed, index, number), abnormal, side, kind)
            _write(folder / "images" / name, _png(image))
            if abnormal:
                _write(folder / "masks" / name, _png(mask.astype(np.uint8) * 255))
        lists.append(names)
    known, pool_normal, pool_abnormal, test_normal, test_abnormal = lists
    data = {
        "train": {"0": known, "unlabeled": {"0": pool_normal, "1": pool_abnormal}},
        "test": {"0": test_normal, "1": test_abnormal},
    }
    _write(folder / "data.json", json.dumps(data).encode())


def _png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(picture := io.BytesIO(), "PNG")
    return picture.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a new file that the user alone may read; the folder gets its name when it is whole, so this need not."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
