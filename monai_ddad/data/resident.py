"""Images decoded once and kept in memory as 8-bit tensors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from monai_ddad.data.empty_label import is_empty_label
from monai_ddad.files import LeftOut
from monai_ddad.machine import available_cores
from monai_ddad.transforms.eight_bit import normalise
from monai_ddad.transforms.formats.quiet import quiet
from monai_ddad.transforms.read import ImageReadError

__all__ = ["DataError", "ResidentDataset", "normalise"]


class DataError(ValueError):
    """A data list that cannot be used; the message names positions in the list, never paths."""


class ResidentDataset(Dataset):
    """Dataset whose images are read and prepared once, in parallel, and kept as uint8.

    One item of the list gives one image, or several if the transform splits it (a volume into slices). An item that
    cannot be read gives none and does not stop the others: it is kept in :attr:`errors`, which
    :func:`monai_ddad.data.audit` reports.

    Args:
        data: MONAI datalist, items ``{"image": path, "label": 0 | 1 | None}``; a missing label counts as None.
        transform: maps an item to one whose ``"image"`` is a (C, H, W) float tensor in [-1, 1] of a fixed shape, as the
            network takes it, or to a list of such items, whose images may say their ``"slice"`` in their metadata.
        num_workers: reading threads; None takes one a core.
        marked: label of an item whose ``"label"`` is the path of an annotation, as MONAI Label gives it, that is not
            empty, or cannot be read; an empty one is label 0.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: list of 0 (normal), 1 (abnormal) or None (unlabelled), one an image.
        positions: position in ``data`` of the item that each image is of.
        slices: number of each image among the slices of its volume; None for a picture.
        errors: position in ``data`` -> what is wrong with the file.
        left_out: entries of the folders of ``data`` that are no images, by reason, where it says so.
        lost: the same of items that were prepared, and whose file went, changed or became unreadable afterwards.

    Example:
        >>> items = [{"image": value, "label": 0} for value in (-1.0, 1.0)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 8, 8), item["image"])})
        >>> data.images.shape, data[1]["image"].mean().item(), data[1]["label"]
        (torch.Size([2, 1, 8, 8]), 1.0, 0)
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any] | list[dict[str, Any]]],
        num_workers: int | None = None,
        marked: int | None = 1,
    ) -> None:
        self.data = [
            item | {"label": 0 if _is_normal(item["label"]) else marked} if isinstance(item.get("label"), str) else item
            for item in data
        ]
        self.left_out = LeftOut(getattr(data, "left_out", {}))
        self.transform = transform
        self.errors: dict[int, str] = {}
        self.lost: dict[int, str] = {}

        with quiet, ThreadPoolExecutor(num_workers or available_cores()) as pool:  # once, as it takes longer than a PNG
            prepared = list(pool.map(self._prepare, range(len(self.data))))
        self.positions = [position for position, images in enumerate(prepared) for _ in images]
        self.labels: list[int | None] = [self.data[position].get("label") for position in self.positions]
        self.slices = [number for images in prepared for number, _ in images]
        pixels = [image for images in prepared for _, image in images]
        self.images = torch.stack(pixels) if pixels else torch.zeros((0, 0, 0, 0), dtype=torch.uint8)

    def _prepare(self, position: int) -> list[tuple[int | None, torch.Tensor]]:
        """Read one item: slice numbers and uint8 images, none if it cannot be read."""
        try:
            prepared = self.prepare(self.data[position])
        except ImageReadError as error:
            self.errors[position] = str(error)
            return []
        return [(getattr(item["image"], "meta", {}).get("slice"), _pixels(item)) for item in prepared]

    def prepare(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """Apply the transform to an item; a picture gives one image, a volume one a slice.

        Raises:
            ImageReadError: it cannot be read.
        """
        try:
            prepared = self.transform(item)
        except (ImageReadError, OSError, RuntimeError) as error:
            reason: BaseException = error
            while reason.__cause__ is not None:  # MONAI's Compose wraps it
                reason = reason.__cause__
            if isinstance(reason, OSError):
                reason = ImageReadError(f"the file cannot be read ({type(reason).__name__})")
            if not isinstance(reason, ImageReadError):
                raise
            raise reason from None
        return [prepared] if isinstance(prepared, dict) else prepared

    def prepare_again(self, item: dict[str, Any], images: torch.Tensor) -> list[dict[str, Any]]:
        """Prepare an item a second time, for its geometry.

        Args:
            item: what it is prepared from.
            images: (n, C, H, W) uint8, its images as they were first.

        Raises:
            ImageReadError: it cannot be read any more, or its pixels are others than before.
        """
        prepared = self.prepare(item)
        if len(prepared) != len(images) or not all(
            torch.equal(_pixels(part), image) for part, image in zip(prepared, images)
        ):
            raise ImageReadError("the file has changed since it was scored")
        return prepared

    def restore(self, prepared: MetaTensor, values: torch.Tensor) -> np.ndarray:
        """Put a (1, h, w) map of a prepared image back on the (H, W) grid of the picture that it was made of."""
        maps = MetaTensor(values, applied_operations=list(prepared.applied_operations))
        transform: Any = self.transform
        return np.asarray(transform.inverse({"image": maps})["image"][0])

    def subset(self, indices: Sequence[int]) -> ResidentDataset:
        """Return a dataset of some of the images, with the same ``data``, so that positions keep their meaning."""
        part = copy.copy(self)
        part.positions = [self.positions[index] for index in indices]
        part.labels = [self.labels[index] for index in indices]
        part.slices = [self.slices[index] for index in indices]
        part.images = self.images[torch.tensor(indices, dtype=torch.long)]
        return part

    @property
    def sha256(self) -> str:
        """Hash of the images and labels, in their order."""
        return hashlib.sha256(self.images.numpy().tobytes() + str(self.labels).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``{"image": (C, H, W) float32 in [-1, 1], "index": int, "label": int}``; label -1 is unlabelled."""
        label = self.labels[index]
        return {"image": normalise(self.images[index]), "index": index, "label": -1 if label is None else label}


def _is_normal(label: str) -> bool:
    try:
        return is_empty_label(label)
    except ImageReadError:
        return False


def _eight_bits(image: torch.Tensor) -> torch.Tensor:
    """Undo :func:`normalise`."""
    low, high = image.aminmax()
    if low < -1.001 or high > 1.001:
        raise ValueError(f"the transform must give images in [-1, 1], got values from {low:g} to {high:g}.")
    return image.add(1).mul(127.5).round().to(torch.uint8)


def _pixels(item: dict[str, Any]) -> torch.Tensor:
    """Return the image of a prepared item as uint8."""
    return _eight_bits(convert_to_tensor(item["image"]))
