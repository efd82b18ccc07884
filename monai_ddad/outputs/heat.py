"""Anomaly maps on the grid of the picture or volume that they are of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.transforms import AxialSlices, picture_to_slice, slice_to_picture, slices_to_volume

__all__ = ["HeatMap", "restore_map"]


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


def restore_map(
    dataset: ResidentDataset,
    reading: Callable[[dict[str, Any]], dict[str, Any]],
    position: int,
    images: torch.Tensor,
    maps: Sequence[torch.Tensor],
) -> HeatMap:
    """Put the map of a picture, or the maps of a volume's slices, back on the grid of the file.

    Args:
        dataset: the images, with an invertible transform.
        reading: the transform that reads an item, the first step of the data set's own.
        position: of the item in the data set's list.
        images: (n, C, h, w) uint8, the item's prepared images.
        maps: (1, h, w) of each of them, in their order.

    Raises:
        ImageReadError: the file, which is read again for its grid, cannot be read any more, or has changed.
    """
    item = reading(dataset.data[position])
    prepared = dataset.prepare_again(item, images)
    restored = [dataset.restore(part["image"], values) for part, values in zip(prepared, maps)]
    image: MetaTensor = item["image"]
    if image.ndim == 3:
        return HeatMap(restored[0], None, image, restored[0], None)
    if "slice" not in prepared[0]["image"].meta:
        values = picture_to_slice(restored[0], image.affine, image.shape[1:])
        return HeatMap(values, image.affine.numpy(), slice_to_picture(image), restored[0], None)
    slices = {int(part["image"].meta["slice"]): heat for part, heat in zip(prepared, restored)}
    affine = image.affine.numpy()
    volume = slices_to_volume(slices, affine, image.shape[1:])
    highest = list(slices)[int(np.argmax([values.mean().item() for values in maps]))]
    picture = AxialSlices(min_area=0, height=math.inf)(image)[highest]
    return HeatMap(volume, affine, picture, slices[highest], highest)
