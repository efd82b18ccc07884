"""Anomaly maps on the grid of the picture or volume that they are of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ddad.data.items import BatchItem
from monai_ddad.transforms import AxialSlices, picture_to_slice, slice_to_picture, slices_to_volume

__all__ = ["HeatMap", "restore_map", "restore_values"]


@dataclass(frozen=True)
class HeatMap:
    """One anomaly map of an item.

    Attributes:
        values: float32, (rows, columns) of a picture or (I, J, K) of a volume, 0 in slices that are not scored; a film
            in a file for volumes counts as one here.
        affine: (4, 4) of a volume in RAS+ millimetres; None of a picture.
        picture: (C, rows, columns) float in [0, 1], the picture, or the slice with the highest mean.
        picture_values: (rows, columns), the map of that picture.
        slice: number of that slice; None of a picture and of a film.
    """

    values: np.ndarray
    affine: np.ndarray | None
    picture: torch.Tensor
    picture_values: np.ndarray
    slice: int | None

    def image(self) -> Image.Image:
        """Return the picture, or the slice with the highest mean, as 8-bit grey or RGB image."""
        pixels = np.rint(255 * np.asarray(self.picture)).astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    @property
    def grid(self) -> np.ndarray:
        """(4, 4) affine of :meth:`nifti`, RAS+ millimetres: of a picture columns to the left and rows to the back.

        That is where ITK and 3D Slicer put a picture that does not say where it lies, with its first pixel's centre as
        origin. A pixel is 1 mm where the file does not say.
        """
        if self.affine is not None:
            return self.affine
        meta = self.picture.meta if isinstance(self.picture, MetaTensor) else {}
        rows, columns = meta.get("pixel_size") or (1.0, 1.0)
        return np.diag([-columns, -rows, 1.0, 1.0])

    def voxels(self, values: np.ndarray | None = None) -> np.ndarray:
        """Return the map as (I, J, K); of a picture the first axis goes along the columns, the second along the rows.

        Args:
            values: what to return in its place, of its shape.
        """
        shown = self.values if values is None else values
        return shown.T[..., None] if self.affine is None else shown

    def nifti(self, values: np.ndarray | None = None, grid: np.ndarray | None = None) -> nib.Nifti1Image:
        """Return the map as NIfTI.

        Args:
            values: see :meth:`voxels`.
            grid: (4, 4) affine in place of :attr:`grid`.
        """
        image = nib.Nifti1Image(self.voxels(values), self.grid if grid is None else grid)
        image.header.set_xyzt_units("mm")
        return image


def restore_map(item: BatchItem, maps: torch.Tensor, transform: Any) -> HeatMap:
    """Put the map of a picture, or the maps of a volume's slices, back on the grid of the file.

    Args:
        item: the picture or volume, with the image as it was read.
        maps: (n, h, w) of its images, in their order.
        transform: the invertible one that prepared it.

    Raises:
        ValueError: the image as it was read was not kept.
    """
    image = item.source
    if image is None:
        raise ValueError("the image as it was read is not in the batch: prepare it by KeepSource.")
    restored = [restore_values(values, done, transform) for values, done in zip(maps, item.operations)]
    if image.ndim == 3:
        return HeatMap(restored[0], None, image, restored[0], None)
    affine = image.affine.numpy()
    if not item.is_volume:
        values = picture_to_slice(restored[0], image.affine, image.shape[1:])
        return HeatMap(values, affine, slice_to_picture(image), restored[0], None)
    slices = dict(zip(item.slices, restored))
    volume = slices_to_volume(slices, affine, image.shape[1:])
    highest = item.slices[int(maps.mean(dim=(1, 2)).argmax())]
    picture = AxialSlices(min_area=0, height=math.inf)(image)[highest]
    return HeatMap(volume, affine, picture, slices[highest], highest)


def restore_values(values: torch.Tensor, operations: Sequence[Any], transform: Any) -> np.ndarray:
    """Put an (h, w) map of a prepared image back on the (H, W) grid of the picture that it was made of.

    Args:
        values: the map.
        operations: what the image went through, see :class:`monai_ddad.data.BatchItem`.
        transform: the invertible one that prepared it.
    """
    maps = MetaTensor(values[None], applied_operations=list(operations))
    return np.asarray(transform.inverse({"image": maps})["image"][0])
