"""Handler that compares anomaly maps with masks of the lesions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.utils.enums import CommonKeys
from PIL import Image

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.metrics import best_dice, per_region_overlap, pixel_auroc, pixel_average_precision
from monai_ddad.networks import DDADNet
from monai_ddad.transforms import ReadImage

__all__ = ["PixelMetrics"]


class PixelMetrics:
    """Compute pixel-level metrics of each map where the list has masks of the lesions.

    Counted are the pictures with a ``"mask"`` (an image file of the picture's size, not 0 where abnormal) and, beside
    them, the normal ones (label 0), as without lesions. Maps are put back on the picture's own grid; both are then
    brought to a square of ``side`` pixels, so that pictures of all sizes weigh the same. At the end of the epoch
    ``state.pixel_metrics`` holds by score ``pixel_auroc``, ``pixel_average_precision``, ``best_dice`` with its
    ``best_dice_threshold``, and ``per_region_overlap``; it is empty where there are no masks.

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
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Forget an earlier epoch."""
        self._maps: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []

    def collect(self, engine: Any) -> None:
        """Keep the maps and masks of a batch's pictures."""
        if not any("mask" in item for item in self.dataset.data):
            return
        maps = engine.state.output[CommonKeys.PRED].float().cpu()
        for index, values in zip(engine.state.batch["index"].tolist(), maps):
            item = self.dataset.data[self.dataset.positions[index]]
            if self.dataset.slices[index] is None and ("mask" in item or self.dataset.labels[index] == 0):
                self._keep(item, values)

    def _keep(self, item: dict[str, Any], values: torch.Tensor) -> None:
        prepared = self.dataset.prepare(item)[0]["image"]
        restored = [self.dataset.restore(prepared, part) for part in values[:, None]]
        mask = np.asarray(self.read(item["mask"]))[0] > 0 if "mask" in item else np.zeros(restored[0].shape, dtype=bool)
        if mask.shape != restored[0].shape:
            raise ValueError(f"a mask is {mask.shape} pixels and its picture {restored[0].shape}: they must be equal.")
        size = (self.side, self.side)
        self._maps.append(np.stack([np.asarray(Image.fromarray(part).resize(size)) for part in restored]))
        self._masks.append(
            np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0.5
        )

    def finish(self, engine: Any) -> None:
        """Compute the metrics."""
        engine.state.pixel_metrics = {}
        if not any(mask.any() for mask in self._masks):
            return
        maps, masks = np.stack(self._maps, axis=1), np.stack(self._masks)
        for name, values in zip(self.network.map_names, maps):
            dice, threshold = best_dice(values, masks)
            engine.state.pixel_metrics[name] = {
                "pixel_auroc": pixel_auroc(values, masks),
                "pixel_average_precision": pixel_average_precision(values, masks),
                "best_dice": dice,
                "best_dice_threshold": threshold,
                "per_region_overlap": per_region_overlap(values, masks),
            }
