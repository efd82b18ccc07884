"""Training of classifiers between known normals and unlabelled images as an Ignite engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.data.resident import DataError, ResidentDataset, normalise
from monai_ddad.engines.members import MakeOptimizer
from monai_ddad.engines.resumable import ResumableTrainer, hyperparameters
from monai_ddad.losses import nnpu_loss
from monai_ddad.machine import available_cores
from monai_ddad.networks import DDADNet
from monai_ddad.networks.cpu_layers import CPULayers
from monai_ddad.placement import autocast, choose_precision, place
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.transforms.alter import RandAlter

__all__ = ["PUTrainer"]

STREAM = 3  # beside ASR-Net's 2


class PUTrainer(ResumableTrainer):
    """Train each member of ``pu`` to tell unlabelled images from known normals, on altered images.

    A step takes a batch of known normals and one of unlabelled images; an epoch passes over both, again over the fewer.
    On a CPU the members run on ``num_workers`` threads with one core each; under ``torchrun`` every process trains all
    of them. A member's weights depend on ``seed`` and its index only.

    Args:
        device: where to train.
        max_epochs: epochs of each member.
        network: the model; without classifiers (``pu_members=0``) nothing is done.
        dataset: known normal (label 0) and unlabelled (None) images.
        optimizer: makes an optimizer from one member's parameters.
        prior: share of abnormal images that is assumed among the unlabelled ones, in (0, 1).
        batch_size: known normals a step, and unlabelled images a step.
        seed: seed of the data order and of the alterations.
        alterations: draws how images are altered.
        precision: see :func:`~monai_ddad.placement.choose_precision`.
        num_workers: members trained at the same time on a CPU; None takes one a core.
        train: False only loads what an earlier run left.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.handlers.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done.

    Raises:
        DataError: there are classifiers, and no known normal or no unlabelled image.
        ValueError: no image a batch, or an impossible prior.

    After each step ``state.output[0]`` holds the mean ``loss`` and ``losses``, those of the members by name; after each
    epoch ``state.metrics`` holds the mean ``pu_loss``.

    Source: Kiryo et al., NeurIPS 2017; see :func:`~monai_ddad.losses.nnpu_loss`.

    Example:
        >>> from functools import partial
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), item["image"] / 4 - 1)})
        >>> network = DDADNet(image_size=16, width=2, hidden_size=8, latent_size=2, pu_members=2, seed=0)
        >>> trainer = PUTrainer("cpu", 1, network, data, partial(torch.optim.Adam, lr=1e-3), batch_size=4)
        >>> trainer.run()
        >>> trainer.epochs
        {'pu': 1}
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        network: DDADNet,
        dataset: ResidentDataset,
        optimizer: MakeOptimizer,
        prior: float = 0.5,
        batch_size: int = 64,
        seed: int = 0,
        alterations: RandAlter | None = None,
        precision: str = "float32",
        num_workers: int | None = None,
        train: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = torch.device(device)
        self.network = place(network, device)
        self.members = [] if network.pu is None else list(network.pu.members)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.known, self.pool = (
            torch.tensor([i for i, label in enumerate(dataset.labels) if (label == 0) is side], dtype=torch.long)
            for side in (True, False)
        )
        if self.members and not (len(self.known) and len(self.pool)):
            raise DataError(
                f"pu_members needs known normal and unlabelled images, got {len(self.known)} and {len(self.pool)}: set "
                "it to 0."
            )
        nnpu_loss(torch.zeros(1), torch.zeros(1), prior)  # refuses an impossible prior before anything is trained
        self.data_hash = dataset.sha256
        self.images = dataset.images.to(device if self.members else "cpu")
        self.optimizers = [optimizer(member.parameters()) for member in self.members]
        self.prior = prior
        self.batch_size = batch_size
        self.seed = seed
        self.alterations = RandAlter() if alterations is None else alterations
        self.precision = choose_precision(precision, device)
        self.autocast = autocast(device, self.precision)
        self.num_workers = (num_workers or available_cores()) if device.type == "cpu" else 1
        self._orders: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._generators: list[torch.Generator] = []
        steps = max(len(order) for order in self._shuffled(0, 0)) if self.members else 1
        super().__init__(device, max_epochs if self.members else 1, steps, train_handlers, train=train)
        self.epochs = {"pu": 0} if self.members else {}
        self.trained = list(self.epochs)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        return {
            "training images": self.data_hash,
            "pu_members": len(self.members),
            "pu_prior": self.prior,
            "alterations": vars(self.alterations),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "optimizer": hyperparameters(self.optimizers[0]),
        }

    def run(self) -> None:
        """Train to ``max_epochs``; see :class:`~monai_ddad.engines.ResumableTrainer`."""
        threads = torch.get_num_threads()
        if self.members:
            try:  # one thread each also for one worker, since the number of threads changes the rounding
                with ThreadPoolExecutor(
                    self.num_workers, initializer=torch.set_num_threads, initargs=(1,)
                ) as self._workers:
                    super().run()
            finally:
                torch.set_num_threads(threads)
        self.network.eval()

    def start_epoch(self, epoch: int) -> None:
        """Shuffle each member's images and start its stream of alterations."""
        members = range(len(self.members))
        self._orders = [self._shuffled(k, epoch) for k in members]
        self._generators = [torch.Generator().manual_seed(derive_seed(self.seed, STREAM, k, epoch, 2)) for k in members]

    def _shuffled(self, k: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (steps, batch) positions of a member's known normals and unlabelled images."""
        known, pool = (
            positions[epoch_order(len(positions), self.batch_size, derive_seed(self.seed, STREAM, k, epoch, side))]
            for side, positions in enumerate((self.known, self.pool))
        )
        return known, pool

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        losses = list(self._workers.map(lambda k: self._step(k, batchdata), range(len(self.members))))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        names = [f"pu[{k}]" for k in range(len(losses))]
        return [{CommonKeys.LOSS: torch.stack(losses).mean(), "losses": dict(zip(names, losses))}]

    def _step(self, k: int, step: int) -> torch.Tensor:
        """Train one member; return its loss."""
        member, optimizer = self.members[k], self.optimizers[k]
        known, pool = (order[step % len(order)] for order in self._orders[k])
        positions = torch.cat([known, pool]).to(self.images.device)
        images = self.alterations(normalise(self.images[positions]), self._generators[k])
        member.train()
        optimizer.zero_grad(set_to_none=True)
        with self.autocast(), CPULayers():
            logits = member(images.contiguous(memory_format=torch.channels_last))[:, 0].float()
        loss = nnpu_loss(logits[: len(known)], logits[len(known) :], self.prior)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": [member.state_dict() for member in self.members],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        for member, optimizer, weights, own in zip(
            self.members, self.optimizers, state["weights"], state["optimizers"]
        ):
            member.load_state_dict(weights)
            optimizer.load_state_dict(own)
        self.continue_after(self.epochs["pu"])
