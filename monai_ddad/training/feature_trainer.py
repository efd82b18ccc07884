"""The pass over the training images that fits the distributions of features, as an Ignite engine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.data.resident import ResidentDataset, keys_of
from monai_ddad.io.writing import remove_leftovers
from monai_ddad.networks import FeatureNet
from monai_ddad.placement import place, resolve_device, set_tf32
from monai_ddad.ranks import broadcast, from_first
from monai_ddad.training.feature_fit import TrainingFeatures
from monai_ddad.training.feature_store import FeatureStore
from monai_ddad.training.hold_out import find_groups
from monai_ddad.training.units import require_both_kinds
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["FeatureTrainer"]


class FeatureTrainer(Trainer):
    """Store the features of all training images, and fit NDM and UDM to them.

    An iteration is a batch of images whose features are not stored yet, so a run that was stopped anywhere goes on from
    there. There is one epoch and nothing random: the same images in any number of processes and of runs give the same
    distributions. The processes of ``torchrun`` share the folder.

    Args:
        device: where the encoder computes.
        network: whose distributions are fitted.
        dataset: known normal (label 0) and unlabelled (None) images.
        folder: of the stored features; None keeps them until the trainer is gone.
        preparation: settings of the images' preparation by name; see :class:`.feature_store.FeatureStore`.
        add: add the images to those that the last fit of the folder was made of, whose files are not needed any more.
            One that comes again counts once, as what it is now; a group does not go beyond one call.
        batch_size: images of a file, a multiple of 16 to lose no time.
        train: False leaves the network as it is.
        train_handlers: handlers to attach.

    Attributes:
        features: of the images, once they are stored.
        epochs: passes done, by module.
        seconds: time spent.

    Raises:
        DataError: fewer than 2 known normal or 2 unlabelled images, images of other channels than the network's, or no
            earlier fit to add to.

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
        folder: str | os.PathLike[str] | None = None,
        preparation: Mapping[str, Any] | None = None,
        add: bool = False,
        batch_size: int = 16,
        train: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        require_both_kinds(dataset, network.in_channels, 0 if add else 2)
        self.network = place(network, resolve_device(device))
        self.dataset = dataset
        if folder is None:
            if idist.get_world_size() > 1:
                raise ValueError("several processes need a folder for features that all of them see.")
            self._temporary = tempfile.TemporaryDirectory()
            folder = self._temporary.name
        self.folder = Path(folder)
        self.preparation = preparation
        self.add = add
        self.batch_size = batch_size
        self.features: TrainingFeatures | None = None
        self.epochs = {"ndm": 0, "udm": 0}
        self.precision = "float32"
        self.seconds = 0.0
        super().__init__(
            device=resolve_device(device), max_epochs=1 if train else 0, data_loader=range(1), decollate=False
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
        """Look at all images that are new, and fit."""
        set_tf32(self.state.device, self.precision)
        self._started = time.perf_counter()
        if self.state.max_epochs:
            self._keys = keys_of(self.dataset.images)
            self._store = FeatureStore(self.folder, self.network, self.preparation)
            self._earlier = self._store.recall() if self.add else {}
            self._batches = self._missing()
            # as many in each process, of which some may be empty, and at least one, or the engine would not run
            steps = max(1, -(-len(self._batches) // idist.get_world_size()))
            self.data_loader = range(steps)
            self.state.epoch_length = steps
            super().run()
        self.network.eval()

    def _missing(self) -> list[list[int]]:
        """Return the images without features in batches, the same in all processes."""
        first = {key: index for index, key in reversed(list(enumerate(self._keys)))}
        every = sorted(first.values())
        missing = from_first(lambda: [index for index in every if self._keys[index] not in self._store])
        return [missing[start : start + self.batch_size] for start in range(0, len(missing), self.batch_size)]

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        own = batchdata * idist.get_world_size() + idist.get_rank()
        images = self.dataset.images[self._batches[own] if own < len(self._batches) else []]
        self.state.batch = {CommonKeys.IMAGE: normalise(images).to(self.state.device)}
        if len(images):
            self._store.add(images)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [{CommonKeys.LOSS: torch.zeros(()), "losses": {}}]

    def _joined(self) -> dict[str, list[Any]]:
        """Return what the fit is made of: the images of an earlier one that do not come again, and these."""
        dataset, known = self.dataset, [label == 0 for label in self.dataset.labels]
        new: dict[str, list[Any]] = {
            "keys": self._keys,
            "known": known,
            "groups": find_groups(dataset),
            "volumes": dataset.volumes,
        }
        again = set(self._keys)
        kept = [place for place, key in enumerate(self._earlier.get("keys", ())) if key not in again]
        old = {name: [self._earlier[name][place] for place in kept] for name in new}
        for name in ("groups", "volumes"):  # numbers that the old ones do not have
            first = 1 + max((number for number in old[name] if number is not None), default=-1)
            new[name] = [None if number is None else first + number for number in new[name]]
        joined = {name: old[name] + values for name, values in new.items()}
        order = sorted(range(len(joined["keys"])), key=lambda place: not joined["known"][place])  # normals first
        return {name: [values[place] for place in order] for name, values in joined.items()}

    def finish(self) -> None:
        """Fit the distributions to what all processes have stored."""
        idist.barrier()
        if idist.get_rank() == 0:
            self._store.scan()
            fitted = self._joined()
            self._store.keep(fitted["keys"])
            self._store.remember(fitted)
            remove_leftovers(self.folder)
            self.features = TrainingFeatures(self._store, **fitted)
            self.network.fit(*(sums.fine for sums in self.features.totals))
        place(self.network, self.state.device)
        broadcast(self.network.dual.buffers(), rank=0)
        if self.network.asr is not None:
            broadcast(self.network.asr.buffers(), rank=0)
        self.network.mark_loaded()
        self.epochs = {"ndm": 1, "udm": 1}
        self.seconds += time.perf_counter() - self._started
