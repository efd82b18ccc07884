"""Training of the two ensembles as one Ignite engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from monai_ddad.data.resident import DataError, ResidentDataset, normalise
from monai_ddad.engines.placement import autocast, place
from monai_ddad.engines.resumable import ResumableTrainer, hyperparameters
from monai_ddad.networks import AE, DDADNet
from monai_ddad.seeding import derive_seed, epoch_order

__all__ = ["EnsembleTrainer"]

MODULES = ("ndm", "udm")


@dataclass
class _Member:
    """One network in training, with the images that its module may see."""

    module: str
    index: int
    network: AE
    optimizer: torch.optim.Optimizer
    images: torch.Tensor  # positions in the data set
    order: torch.Tensor  # (steps, batch) of this epoch


class EnsembleTrainer(ResumableTrainer):
    """Advance all members of both modules, step by step, each on its own shuffle of its module's images.

    An Ignite epoch is an epoch of every member: the NDM's members pass over the known normals, the UDM's over all
    training images. Members share nothing, so each is trained as if it were alone; on a CPU they run on
    ``num_workers`` threads with one core each. A member's weights depend on ``seed``, its module and its index only.

    Args:
        device: where to train.
        max_epochs: epochs of each member.
        network: the model whose ``ndm`` and ``udm`` are trained.
        dataset: known normal (label 0) and unlabelled (None) images.
        optimizer: makes an optimizer from one member's parameters.
        batch_size: images a step; the last incomplete batch of an epoch is dropped, and fewer images than a batch
            make one batch.
        seed: seed of the data order.
        modules: which of ``"ndm"`` and ``"udm"`` to train; the others keep the weights that they have.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        num_workers: members trained at the same time on a CPU; None takes one a core.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.handlers.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done by each module.

    Raises:
        DataError: fewer than 2 known normal or 2 unlabelled images, or images of other channels than the network's.
        ValueError: an unknown module, or a batch of one image.

    After each step ``state.output[0]`` holds the mean ``loss`` of the members that stepped and ``losses``, theirs by
    name; after each epoch ``state.metrics`` holds the mean ``ndm_loss`` and ``udm_loss``.

    Source: MedIA 2023, section 3.2; method.md sections 1 and 2 (losses and optimiser).

    Example:
        >>> from functools import partial
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), 30 * item["image"])})
        >>> network = DDADNet(image_size=16, width=2, hidden_size=8, latent_size=2, seed=0)
        >>> adam = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999))
        >>> trainer = EnsembleTrainer("cpu", 2, network, data, adam, batch_size=4)
        >>> trainer.run()
        >>> trainer.epochs
        {'ndm': 2, 'udm': 2}
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        network: DDADNet,
        dataset: ResidentDataset,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        batch_size: int = 64,
        seed: int = 0,
        modules: Sequence[str] = MODULES,
        precision: str = "float32",
        num_workers: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (for batch normalisation), got {batch_size}.")
        unknown = set(modules) - set(MODULES)
        if unknown:
            raise ValueError(f"modules must be among {MODULES}, got {sorted(unknown)}.")
        device = torch.device(device)
        self.network = place(network, device)
        trained = [module for module in MODULES if module in modules]
        self.batch_size = batch_size
        self.seed = seed
        self.precision = precision
        self.autocast = autocast(device, precision)
        self.num_workers = (num_workers or os.cpu_count() or 1) if device.type == "cpu" else 1
        self.images, self.members = self._prepare(dataset, device, optimizer)
        self.data_hash = dataset.sha256
        steps = max((len(member.order) for member in self.members if member.module in trained), default=1)
        super().__init__(device, max_epochs, steps, train_handlers, train=bool(trained))
        self.epochs = dict.fromkeys(MODULES, 0)
        self.trained = trained

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        return {
            "network": self.network.settings,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "optimizer": hyperparameters(self.members[0].optimizer),
            "training images": self.data_hash,
        }

    def _prepare(
        self,
        dataset: ResidentDataset,
        device: torch.device,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    ) -> tuple[torch.Tensor, list[_Member]]:
        normal = torch.tensor([i for i, label in enumerate(dataset.labels) if label == 0])
        positions = {"ndm": normal, "udm": torch.arange(len(dataset))}
        if len(normal) < 2 or len(dataset) - len(normal) < 2:
            raise DataError(
                f"training needs at least 2 known normal and 2 unlabelled images, got {len(normal)} and "
                f"{len(dataset) - len(normal)}."
            )
        if dataset.images.shape[1] != self.network.in_channels:
            raise DataError(
                f"the prepared images have {dataset.images.shape[1]} channels and the network expects "
                f"{self.network.in_channels}: set in_channels to the former."
            )
        members = []
        for module in MODULES:
            for index, member in enumerate(getattr(self.network, module).members):
                order = epoch_order(len(positions[module]), self.batch_size, seed=0)
                members.append(_Member(module, index, member, optimizer(member.parameters()), positions[module], order))
        return dataset.images.to(device), members

    def run(self) -> None:
        """Train to ``max_epochs``; see :class:`~monai_ddad.engines.ResumableTrainer`."""
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.num_workers, initializer=self._start_thread) as self._pool:
                super().run()
        finally:
            torch.set_num_threads(threads)
        self.network.eval()

    def _start_thread(self) -> None:
        if self.images.device.type == "cpu":
            torch.set_num_threads(1)  # also for one worker, since the number of threads changes the rounding

    def start_epoch(self, epoch: int) -> None:
        """Shuffle each member's images."""
        for member in self.members:
            seed = derive_seed(self.seed, MODULES.index(member.module), member.index, epoch)
            member.order = member.images[epoch_order(len(member.images), self.batch_size, seed)]

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        stepping = [
            member
            for member in self.members
            if member.module in self.trained
            and batchdata < len(member.order)
            and self.epochs[member.module] < self.state.epoch
        ]
        losses = list(self._pool.map(lambda member: self._step(member, member.order[batchdata]), stepping))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        names = [f"{member.module}[{member.index}]" for member in stepping]
        mean = torch.stack(losses).mean() if losses else torch.zeros(())
        return [{CommonKeys.LOSS: mean, "losses": dict(zip(names, losses))}]

    def _step(self, member: _Member, positions: torch.Tensor) -> torch.Tensor:
        images = normalise(self.images[positions.to(self.images.device)])
        member.network.train()
        member.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = member.network.training_loss(images)
        loss.backward()
        member.optimizer.step()
        return loss.detach()

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": [member.network.state_dict() for member in self.members],
            "optimizers": [member.optimizer.state_dict() for member in self.members],
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        for member, weights, optimizer in zip(self.members, state["weights"], state["optimizers"]):
            member.network.load_state_dict(weights)
            member.optimizer.load_state_dict(optimizer)
        # the modules that are not trained do not hold back the others
        self.continue_after(min((self.epochs[module] for module in self.trained), default=0))
