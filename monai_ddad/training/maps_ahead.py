"""Maps that ASR-Net learns from, of many steps at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from monai_ddad.networks import DDADModel, DDADNet
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training.shards import Shards
from monai_ddad.transforms.eight_bit import normalise
from monai_ddad.transforms.synthetic import BlendBox, RandBlendPatch, blend_boxes

__all__ = ["MapsAhead"]

BATCH = {"cpu": 64, "cuda": 256}  # images that the frozen ensembles take at once
KEPT = 2**30  # bytes of maps of unchanged images, at most


class MapsAhead:
    """Compute the maps of images with synthetic anomalies by the frozen ensembles.

    Maps of images that stay as they are are computed once and kept.

    Args:
        network: with trained ensembles.
        images: (N, C, H, W) uint8, on the network's device.
        anomaly: draws the synthetic anomalies.
        shards: the parts of a batch.
        precision: see :func:`monai_ddad.placement.autocast`.
    """

    def __init__(
        self, network: DDADNet, images: torch.Tensor, anomaly: RandBlendPatch, shards: Shards, precision: str
    ) -> None:
        self.network = network
        self.images = images
        self.anomaly = anomaly
        self.shards = shards
        self.precision = precision
        self._frozen: Runtime | None = None
        self._plain: torch.Tensor | None = None
        self._parts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        """Freeze the ensembles as they are now, unless they are."""
        if self._frozen is None:
            ensembles = self.network.without_refinement(masked=False)  # ASR-Net sees the maps as they are
            self._frozen = Runtime(DDADModel(ensembles), precision=self.precision)
            self._plain = self._maps_of_plain_images()

    def end(self) -> None:
        """Free what is held."""
        self._frozen, self._plain, self._parts = None, None, {}

    def draw(self, order: torch.Tensor) -> None:
        """Draw the anomalies of (steps, B) images, and compute the maps and masks of this process's parts."""
        (_, height, width), number = self.images.shape[1:], len(self.images)
        draws: list[tuple[BlendBox, int] | None] = []
        for index in order.flatten().tolist():
            self.anomaly.randomize((height, width, index, number))
            draws.append(None if self.anomaly.box is None else (self.anomaly.box, self.anomaly.other))
        places = torch.arange(order.numel()).view(order.shape)
        parts = self.shards.run(lambda shard: self._part(order, self.shards.cut(places.T, shard).T, draws))
        self._parts = dict(zip(self.shards.local, parts))

    def of_step(self, shard: int, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (b, M, H, W) maps and (b, H, W) masks of a part of one of the steps that were drawn."""
        maps, masks = self._parts[shard]
        return maps[row], masks[row]

    def _part(
        self, order: torch.Tensor, places: torch.Tensor, draws: Sequence[tuple[BlendBox, int] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (steps, b, M, H, W) maps and (steps, b, H, W) masks of some of the images that were drawn."""
        device, flat = self.images.device, places.flatten()
        indices = order.flatten()[flat]
        drawn = [(row, draw) for row, draw in enumerate(draws[place] for place in flat.tolist()) if draw is not None]
        rows = torch.tensor([row for row, _ in drawn], dtype=torch.long)
        masks = torch.zeros((len(flat), *self.images.shape[2:]), dtype=torch.uint8, device=device)
        maps = self._maps(self._normal(indices)) if self._plain is None else self._plain[indices.to(device)]
        if drawn:
            others = torch.tensor([other for _, (_, other) in drawn])
            boxes = [box for _, (box, _) in drawn]
            images, masks[rows] = blend_boxes(self._normal(indices[rows]), self._normal(others), boxes)
            maps[rows] = self._maps(images)
        shape = places.shape
        return maps.view(*shape, *maps.shape[1:]), masks.view(*shape, *masks.shape[1:])

    def _normal(self, indices: torch.Tensor) -> torch.Tensor:
        return normalise(self.images[indices.to(self.images.device)])

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the (N, M, H, W) maps that ASR-Net sees."""
        assert self._frozen is not None
        found = [self._frozen(batch) for batch in images.split(BATCH[images.device.type])]
        return torch.cat(found)[:, self.network.refine_channels]

    def _maps_of_plain_images(self) -> torch.Tensor | None:
        """Compute the maps of all images as they are; None where they would take too much memory."""
        channels = len(self.network.refine_channels)
        if len(self.images) * channels * self.images[0, 0].numel() * 4 > KEPT:
            return None
        batches, local = torch.arange(len(self.images)).split(BATCH[self.images.device.type]), self.shards.local
        parts = self.shards.run(
            lambda shard: [self._maps(self._normal(batch)) for batch in batches[local.index(shard) :: len(local)]]
        )
        return torch.cat([maps for row in itertools.zip_longest(*parts) for maps in row if maps is not None])
