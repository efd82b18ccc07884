"""One-slice volumes as pictures: how a viewer sends a film, and back."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from monai_ddad.transforms.read import ImageReadError

__all__ = ["picture_to_slice", "slice_to_picture"]

VIEWS = (("R", "I", "P"), ("A", "I", "L"), ("S", "P", "L"))  # slice, rows, columns, by the axis across the slice
UNPLACED = np.diag([-1.0, -1.0, 1.0, 1.0])  # where ITK puts a picture


def slice_to_picture(volume: MetaTensor) -> MetaTensor:
    """Turn a volume of one slice into a picture, the way round that a radiologist sees it.

    An identity affine counts as none: then columns go along the first axis that is longer than 1, rows along the
    second.

    Args:
        volume: (C, I, J, K) with its affine (RAS+, mm), one of I, J and K is 1.

    Returns:
        (C, H, W) with ``"pixel_size"`` (mm) in its metadata.

    Raises:
        ImageReadError: there are several slices.

    Example:
        >>> film = torch.rand(1, 40, 30, 1)
        >>> picture = slice_to_picture(MetaTensor(film, affine=torch.diag(torch.tensor([-0.2, -0.3, 1.0, 1.0]))))
        >>> bool((picture[0] == film[0, :, :, 0].T).all()), [round(size, 3) for size in picture.meta["pixel_size"]]
        (True, [0.3, 0.2])
    """
    there = _to_view(volume.affine, volume.shape[1:])
    turned = np.stack([nib.orientations.apply_orientation(channel, there)[0] for channel in volume.numpy()])
    sizes = nib.affines.voxel_sizes(np.asarray(volume.affine))
    rows, columns = (float(sizes[axis]) for axis in np.argsort(there[:, 0])[1:])
    meta: dict[str, Any] = {key: value for key, value in volume.meta.items() if key != "affine"}
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(turned)), meta=meta | {"pixel_size": (rows, columns)})


def picture_to_slice(values: np.ndarray, affine: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Put values of a picture back on the grid of the volume that :func:`slice_to_picture` turned.

    Args:
        values: (H, W).
        affine: (4, 4) of the volume.
        shape: (I, J, K) of the volume.

    Returns:
        (I, J, K).

    Example:
        >>> film = MetaTensor(torch.rand(1, 1, 40, 30), affine=torch.diag(torch.tensor([1.0, -2.0, 3.0, 1.0])))
        >>> picture = slice_to_picture(film)
        >>> bool((picture_to_slice(picture[0].numpy(), film.affine, (1, 40, 30)) == film[0].numpy()).all())
        True
    """
    there = _to_view(affine, shape)
    back = np.empty_like(there)
    for axis, (target, flip) in enumerate(there):
        back[int(target)] = axis, flip
    return np.ascontiguousarray(nib.orientations.apply_orientation(values[None], back))


def _to_view(affine: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the reordering and flips from the axes of a volume to (slice, rows, columns)."""
    flat = [axis for axis, side in enumerate(shape) if side == 1]
    if len(flat) != 1:
        raise ImageReadError("a volume or a series of frames, where single pictures are expected")
    affine = np.asarray(affine)
    if np.array_equal(affine, np.eye(4)):
        affine = UNPLACED if flat[0] == 2 else UNPLACED[:, [*np.roll([0, 1, 2], flat[0] + 1), 3]]
    start = nib.io_orientation(affine)
    across = int(start[flat[0], 0])
    return nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(VIEWS[across]))
