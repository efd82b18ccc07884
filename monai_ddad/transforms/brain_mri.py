"""Brain MRI: volumes to axial slices, and slices to the network's square."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage
from skimage.filters import threshold_otsu

from monai_ddad.transforms.resample import Box, SquareTransform, SquareTransformd, square_around

__all__ = ["AxialSlices", "AxialSlicesd", "BrainSlice", "BrainSliced", "head_mask", "slices_to_volume"]

DISPLAY = ("S", "P", "L")  # slices upwards, rows to the back, columns to the patient's left: the radiological view

COARSE = 128  # pixels of the shorter side at which the head is looked for
DIM = 0.08  # of the bright tissue's brightness: what is darker is air
TOP = 0.05  # area of the highest slice that counts as head, as a share of the largest
GAP = 4  # pixels: gaps in the outline of the head of up to twice that are closed


def head_mask(picture: np.ndarray) -> np.ndarray:
    """Find the head in a slice: the largest region that is not air, with its gaps and holes filled.

    Args:
        picture: (H, W) float in [0, 1], dark around the head.

    Returns:
        (H, W) bool; empty if the picture is constant.

    Example:
        >>> picture = np.zeros((20, 20))
        >>> picture[4:12, 6:16] = 0.5
        >>> int(head_mask(picture).sum())
        80
    """
    if picture.min() == picture.max():
        return np.zeros(picture.shape, dtype=bool)
    step = max(1, min(picture.shape) // COARSE)
    coarse = ndimage.uniform_filter(picture, step)[::step, ::step] if step > 1 else picture
    threshold = min(threshold_otsu(coarse) / 2, DIM * np.percentile(coarse, 99))
    bright = ndimage.binary_opening(coarse > threshold, np.ones((3, 3)))  # without thin frames and letters
    closed = ndimage.binary_closing(np.pad(bright, GAP), iterations=GAP)[GAP:-GAP, GAP:-GAP]
    parts, count = ndimage.label(ndimage.binary_fill_holes(closed | bright))
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else bright
    return largest.repeat(step, axis=0).repeat(step, axis=1)[: picture.shape[0], : picture.shape[1]]


class AxialSlices(Transform):
    """Split a volume into axial slices as a radiologist sees them; a picture stays as it is.

    The volume's axes are put in the order and direction closest to superior, posterior, left; nothing is interpolated.
    Slices that hold little of the head are left out, and those too far below its top to hold brain.

    Args:
        min_area: smallest area of the head in a slice, as a share of the largest one.
        height: how far below the top of the head a slice may lie, mm.

    Raises:
        ValueError: ``min_area`` is not in [0, 1], or ``height`` is not above 0.

    Example:
        >>> volume = MetaTensor(torch.ones(1, 6, 8, 4), affine=torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0])))
        >>> slices = AxialSlices()(volume)
        >>> len(slices), slices[0].shape, slices[0].meta["slice"], slices[0].meta["pixel_size"]
        (4, torch.Size([1, 8, 6]), 0, [2.0, 1.0])
    """

    def __init__(self, min_area: float = 0.3, height: float = 140.0) -> None:
        if not 0 <= min_area <= 1 or height <= 0:
            raise ValueError(f"min_area must be in [0, 1] and height above 0 mm, got {min_area} and {height}.")
        self.min_area = min_area
        self.height = height

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Split one volume.

        Args:
            image: (C, I, J, K) MetaTensor with its affine (RAS+, mm), or a (C, H, W) picture.

        Returns:
            (C, H, W) slices, from the lowest up, each with ``"slice"`` (its number among all slices) and
            ``"pixel_size"`` (mm) in its metadata; or the picture alone.
        """
        if image.ndim == 3:
            return [image]
        assert isinstance(image, MetaTensor)
        there = _to_display(image.affine)
        stack = np.stack([nib.orientations.apply_orientation(channel, there) for channel in image.numpy()], axis=1)
        meta = {key: value for key, value in image.meta.items() if key != "affine"}
        thickness, *meta["pixel_size"] = _voxel_size(image.affine)
        areas = np.array([head_mask(picture.mean(axis=0)).sum() for picture in stack])
        top = np.flatnonzero(areas >= TOP * areas.max())[-1]
        near = (top - np.arange(len(stack))) * thickness <= self.height
        chosen = np.flatnonzero(near & (areas >= self.min_area * areas.max()))
        return [
            MetaTensor(torch.from_numpy(np.ascontiguousarray(stack[k])), meta=meta | {"slice": int(k)}) for k in chosen
        ]


class AxialSlicesd(MapTransform):
    """Dictionary form of :class:`AxialSlices`: one item in, a list of items out, one a slice.

    Args:
        keys: key of the volume; one alone.
        min_area, height: see :class:`AxialSlices`.
        allow_missing_keys: don't raise an error if the key is missing.

    Example:
        >>> len(AxialSlicesd("image")({"image": MetaTensor(torch.ones(1, 6, 8, 4)), "label": 0}))
        4
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_area: float = 0.3,
        height: float = 140.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.split = AxialSlices(min_area, height)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Split the volume of one item."""
        items = [dict(data)]
        for key in self.key_iterator(items[0]):
            items = [{**item, key: picture} for item in items for picture in self.split(item[key])]
        return items


def slices_to_volume(slices: Mapping[int, np.ndarray], affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Put maps of axial slices back on the grid of the volume that :class:`AxialSlices` split.

    Args:
        slices: (H, W) map by slice number.
        affine: (4, 4) of the volume, RAS+, mm.
        shape: (I, J, K) of the volume.

    Returns:
        (I, J, K) float32, 0 where there is no slice.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 6, 8, 4), affine=torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])))
        >>> slices = {s.meta["slice"]: s[0].numpy() for s in AxialSlices(min_area=0)(volume)}
        >>> bool((slices_to_volume(slices, volume.affine.numpy(), (6, 8, 4)) == volume[0].numpy()).all())
        True
    """
    there = _to_display(affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(DISPLAY), nib.io_orientation(affine))
    stack = np.zeros([shape[int(axis)] for axis in np.argsort(there[:, 0])], dtype=np.float32)
    for k, picture in slices.items():
        stack[k] = picture
    return nib.orientations.apply_orientation(stack, back)


def _to_display(affine: Any) -> np.ndarray:
    """Return the reordering and flips from a volume's own axes to :data:`DISPLAY`."""
    start = nib.io_orientation(np.asarray(affine))
    return nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(DISPLAY))


def _voxel_size(affine: Any) -> tuple[float, ...]:
    """Return the distance of the slices and the height and width of their pixels, mm."""
    sizes = nib.affines.voxel_sizes(np.asarray(affine))
    return tuple(float(sizes[axis]) for axis in np.argsort(_to_display(affine)[:, 0]))


class BrainSlice(SquareTransform):
    """Crop a slice to the head, keep the aspect ratio, and standardise the head's brightness.

    The brightness of the head is clipped to its 0.5th to 99.5th percentile and scaled so that its mean becomes the
    middle of [0, 1] and ``deviations`` standard deviations reach the ends; around the head all is black.

    Args:
        image_size: side of the square, pixels.
        deviations: half of the range in standard deviations.
        margin: room around the head, as a share of its size.

    Raises:
        ValueError: ``deviations`` is not above 0, or ``margin`` is negative.

    Example:
        >>> picture = torch.zeros(1, 40, 40)
        >>> picture[:, 10:30, 15:25] = torch.linspace(0.5, 0.7, 10)
        >>> square = BrainSlice(16)(picture)
        >>> square.shape, round(square.max().item(), 2)
        (torch.Size([1, 16, 16]), 0.74)
    """

    def __init__(self, image_size: int = 64, deviations: float = 3.0, margin: float = 0.02) -> None:
        super().__init__(image_size)
        if deviations <= 0 or margin < 0:
            raise ValueError(f"deviations must be above 0 and margin at least 0, got {deviations} and {margin}.")
        self.deviations = deviations
        self.margin = margin

    def prepare(self, picture: np.ndarray, pixel_size: tuple[float, float] | None) -> tuple[np.ndarray, Box]:
        """Standardise and find the head."""
        head = head_mask(picture.mean(axis=0))
        if not head.any():
            return picture, square_around(head, pixel_size)
        inside = picture[:, head]
        clipped = np.clip(picture, *np.percentile(inside, (0.5, 99.5)))
        spread = max(float(clipped[:, head].std()), 1e-6)
        scaled = 0.5 + (clipped - clipped[:, head].mean()) / (2 * self.deviations * spread)
        scaled = np.clip(scaled, 0, 1) * head
        return scaled.astype(np.float32), square_around(head, pixel_size, self.margin)


class BrainSliced(SquareTransformd):
    """Dictionary form of :class:`BrainSlice`."""

    array_form = BrainSlice
