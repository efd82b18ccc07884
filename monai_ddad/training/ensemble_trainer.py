"""Training of the two ensembles as one Ignite engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.machine import available_cores
from monai_ddad.networks import AE, DDADNet
from monai_ddad.placement import autocast, choose_precision, place, resolve_device
from monai_ddad.ranks import broadcast, gather
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training.members import AllOptimizers, MakeOptimizer, Member
from monai_ddad.training.resumable import ResumableTrainer, hyperparameters
from monai_ddad.training.units import MODULES, list_entries, make_units, plan_turns, require_both_kinds
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["EnsembleTrainer"]


class EnsembleTrainer(ResumableTrainer):
    """Advance all members of both modules, step by step, each on its own shuffle of its module's images.

    An Ignite epoch is an epoch of every member: the NDM's members pass over the known normals, the UDM's over all
    training images. Members share nothing, so each is trained as if it were alone; on a CPU they run on
    ``num_workers`` threads with one core each, on a GPU one after the other, or side by side with ``graph``.
    Under ``torchrun`` each process trains some of the members. A member's weights depend on ``seed``,
    its module and its index only.

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
        precision: see :func:`~monai_ddad.placement.choose_precision`.
        num_workers: members trained at the same time on a CPU; None takes one a core.
        graph: on a GPU, record each member's step as a CUDA graph; they then run side by side.
        gather_interval: epochs after which all processes get all weights, for handlers that use them; they always do
            at the end.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.training.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done by each module.
        optimizer: that of all members of this process, for schedules of the rate.

    Raises:
        DataError: fewer than 2 known normal or 2 unlabelled images, or images of other channels than the network's.
        ValueError: an unknown module, or a batch of one image.

    An iteration is a step of as many members as run side by side. After it ``state.output[0]`` holds the mean ``loss``
    of the members that stepped and ``losses``, theirs by name; ``state.batch["image"]`` holds the (B, C, H, W) images
    that they stepped on, one member's behind the other's. After each epoch ``state.metrics`` holds the mean
    ``ndm_loss`` and ``udm_loss``.

    Source: MedIA 2023, section 3.2; method.md sections 1 and 2 (losses and optimiser).

    Example:
        >>> from functools import partial
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), item["image"] / 4 - 1)})
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
        optimizer: MakeOptimizer,
        batch_size: int = 64,
        seed: int = 0,
        modules: Sequence[str] = MODULES,
        precision: str = "float32",
        num_workers: int | None = None,
        graph: bool = False,
        gather_interval: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (for batch normalisation), got {batch_size}.")
        unknown = set(modules) - set(MODULES)
        if unknown:
            raise ValueError(f"modules must be among {MODULES}, got {sorted(unknown)}.")
        device = resolve_device(device)
        self.network = place(network, device)
        trained = [module for module in MODULES if module in modules]
        self.batch_size = batch_size
        self.seed = seed
        self.precision = choose_precision(precision, device)
        self.autocast = autocast(device, self.precision)
        self.num_workers = (num_workers or available_cores()) if device.type == "cpu" else 1
        self.gather_interval = gather_interval
        self._optimizer_settings = hyperparameters(optimizer([nn.Parameter(torch.zeros(1, device=device))]))
        self.data_hash = dataset.sha256
        self.images = dataset.images.to(device)
        require_both_kinds(dataset, network.in_channels)
        normal = torch.tensor([i for i, label in enumerate(dataset.labels) if label == 0])
        positions = {"ndm": normal, "udm": torch.arange(len(dataset))}
        self.entries = list_entries(self.network, positions, batch_size, trained)

        def make(member: AE) -> Member:
            return Member(member, optimizer, self.images, self.autocast, graph)

        self.units = make_units(self.entries, positions, trained, make)
        self.optimizer = AllOptimizers([unit.member.optimizer for unit in self.units])
        side_by_side = self.num_workers if self._on_threads else len(self.units)
        self._turns = plan_turns([unit.entry.steps for unit in self.units], side_by_side)
        self._resumed: dict[str, dict[str, Any]] = {}  # optimizers of the modules that this run does not train
        super().__init__(device, max_epochs, max(1, len(self._turns)), train_handlers, train=bool(trained))
        self.epochs = dict.fromkeys(MODULES, 0)
        self.trained = trained

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        return {
            "network": self.network.settings.ensembles,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "optimizer": self._optimizer_settings,
            "training images": self.data_hash,
        }

    @property
    def _on_threads(self) -> bool:
        return self.images.device.type == "cpu"

    def run(self) -> None:
        """Train to ``max_epochs``; see :class:`~monai_ddad.training.ResumableTrainer`."""
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.num_workers, initializer=self._start_thread) as self._pool:
                super().run()
        finally:
            torch.set_num_threads(threads)
        self.share_weights()
        self.network.eval()

    def _start_thread(self) -> None:
        if self.images.device.type == "cpu":
            torch.set_num_threads(1)  # also for one worker, since the number of threads changes the rounding

    def start_epoch(self, epoch: int) -> None:
        """Shuffle each member's images."""
        for unit in self.units:
            seed = derive_seed(self.seed, MODULES.index(unit.entry.module), unit.entry.index, epoch)
            order = unit.positions[epoch_order(len(unit.positions), self.batch_size, seed)]
            unit.order = order.to(self.images.device)

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        turn = self._turns[batchdata] if self._turns else []
        stepping = [
            (unit, unit.order[step])
            for unit, step in ((self.units[i], step) for i, step in turn)
            if self.epochs[unit.entry.module] < self.state.epoch
        ]
        seen = torch.cat([positions for _, positions in stepping] or [torch.zeros(0, dtype=torch.long)])
        self.state.batch = {CommonKeys.IMAGE: normalise(self.images[seen])}
        if self._on_threads:
            found = list(self._pool.map(lambda job: job[0].member.step(job[1]), stepping))
        else:
            found = [unit.member.step(positions) for unit, positions in stepping]
            for unit, _ in stepping:
                unit.member.graphed.wait()
        last = self.state.iteration % self.state.epoch_length == 0
        if last and self.gather_interval and self.state.epoch % self.gather_interval == 0:
            self.share_weights()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        losses = torch.stack(found) if found else torch.zeros(0)
        names = [unit.entry.name for unit, _ in stepping]
        mean = losses.mean() if found else torch.zeros(())
        return [{CommonKeys.LOSS: mean, "losses": dict(zip(names, losses))}]

    def share_weights(self) -> None:
        """Give all processes the weights as they are now; all have to call."""
        for entry in self.entries:
            broadcast(entry.network.state_dict().values(), entry.rank)

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch; all processes have to call."""
        self.share_weights()
        own = [(unit.entry.name, unit.member.state()) for unit in self.units]
        states = {**self._resumed, **dict(gather(own))}
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": {entry.name: entry.network.state_dict() for entry in self.entries},
            "optimizers": {entry.name: states[entry.name] for entry in self.entries if entry.name in states},
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned, with any number of processes."""
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        for entry in self.entries:
            entry.network.load_state_dict(state["weights"][entry.name])
        optimizers = state["optimizers"]
        self._resumed = {
            entry.name: optimizers[entry.name]
            for entry in self.entries
            if entry.module not in self.trained and entry.name in optimizers
        }
        for unit in self.units:
            if unit.entry.name in optimizers:
                unit.member.load_state(optimizers[unit.entry.name])
        # the modules that are not trained do not hold back the others
        self.continue_after(min((self.epochs[module] for module in self.trained), default=0))
