"""Handler that compares anomaly maps with masks of the lesions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from PIL import Image
from scipy import ndimage

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.metrics import best_dice, per_region_overlap, pixel_auroc, pixel_average_precision
from monai_ddad.networks import DDADNet
from monai_ddad.transforms import ImageReadError, ReadImage

__all__ = ["PixelMetrics"]


class PixelMetrics:
    """Compute pixel-level metrics of each map where the list has masks of the lesions.

    Counted are the pictures with a ``"mask"`` (an image file of the picture's size, not 0 where abnormal) and, beside
    them, the normal ones (label 0), as without lesions. Maps are put back on the picture's own grid; both are then
    brought to a square of ``side`` pixels, so that pictures of all sizes weigh the same; a lesion smaller than half of
    such a pixel keeps the one that it covers most. What is outside the field of a masked network is left out. At the
    end of the epoch ``state.pixel_metrics`` holds by score ``pixel_auroc``, ``pixel_average_precision``, ``best_dice``
    with its ``best_dice_threshold``, and ``per_region_overlap``; it is empty where there are no masks. An item whose
    picture or mask went or changed after it was first read is left out; the data set's ``lost`` says why.

    Args:
        network: the network that is evaluated.
        dataset: the images that are scored, with an invertible transform.
        side: of the square, pixels.
    """

    def __init__(self, network: DDADNet, dataset: ResidentDataset, side: int = 128) -> None:
        self.network = network
        self.dataset = dataset
        self.side = side
        self.read = ReadImage(in_channels=1)

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Forget an earlier epoch, and look at the masks.

        Raises:
            ValueError: a mask cannot be read.
        """
        self.dataset.lost.clear()
        self._sizes = {
            position: self._mask(position).shape for position, item in enumerate(self.dataset.data) if "mask" in item
        }
        self._maps: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._fields: list[np.ndarray] = []

    def collect(self, engine: Any) -> None:
        """Keep the maps and masks of a batch's pictures."""
        if not any("mask" in item for item in self.dataset.data):
            return
        maps, image = engine.state.output[CommonKeys.PRED].float(), engine.state.output[CommonKeys.IMAGE]
        field = self.network.field(image)
        maps = torch.cat([maps, torch.ones_like(maps[:, :1]) if field is None else field], dim=1).cpu()
        for index, values in zip(engine.state.batch["index"].tolist(), maps):
            position = self.dataset.positions[index]
            counts = "mask" in self.dataset.data[position] or self.dataset.labels[index] == 0
            if counts and self.dataset.slices[index] is None:
                try:
                    self._keep(index, position, values)
                except ImageReadError as error:
                    self.dataset.lost[position] = f"scored, but not compared with masks: {error}"

    def _mask(self, position: int) -> np.ndarray:
        try:
            return np.asarray(self.read(self.dataset.data[position]["mask"]))[0] > 0
        except ImageReadError as error:
            raise ValueError(f"the mask of test item {position} cannot be read: {error}") from None

    def _mask_again(self, position: int) -> np.ndarray:
        try:
            mask = self._mask(position)
        except ValueError:
            raise ImageReadError("its mask cannot be read any more") from None
        if mask.shape != self._sizes[position]:
            raise ImageReadError("its mask has changed")
        return mask

    def _keep(self, index: int, position: int, values: torch.Tensor) -> None:
        """Keep the maps of an image, the last of which is its field, and its mask."""
        item = self.dataset.data[position]
        prepared = self.dataset.prepare_again(item, self.dataset.images[[index]])[0]["image"]
        restored = [self.dataset.restore(prepared, part) for part in values[:, None]]
        mask = self._mask_again(position) if "mask" in item else np.zeros(restored[0].shape, dtype=bool)
        if mask.shape != restored[0].shape:
            raise ValueError(
                f"the mask of test item {position} is {mask.shape} pixels and its picture {restored[0].shape}: they "
                "must be equal."
            )
        size = (self.side, self.side)
        *maps, field = (np.asarray(Image.fromarray(part).resize(size)) for part in restored)
        self._maps.append(np.stack(maps))
        self._fields.append(field > 0.5)
        self._masks.append(_shrink(mask, size))

    def finish(self, engine: Any) -> None:
        """Compute the metrics."""
        engine.state.pixel_metrics = {}
        if not any(mask.any() for mask in self._masks):
            return
        maps, masks, field = np.stack(self._maps, axis=1), np.stack(self._masks), np.stack(self._fields)
        for name, values in zip(self.network.map_names, maps):
            dice, threshold = best_dice(values, masks, field)
            engine.state.pixel_metrics[name] = {
                "pixel_auroc": pixel_auroc(values, masks, field),
                "pixel_average_precision": pixel_average_precision(values, masks, field),
                "best_dice": dice,
                "best_dice_threshold": threshold,
                "per_region_overlap": per_region_overlap(values, masks, field=field),
            }


def _shrink(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a mask to (columns, rows): pixels covered by half, and of each lesion at least the most covered one."""
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    lesions, number = ndimage.label(share > 0, structure=np.ones((3, 3)))
    most = ndimage.maximum(share, lesions, index=range(number + 1))
    return (share > 0) & (share >= np.minimum(0.5, most)[lesions])
