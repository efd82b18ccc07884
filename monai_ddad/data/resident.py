"""Images decoded once and kept in memory as 8-bit tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import Dataset

from monai_ddad.transforms.read import ImageReadError

__all__ = ["DataError", "ResidentDataset", "normalise"]


class DataError(ValueError):
    """A data list that cannot be used; the message names positions in the list, never paths."""


def normalise(image: torch.Tensor) -> torch.Tensor:
    """Map 8-bit values to [-1, 1].

    Args:
        image: uint8 tensor of any shape.

    Returns:
        float32 tensor of that shape, ``2 u / 255 - 1``.

    Source: method.md section 1 (ToTensor, then Normalize with mean .5 and standard deviation .5).

    Example:
        >>> normalise(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    return image.float().div(255).sub(0.5).div(0.5)


class ResidentDataset(Dataset):
    """Dataset whose images are decoded once, in parallel, and kept as uint8.

    An item that cannot be read does not stop the others: it is kept in :attr:`errors`, which
    :func:`monai_ddad.data.audit` reports, and raises when it is accessed.

    Args:
        data: MONAI datalist, items ``{"image": path, "label": 0 | 1 | None}``; a missing label counts as None.
        transform: maps an item to one whose ``"image"`` is a (C, H, W) uint8 tensor of a fixed shape.
        num_workers: decoding threads; None takes one a core.

    Attributes:
        images: (N, C, H, W) uint8; zeros where an item could not be read.
        labels: list of 0 (normal), 1 (abnormal) or None (unlabelled).
        errors: position in the list -> what is wrong with the file.

    Example:
        >>> items = [{"image": value, "label": 0} for value in (0, 255)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 8, 8), item["image"])})
        >>> data.images.shape, data[1]["image"].mean().item(), data[1]["label"]
        (torch.Size([2, 1, 8, 8]), 1.0, 0)
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        num_workers: int | None = None,
    ) -> None:
        self.data = list(data)
        self.labels: list[int | None] = [item.get("label") for item in self.data]
        self.errors: dict[int, str] = {}

        def decode(position: int) -> torch.Tensor | None:
            try:
                return transform(self.data[position])["image"]
            except ImageReadError as error:
                self.errors[position] = str(error)
                return None

        with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
            decoded = list(pool.map(decode, range(len(self.data))))
        good = [image for image in decoded if image is not None]
        self.images = torch.zeros((len(decoded), *(good[0].shape if good else (0, 0, 0))), dtype=torch.uint8)
        for position, image in enumerate(decoded):
            if image is not None:
                self.images[position] = image

    @property
    def sha256(self) -> str:
        """Hash of the images and labels, in their order."""
        return hashlib.sha256(self.images.numpy().tobytes() + str(self.labels).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``{"image": (C, H, W) float32 in [-1, 1], "index": int, "label": int}``; label -1 is unlabelled."""
        if index in self.errors:
            raise DataError(f"item {index} of the list cannot be read: {self.errors[index]}.")
        label = self.labels[index]
        return {"image": normalise(self.images[index]), "index": index, "label": -1 if label is None else label}
