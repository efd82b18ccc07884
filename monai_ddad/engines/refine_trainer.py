"""Training of ASR-Net on synthetic anomalies as an Ignite engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from monai_ddad.data.resident import DataError, ResidentDataset, normalise
from monai_ddad.engines.placement import autocast, place
from monai_ddad.engines.resumable import ResumableTrainer, hyperparameters
from monai_ddad.losses import focal_loss
from monai_ddad.networks import DDADNet
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.transforms.synthetic import RandBlendPatch

__all__ = ["RefineTrainer"]

STREAM = 2  # beside the NDM's 0 and the UDM's 1


class RefineTrainer(ResumableTrainer):
    """Train ``asr`` to find synthetic anomalies in the maps of the frozen ensembles.

    Args:
        device: where to train.
        max_epochs: epochs over the known normals.
        network: the model with trained ensembles; without ASR-Net (``refine="none"``) nothing is done.
        dataset: training images, of which the known normals (label 0) are used.
        optimizer: makes an optimizer from ASR-Net's parameters.
        batch_size: images a step; the last incomplete batch of an epoch is dropped.
        seed: seed of the data order and of the anomalies.
        anomaly: draws the synthetic anomalies.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        train: False only loads what an earlier run left.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.handlers.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done.

    Raises:
        DataError: fewer than 2 known normal images.
        ValueError: a batch of one image.

    After each step ``state.output[0]`` holds ``loss``; after each epoch ``state.metrics`` holds the mean
    ``asr_loss``.

    Source: MedIA 2023, section 3.4; method.md section 4.

    Example:
        >>> from functools import partial
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), 30 * item["image"])})
        >>> network = DDADNet(image_size=16, width=2, hidden_size=8, latent_size=2, seed=0)
        >>> adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-4)
        >>> trainer = RefineTrainer("cpu", 1, network, data, adam, batch_size=4)
        >>> trainer.run()
        >>> trainer.epochs
        {'asr': 1}
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        network: DDADNet,
        dataset: ResidentDataset,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        batch_size: int = 8,
        seed: int = 0,
        anomaly: RandBlendPatch | None = None,
        precision: str = "float32",
        train: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = torch.device(device)
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (for batch normalisation), got {batch_size}.")
        normal = [i for i, label in enumerate(dataset.labels) if label == 0]
        if len(normal) < 2:
            raise DataError(f"ASR-Net needs at least 2 known normal images, got {len(normal)}.")
        self.network = place(network, device)
        self.images = dataset.images[normal].to(device)
        self.anomaly = RandBlendPatch() if anomaly is None else anomaly
        self.batch_size = batch_size
        self.seed = seed
        self.precision = precision
        self.autocast = autocast(device, precision)
        self.optimizer = None if network.asr is None else optimizer(network.asr.parameters())
        self._order = epoch_order(len(normal), batch_size, seed=0)
        epochs = 1 if network.asr is None else max_epochs  # without ASR-Net the number has no meaning
        super().__init__(device, epochs, len(self._order), train_handlers, train=train)
        self.epochs = {} if network.asr is None else {"asr": 0}
        self.trained = list(self.epochs)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        ensembles = hashlib.sha256()
        for module in (self.network.ndm, self.network.udm):
            for weight in module.state_dict().values():
                ensembles.update(weight.cpu().contiguous().numpy().tobytes())
        return {
            "ensembles": ensembles.hexdigest(),
            "normal images": hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest(),
            "refine": self.network.refine,
            "anomaly": {
                "prob": self.anomaly.prob,
                "centre_range": list(self.anomaly.centre_range),
                "half_width_range": list(self.anomaly.half_width_range),
            },
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "optimizer": None if self.optimizer is None else hyperparameters(self.optimizer),
        }

    def run(self) -> None:
        """Train to ``max_epochs``; see :class:`~monai_ddad.engines.ResumableTrainer`."""
        if self.network.asr is not None:
            super().run()
        self.network.eval()

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the images and start a stream of anomalies of the epoch's own."""
        self._order = epoch_order(len(self.images), self.batch_size, derive_seed(self.seed, STREAM, 0, epoch))
        self.anomaly.set_random_state(derive_seed(self.seed, STREAM, 1, epoch))

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        assert self.optimizer is not None and self.network.asr is not None
        image, mask = self._draw(self._order[batchdata])
        self.network.eval()
        self.network.asr.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            with torch.no_grad():
                maps = self.network.discrepancy_maps(image)
            logits = self.network.refine_logits(maps)
        loss = focal_loss(logits.float(), mask)
        loss.backward()
        self.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [{CommonKeys.LOSS: loss.detach(), "losses": {"asr": loss.detach()}}]

    def _draw(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a batch of normal images, some with an anomaly: (B, C, H, W) in [-1, 1] and (B, H, W) masks."""
        number = len(self.images)
        pairs = [
            self.anomaly(normalise(self.images[index]), index, lambda other: normalise(self.images[other]), number)
            for index in positions.tolist()
        ]
        images, masks = zip(*pairs)
        return torch.stack(images), torch.stack(masks).to(self.images.device)

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""
        assert self.optimizer is not None and self.network.asr is not None
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": self.network.asr.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""
        assert self.optimizer is not None and self.network.asr is not None
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        self.network.asr.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.continue_after(self.epochs["asr"])
