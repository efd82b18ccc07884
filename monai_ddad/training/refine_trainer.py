"""Training of ASR-Net on synthetic anomalies as an Ignite engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.io.checkpoints import weights_digest
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADNet
from monai_ddad.networks.cpu_layers import CPULayers
from monai_ddad.networks.losses import focal_loss
from monai_ddad.placement import autocast, choose_precision, place, resolve_device
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training.graphed import GraphedStep
from monai_ddad.training.maps_ahead import MapsAhead
from monai_ddad.training.resumable import ResumableTrainer, hyperparameters
from monai_ddad.training.shards import SHARDS, Shards, apply_sharded
from monai_ddad.transforms.synthetic import RandBlendPatch

__all__ = ["RefineTrainer"]

STREAM = 2  # beside the NDM's 0 and the UDM's 1
AHEAD = 32  # steps whose maps are computed at once


class RefineTrainer(ResumableTrainer):
    """Train ``asr`` to find synthetic anomalies in the maps of the frozen ensembles.

    The maps of many steps are computed at once, those of images that stay as they are only once. On CPUs a batch is cut
    into parts that run on a core each, in one process or several under ``torchrun``, without changing the result; on
    GPUs each process has a part.

    Args:
        device: where to train.
        max_epochs: epochs over the known normals.
        network: with trained ensembles; without ASR-Net (``refine="none"``) nothing is done.
        dataset: training images, of which the known normals (label 0) are used.
        optimizer: makes an optimizer from ASR-Net's parameters.
        batch_size: images a step; the last incomplete batch of an epoch is dropped.
        seed: seed of the data order and of the anomalies.
        anomaly: draws the synthetic anomalies.
        precision: see :func:`~monai_ddad.placement.choose_precision`.
        train: False only loads what an earlier run left.
        graph: record the step as a CUDA graph, on a single GPU.
        shards: parts that a batch is cut into; None for 4 on CPUs and one a process on GPUs.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.training.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done.

    Raises:
        DataError: fewer than 2 known normal images.
        ValueError: a batch of one image, or of fewer than there are processes; more than a part a process on GPUs.

    After each step ``state.output[0]`` holds ``loss``; ``state.batch`` holds the (B, M, H, W) maps that ASR-Net has
    seen as ``"image"`` and the (B, H, W) masks of the anomalies as ``"label"``. After each epoch ``state.metrics``
    holds the mean ``asr_loss``.

    Source: MedIA 2023, section 3.4; method.md section 4.

    Example:
        >>> from functools import partial
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), item["image"] / 4 - 1)})
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
        graph: bool = False,
        shards: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = resolve_device(device)
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (for batch normalisation), got {batch_size}.")
        normal = [i for i, label in enumerate(dataset.labels) if label == 0]
        if len(normal) < 2:
            raise DataError(f"ASR-Net needs at least 2 known normal images, got {len(normal)}.")
        self.network = place(network, device)
        self.images = dataset.images[normal if network.asr is not None else []].to(device)
        self.anomaly = RandBlendPatch() if anomaly is None else anomaly
        self.batch_size = batch_size
        self.seed = seed
        self.precision = choose_precision(precision, device)
        self.autocast = autocast(device, self.precision)
        self.optimizer = None if network.asr is None else optimizer(network.asr.parameters())
        self._order = epoch_order(len(normal), batch_size, seed=0)
        parts = (SHARDS if device.type == "cpu" else 1) if shards is None else shards
        self.shards = Shards(min(parts, self._order.shape[1]), device)
        if self.shards.number > self._order.shape[1]:
            raise ValueError(
                f"refine_batch_size must be at least the number of processes, got {self._order.shape[1]} images a "
                f"step for {self.shards.number} processes."
            )
        if device.type == "cuda" and len(self.shards.local) > 1:  # whose backward passes share one thread
            raise ValueError(f"shards must be 1 a process on a GPU, got {shards}.")
        self.maps = MapsAhead(self.network, self.images, self.anomaly, self.shards, self.precision)
        epochs = 1 if network.asr is None else max_epochs  # without ASR-Net the number has no meaning
        if (asr := network.asr) is not None and self.optimizer is not None:
            self._graphed = GraphedStep(self._whole_step, lambda: asr.state_dict().values(), self.optimizer, graph)
        super().__init__(device, epochs, len(self._order), train_handlers, train=train)
        self.epochs = {} if network.asr is None else {"asr": 0}
        self.trained = list(self.epochs)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        return {
            "ensembles": weights_digest(nn.ModuleList([self.network.ndm, self.network.udm])),
            "normal images": hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest(),
            "refine": self.network.settings.refine,
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
        """Train to ``max_epochs``; see :class:`~monai_ddad.training.ResumableTrainer`."""
        if self.network.asr is not None:
            try:
                with self.shards:
                    super().run()
            finally:
                self.maps.end()
        self.network.eval()

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the images and start a stream of anomalies of the epoch's own."""
        self.maps.begin()  # only the first epoch has anything to do
        self._order = epoch_order(len(self.images), self.batch_size, derive_seed(self.seed, STREAM, 0, epoch))
        self.anomaly.set_random_state(derive_seed(self.seed, STREAM, 1, epoch))

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        assert self.optimizer is not None and self.network.asr is not None
        if batchdata % AHEAD == 0:
            self.maps.draw(self._order[batchdata : batchdata + AHEAD])
        self.network.asr.train()
        row = batchdata % AHEAD
        maps, masks = zip(*(self.maps.of_step(shard, row) for shard in self.shards.local))
        self.state.batch = {CommonKeys.IMAGE: torch.cat(maps), CommonKeys.LABEL: torch.cat(masks)}
        if self.shards.number == 1:
            loss = self._graphed(*self.maps.of_step(0, row))
            self._graphed.wait()
        else:
            totals = self.shards.run(lambda shard: self._part_of_step(shard, row))
            loss = self._apply(totals[0])
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [{CommonKeys.LOSS: loss, "losses": {"asr": loss}}]

    def _whole_step(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Train on (B, M, H, W) maps and (B, H, W) masks; return the loss."""
        assert self.optimizer is not None and self.network.asr is not None
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast(), CPULayers():
            logits = self.network.asr(maps)
        loss = focal_loss(logits.float(), masks)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _part_of_step(self, shard: int, row: int) -> torch.Tensor:
        """Return loss and gradients of the whole batch as one vector, having computed those of one part."""
        assert self.network.asr is not None
        maps, masks = self.maps.of_step(shard, row)
        with self.autocast(), CPULayers():
            logits = apply_sharded(self.network.asr.model, maps, self.shards, shard)
        loss = focal_loss(logits.to(maps.dtype), masks) * (len(maps) / self._order.shape[1])
        gradients = torch.autograd.grad(loss, list(self.network.asr.parameters()))
        return self.shards.sum(shard, torch.cat([value.detach().reshape(-1) for value in (loss, *gradients)]))

    def _apply(self, total: torch.Tensor) -> torch.Tensor:
        """Let the optimizer step with loss and gradients that are one vector; return the loss."""
        assert self.optimizer is not None and self.network.asr is not None
        parameters = list(self.network.asr.parameters())
        loss, *gradients = total.split([1, *(parameter.numel() for parameter in parameters)])
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))  # in its memory layout
        self.optimizer.step()
        return loss[0]

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""
        assert self.optimizer is not None and self.network.asr is not None
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": self.network.asr.state_dict(),
            "optimizer": self._graphed.optimizer_state(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""
        assert self.optimizer is not None and self.network.asr is not None
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        self.network.asr.load_state_dict(state["weights"])
        self._graphed.load_optimizer_state(state["optimizer"])
        self.continue_after(self.epochs["asr"])
