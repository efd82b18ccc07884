"""Images decoded once and kept as 8-bit tensors in a file that is mapped into memory."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from monai_ddad.data.items import BatchItem, ItemTransform, beside_image, prepare, settle_label, slice_number
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import LeftOut
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.machine import available_cores
from monai_ddad.transforms.eight_bit import eight_bits, normalise
from monai_ddad.transforms.read import ImageReadError

__all__ = ["KEY", "ResidentDataset", "keys_of"]

NO_IMAGES = torch.zeros((0, 0, 0, 0), dtype=torch.uint8)
KEY = 16  # bytes of an image's key
AHEAD = 256  # items that are prepared before they are written


def keys_of(images: torch.Tensor) -> list[str]:
    """Return a name by content of each of (N, C, H, W) uint8 images."""
    return [hashlib.sha256(image.contiguous().numpy().data).hexdigest()[: 2 * KEY] for image in images]


class ResidentDataset(Dataset):
    """Dataset whose images are read and prepared once, in parallel, and kept as uint8.

    They lie in a nameless temporary file, which the system keeps in memory as long as there is room (``TMPDIR`` says
    where).

    One item of the list gives one image, or several if the transform splits it (a volume into slices). An item that
    cannot be read gives none and does not stop the others: it is kept in :attr:`errors`, which
    :func:`monai_ddad.data.audit` reports.

    Args:
        data: MONAI datalist, items ``{"image": path, "label": 0 | 1 | None}``; a missing label counts as None.
        transform: see :class:`~monai_ddad.data.ItemDataset`.
        num_workers: reading threads; None takes one a core.
        marked: label of an item whose ``"label"`` is the path of an annotation, as MONAI Label gives it, that is not
            empty, or cannot be read; an empty one is label 0.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: list of 0 (normal), 1 (abnormal) or None (unlabelled), one an image.
        positions: position in ``data`` of the item that each image is of.
        slices: number of each image among the slices of its volume; None for a picture.
        errors: position in ``data`` -> what is wrong with the file.
        operations: the transforms that each image went through.
        left_out: entries of the folders of ``data`` that are no images, by reason, where it says so.

    Example:
        >>> items = [{"image": value, "label": 0} for value in (-1.0, 1.0)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 8, 8), item["image"])})
        >>> data.images.shape, data[1]["image"].mean().item(), data[1]["label"]
        (torch.Size([2, 1, 8, 8]), 1.0, 0)
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: ItemTransform,
        num_workers: int | None = None,
        marked: int | None = 1,
    ) -> None:
        self.data = [settle_label(item, marked) for item in data]
        self.left_out = LeftOut(getattr(data, "left_out", {}))
        self.transform = transform
        self.errors: dict[int, str] = {}
        self._whole = True

        with quiet, ThreadPoolExecutor(num_workers or available_cores()) as pool:  # once, as it takes longer than a PNG
            self._collect(
                images
                for start in range(0, len(self.data), AHEAD)
                for images in pool.map(self._prepare, range(start, min(start + AHEAD, len(self.data))))
            )
        self.labels: list[int | None] = [self.data[position].get("label") for position in self.positions]

    def _collect(self, prepared: Iterable[list[tuple[int | None, list[Any], torch.Tensor]]]) -> None:
        """Keep the images of all items, in their order.

        Raises:
            DataError: there is no room for them.
            ValueError: they are of different shapes.
        """
        self.positions: list[int] = []
        self.slices: list[int | None] = []
        self.operations: list[list[Any]] = []
        self.images = NO_IMAGES
        shape = None
        try:
            with tempfile.TemporaryFile() as file:
                for position, images in enumerate(prepared):
                    for number, operations, pixels in images:
                        if shape not in (None, pixels.shape):
                            raise ValueError(f"images are prepared to different shapes, {shape} and {pixels.shape}.")
                        shape = pixels.shape
                        file.write(pixels.contiguous().numpy().data)
                        self.positions.append(position)
                        self.slices.append(number)
                        self.operations.append(operations)
                if shape is not None and shape.numel():
                    file.flush()
                    mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(len(self.positions), *shape))
                    self.images = torch.from_numpy(mapped)
        except OSError as error:
            raise DataError(
                f"the prepared images cannot be kept in a temporary file ({error.strerror}): name a folder with more "
                "room by the environment variable TMPDIR."
            ) from None

    def _prepare(self, position: int) -> list[tuple[int | None, list[Any], torch.Tensor]]:
        """Read one item: slice numbers, operations and uint8 images, none if it cannot be read."""
        try:
            prepared = [part["image"] for part in prepare(self.transform, self.data[position])]
        except ImageReadError as error:
            self.errors[position] = str(error)
            return []
        return [
            (
                slice_number(image),
                list(getattr(image, "applied_operations", [])),
                eight_bits(convert_to_tensor(image)),
            )
            for image in prepared
        ]

    def items(self) -> Items:
        """Return the whole items as a data set of their own, as an evaluator takes them.

        Raises:
            ValueError: this is a subset, which may hold parts of items.
        """
        if not self._whole:
            raise ValueError("a subset of images has no whole items.")
        return Items(self)

    def subset(self, indices: Sequence[int]) -> ResidentDataset:
        """Return a dataset of some of the images, with the same ``data``, so that positions keep their meaning."""
        part = copy.copy(self)
        part._whole = False
        part.positions = [self.positions[index] for index in indices]
        part.labels = [self.labels[index] for index in indices]
        part.slices = [self.slices[index] for index in indices]
        part.operations = [self.operations[index] for index in indices]
        part.images = self.images[torch.tensor(indices, dtype=torch.long)]
        return part

    @property
    def volumes(self) -> list[int | None]:
        """Position in ``data`` of the volume that each image is a slice of; None of a picture."""
        return [None if part is None else position for position, part in zip(self.positions, self.slices)]

    @property
    def sha256(self) -> str:
        """Hash of the images and labels, in their order."""
        found = hashlib.sha256(self.images.contiguous().numpy().data)
        found.update(str(self.labels).encode())
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``{"image": (C, H, W) float32 in [-1, 1], "index": int, "label": int}``; label -1 is unlabelled."""
        label = self.labels[index]
        return {"image": normalise(self.images[index]), "index": index, "label": -1 if label is None else label}


class Items(Dataset):
    """The items of a :class:`ResidentDataset`; see :func:`~monai_ddad.data.collate_items`.

    Args:
        dataset: their images.
    """

    def __init__(self, dataset: ResidentDataset) -> None:
        self.dataset = dataset
        self.rows: list[list[int]] = [[] for _ in dataset.data]
        for row, position in enumerate(dataset.positions):
            self.rows[position].append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> BatchItem | list[dict[str, Any]]:
        """Return the prepared images of an item, or an item with the reason why it could not be read."""
        dataset, rows = self.dataset, self.rows[position]
        item = dataset.data[position]
        if not rows:
            return BatchItem(beside_image(item), error=dataset.errors.get(position, ""))
        return [
            item
            | {
                "image": MetaTensor(
                    normalise(dataset.images[row]),
                    meta={"slice": dataset.slices[row]},
                    applied_operations=dataset.operations[row],
                )
            }
            for row in rows
        ]
