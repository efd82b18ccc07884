"""Items, pictures and volumes, are read and prepared once; what is needed of them later travels with their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.data import Dataset, MetaTensor
from monai.utils import convert_to_tensor

from monai_ddad.data.empty_label import is_empty_label
from monai_ddad.io.errors import root_cause
from monai_ddad.io.files import LeftOut
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.machine import available_cores
from monai_ddad.transforms.read import SOURCE, ImageReadError, KeepSource

__all__ = [
    "BatchItem",
    "ItemDataset",
    "ItemTransform",
    "beside_image",
    "collate_items",
    "prepare",
    "settle_label",
    "slice_number",
]

ItemTransform = Callable[[dict[str, Any]], "dict[str, Any] | list[dict[str, Any]]"]


@dataclass(frozen=True)
class BatchItem:
    """What a batch holds of one item beside the prepared images.

    Attributes:
        data: what the item of the list holds beside the image.
        rows: of its images in the batch; none of an item that could not be read.
        slices: their numbers among the slices of the volume; empty of a picture.
        operations: the transforms that each went through, by which a map is put back on the item's own grid.
        source: (C, H, W) or (C, I, J, K) float in [0, 1], the image as it was read; None where it was not kept.
        error: why it could not be read; empty if it was.
    """

    data: dict[str, Any] = field(repr=False)
    rows: list[int] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    operations: list[list[Any]] = field(default_factory=list, repr=False)
    source: MetaTensor | None = field(default=None, repr=False)
    error: str = ""

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume of slices."""
        return bool(self.slices)


def prepare(transform: ItemTransform, item: dict[str, Any]) -> list[dict[str, Any]]:
    """Read and prepare an item.

    Args:
        transform: see :class:`ItemDataset`.
        item: ``{"image": path}``.

    Returns:
        one part of a picture, or one a slice of a volume.

    Raises:
        ImageReadError: it cannot be read.
    """
    try:
        prepared = transform(item)
    except (ImageReadError, OSError, RuntimeError) as error:
        reason = root_cause(error)
        if isinstance(reason, OSError):
            reason = ImageReadError(f"the file cannot be read ({type(reason).__name__})")
        if not isinstance(reason, ImageReadError):
            raise
        raise reason from None
    return [prepared] if isinstance(prepared, dict) else prepared


def settle_label(item: dict[str, Any], marked: int | None = 1) -> dict[str, Any]:
    """Return an item whose label is 0, 1 or None, also where it was the path of an annotation, as in MONAI Label.

    Args:
        item: of a list.
        marked: label of an item whose annotation is not empty, or cannot be read; an empty one is label 0.
    """
    label = item.get("label")
    if not isinstance(label, str):
        return item
    try:
        normal = is_empty_label(label)
    except ImageReadError:
        normal = False
    return item | {"label": 0 if normal else marked}


def slice_number(image: torch.Tensor) -> int | None:
    """Return the number of a prepared image among the slices of its volume; None of a picture."""
    number = getattr(image, "meta", {}).get("slice")
    return None if number is None else int(number)


class ItemDataset(Dataset):
    """MONAI's ``Dataset`` of pictures and volumes, in which a file that cannot be read does not stop the others.

    It goes with :func:`collate_items`, which takes the items of MONAI's other data sets just as well.

    Args:
        data: MONAI datalist, items ``{"image": path, "label": 0 | 1 | None}``; the label may be missing.
        transform: maps an item to one whose ``"image"`` is a (C, H, W) float tensor in [-1, 1] of a fixed shape, as the
            network takes it, or to a list of such items, whose images say their ``"slice"`` in their metadata.
        num_workers: threads that read a batch; None takes one a core.
        reading: the first step of the transform, where the image as it was read is to travel with the prepared one; see
            :class:`~monai_ddad.transforms.KeepSource`.

    Attributes:
        left_out: entries of the folders of ``data`` that are no images, by reason, where it says so.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: ItemTransform,
        num_workers: int | None = None,
        reading: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data, transform if reading is None else KeepSource(reading, transform))
        self.left_out = LeftOut(getattr(data, "left_out", {}))
        self.num_workers = num_workers or available_cores()

    def __getitem__(self, index: int) -> BatchItem | list[dict[str, Any]]:
        """Return the parts of an item, or an item with the reason why it cannot be read."""
        item = self.data[index]
        try:
            return prepare(self.transform, item)
        except ImageReadError as error:
            return BatchItem(beside_image(item), error=str(error))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return a batch of items, which PyTorch's loader asks for in one call."""
        with quiet, ThreadPoolExecutor(min(self.num_workers, len(indices))) as pool:
            return list(pool.map(self.__getitem__, indices))


def beside_image(item: dict[str, Any]) -> dict[str, Any]:
    """Return what an item holds beside its image."""
    return {name: value for name, value in item.items() if name not in ("image", SOURCE)}


def collate_items(items: Sequence[BatchItem | dict[str, Any] | list[dict[str, Any]]]) -> dict[str, Any]:
    """Join whole items to a batch: the ``collate_fn`` of a loader.

    Args:
        items: of an :class:`ItemDataset`, or of one of MONAI's own data sets.

    Returns:
        ``"image"`` (B, C, H, W) float32 in [-1, 1] with all slices of a volume, ``"label"`` (B,), -1 where unknown, and
        ``"items"``, a tuple with a :class:`BatchItem` for each. B is 0 where nothing could be read.

    Example:
        >>> part = {"image": torch.zeros(1, 8, 8), "label": 1}
        >>> batch = collate_items([part, [part, part], BatchItem({}, error="the file is empty")])
        >>> batch["image"].shape, batch["label"].tolist(), [item.rows for item in batch["items"]]
        (torch.Size([3, 1, 8, 8]), [1, 1, 1], [[0], [1, 2], []])
    """
    images: list[torch.Tensor] = []
    labels: list[int] = []
    found: list[BatchItem] = []
    for item in items:
        if isinstance(item, BatchItem):
            found.append(item)
            continue
        parts = [item] if isinstance(item, dict) else item
        prepared = [part["image"] for part in parts]
        data = settle_label(beside_image(parts[0])) if parts else {}
        label = data.get("label")
        data["label"] = label = None if label is None or int(label) < 0 else int(label)
        found.append(
            BatchItem(
                data,
                list(range(len(images), len(images) + len(parts))),
                [number for image in prepared if (number := slice_number(image)) is not None],
                [list(getattr(image, "applied_operations", [])) for image in prepared],
                parts[0].get(SOURCE) if parts else None,
            )
        )
        images += [convert_to_tensor(image) for image in prepared]
        labels += [-1 if label is None else label] * len(parts)
    stacked = torch.stack(images).float() if images else torch.zeros(0, 0, 0, 0)
    return {"image": stacked, "label": torch.tensor(labels, dtype=torch.long), "items": tuple(found)}
