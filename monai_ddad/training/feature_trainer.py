"""The pass over the training images that fits the distributions of features, as an Ignite engine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import FeatureNet, Moments
from monai_ddad.placement import place, resolve_device, set_tf32
from monai_ddad.training.units import require_both_kinds
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["FeatureTrainer"]


class FeatureTrainer(Trainer):
    """Sum up the features of all training images, and fit NDM and UDM to the sums.

    An iteration is a batch of images. There is one epoch and nothing random, so the same images in any order and any
    number of processes give the same distributions, up to rounding.

    Args:
        device: where to compute.
        network: whose distributions are fitted.
        dataset: known normal (label 0) and unlabelled (None) images.
        batch_size: images that the encoder takes at once.
        train: False leaves the network as it is.
        train_handlers: handlers to attach.

    Attributes:
        epochs: passes done, by module.
        seconds: time spent.

    Raises:
        DataError: fewer than 2 known normal or 2 unlabelled images, or images of other channels than the network's.

    After each batch ``state.output[0]`` holds ``loss``, always 0, as MONAI's handlers expect one, and
    ``state.batch["image"]`` the (B, C, H, W) images.

    Example:
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 64, 64), item["image"] / 4 - 1)})
        >>> trainer = FeatureTrainer("cpu", FeatureNet(seed=0, image_size=64), data)
        >>> trainer.run()
        >>> trainer.epochs
        {'ndm': 1, 'udm': 1}
    """

    def __init__(
        self,
        device: str | torch.device,
        network: FeatureNet,
        dataset: ResidentDataset,
        batch_size: int = 16,
        train: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        require_both_kinds(dataset, network.in_channels)
        self.network = place(network, resolve_device(device))
        self.images = dataset.images
        self.known = torch.tensor([label == 0 for label in dataset.labels])
        self.batches = torch.arange(len(dataset)).split(batch_size)
        self.epochs = {"ndm": 0, "udm": 0}
        self.precision = "float32"
        world = idist.get_world_size()
        self.seconds = 0.0
        super().__init__(
            device=resolve_device(device),
            max_epochs=1 if train else 0,
            # as many in each process, of which the last may be empty: all take part in the sum
            data_loader=range(idist.get_rank(), world * math.ceil(len(self.batches) / world), world),
            decollate=False,
        )
        self.add_event_handler(Events.EPOCH_COMPLETED, FeatureTrainer.finish)  # before handlers look at the weights
        for handler in train_handlers or ():
            if idist.get_rank() == 0 or getattr(handler, "every_process", False):
                handler.attach(self)

    @property
    def unfinished(self) -> dict[str, str]:
        """The modules that are not fitted, with what is done."""
        return {part: "0 of 1 epochs" for part, done in self.epochs.items() if not done}

    def run(self) -> None:
        """Pass over all images and fit."""
        set_tf32(self.state.device, self.precision)
        self._started = time.perf_counter()
        self._known, self._pool = Moments.none(self.network.size), Moments.none(self.network.size)
        if self.state.max_epochs:
            super().run()
        self.network.eval()

    @torch.inference_mode()
    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        places = self.batches[batchdata] if batchdata < len(self.batches) else torch.zeros(0, dtype=torch.long)
        images = normalise(self.images[places]).to(self.state.device)
        self.state.batch = {CommonKeys.IMAGE: images}
        if len(places):
            fine, _, _ = self.network.cells(images)
            known = self.known[places].to(fine.device)
            self._known = self._known + Moments.of(fine[known].flatten(0, -2))
            self._pool = self._pool + Moments.of(fine[~known].flatten(0, -2))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [{CommonKeys.LOSS: torch.zeros(()), "losses": {}}]

    def finish(self) -> None:
        """Add up what the processes have found, and fit."""
        known, pool = (_over_processes(moments) for moments in (self._known, self._pool))
        self.network.fit(known, pool)
        self.network.mark_loaded()
        self.epochs = {"ndm": 1, "udm": 1}
        self.seconds += time.perf_counter() - self._started


def _over_processes(moments: Moments) -> Moments:
    """Return the sums over all processes."""
    if idist.get_world_size() == 1:
        return moments
    joined = torch.cat([torch.tensor([moments.count]).double(), moments.total, moments.products.flatten()])
    total = idist.all_reduce(joined)
    assert isinstance(total, torch.Tensor)
    size = len(moments.total)
    return Moments(round(total[0].item()), total[1 : size + 1], total[size + 1 :].view(size, size))
