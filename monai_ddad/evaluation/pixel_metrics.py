"""Handler that compares anomaly maps with masks of the lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from PIL import Image
from scipy import ndimage

from monai_ddad.decision.finding import Finding
from monai_ddad.decision.heat import restore_values
from monai_ddad.evaluation.metrics import best_dice, per_region_overlap, pixel_auroc, pixel_average_precision
from monai_ddad.networks import DDADModel
from monai_ddad.transforms import ImageReadError, ReadImage

__all__ = ["PixelMetrics"]


class PixelMetrics:
    """Compute pixel-level metrics of each map where the list has masks of the lesions.

    Counted are the pictures with a ``"mask"`` (an image file of the picture's size, not 0 where abnormal) and, beside
    them, the normal ones (label 0), as without lesions. Maps are put back on the picture's own grid; both are then
    brought to a square of ``side`` pixels, so that pictures of all sizes weigh the same; a lesion smaller than half of
    such a pixel keeps the one that it covers most. What is outside the field of a masked network is left out. At the
    end of the epoch ``state.pixel_metrics`` holds by score ``pixel_auroc``, ``pixel_average_precision``, ``best_dice``
    with its ``best_dice_threshold``, and ``per_region_overlap``; it is empty where there are no masks. A
    mask that cannot be read is an error before anything is scored.

    Args:
        network: the network that is evaluated by an :class:`~monai_ddad.evaluation.ItemEvaluator`.
        dataset: the items that are scored, whose ``data`` name the masks.
        side: of the square, pixels.
    """

    def __init__(self, network: DDADModel, dataset: Any, side: int = 128) -> None:
        self.network = network
        self.data: Sequence[dict[str, Any]] = dataset.data
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
        masked = [position for position, item in enumerate(self.data) if "mask" in item]
        self._known = {position: _shrink(self._mask(position), self.side) for position in masked}
        self._maps: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._fields: list[np.ndarray] = []

    def _mask(self, position: int) -> np.ndarray:
        try:
            return np.asarray(self.read(self.data[position]["mask"]))[0] > 0
        except ImageReadError as error:
            raise ValueError(f"the mask of test item {position} cannot be read: {error}") from None

    def collect(self, engine: Any) -> None:
        """Keep the maps and masks of a batch's pictures."""
        for found in engine.state.findings if self._known else []:
            if isinstance(found, Finding) and not found.item.is_volume:
                self._keep(found)

    def _keep(self, found: Finding) -> None:
        """Keep the maps of a picture, its field and its mask, if it has one or is normal."""
        if found.position not in self._known and found.item.data.get("label") != 0:
            return
        field = self.network.discrepancy.field(found.images)
        layers = torch.cat([found.maps, torch.ones_like(found.maps[:, :1]) if field is None else field], dim=1)[0]
        restored = [restore_values(layer, found.item.operations[0], found.judge.transform) for layer in layers]
        shape, mask = self._known.get(found.position, (restored[0].shape, np.zeros((self.side, self.side), dtype=bool)))
        if shape != restored[0].shape:
            raise ValueError(
                f"the mask of test item {found.position} is {shape} pixels and its picture {restored[0].shape}: they "
                "must be equal."
            )
        *maps, inside = (np.asarray(Image.fromarray(part).resize((self.side, self.side))) for part in restored)
        self._maps.append(np.stack(maps))
        self._fields.append(inside > 0.5)
        self._masks.append(mask)

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


def _shrink(mask: np.ndarray, side: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Return a mask's shape, and it as a square: pixels covered by half, and of each lesion the most covered one.

    Of the mask of a volume, which no picture can have, the square is empty.
    """
    if mask.ndim != 2:
        return mask.shape, np.zeros((side, side), dtype=bool)
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BOX))
    lesions, number = ndimage.label(share > 0, structure=np.ones((3, 3)))
    most = ndimage.maximum(share, lesions, index=range(number + 1))
    return mask.shape, (share > 0) & (share >= np.minimum(0.5, most)[lesions])
