"""Training of the refinement of features on synthetic anomalies as an Ignite engine."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from monai_ddad.data.resident import keys_of
from monai_ddad.io.checkpoints import weights_digest
from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import remove_leftovers
from monai_ddad.networks import CellASRNet, FeatureNet
from monai_ddad.placement import resolve_device
from monai_ddad.ranks import broadcast, from_first
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training.feature_store import Features, FeatureStore, describe
from monai_ddad.training.feature_trainer import FeatureTrainer
from monai_ddad.training.resumable import ResumableTrainer, hyperparameters
from monai_ddad.transforms.anomalies import RandAnomalies
from monai_ddad.transforms.eight_bit import eight_bits, normalise

__all__ = ["FeatureRefineTrainer"]

STREAM = 2  # as of ASR-Net
PICTURES = 600  # that anomalies are drawn into, at most, if no known normal is drawn into twice; else at least
CELLS = 256  # of a picture, at most, among them those that are altered
TOGETHER = 16  # pictures of a file


class FeatureRefineTrainer(ResumableTrainer):
    """Train ``asr`` of a network of features to tell cells with synthetic anomalies from others.

    Anomalies are drawn into known normals, the encoder describes these pictures once, and some of their cells are
    stored beside the features of the training: what is drawn depends on the picture and the seed alone. The training
    itself takes seconds. One process computes it, on the CPU and in double precision, so that neither the number of
    processes and threads nor a GPU changes the result.

    Args:
        device: where the encoder computes.
        max_epochs: epochs over the stored cells.
        network: with fitted distributions; without refinement (``refine="none"``) nothing is done.
        ensembles: has fitted them, and knows the images and the folder of their features.
        optimizer: makes an optimizer from the parameters.
        batch_size: cells a step.
        seed: of the initial weights, the order and the anomalies.
        anomaly: draws the synthetic anomalies.
        train: False only loads what an earlier run left.
        train_handlers: handlers to attach, among them a :class:`~monai_ddad.training.ResumeCheckpoint`.

    Attributes:
        epochs: epochs done.

    After each step ``state.output[0]`` holds ``loss``; ``state.batch`` holds the (B, F + 3) inputs as ``"image"`` and
    the (B,) shares of the cells that are altered as ``"label"``.

    Source: the principle is that of MedIA 2023, section 3.4; inputs, anomalies, labels and loss are not of the paper.
    """

    network: FeatureNet  # type: ignore[assignment]

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        network: FeatureNet,
        ensembles: FeatureTrainer,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        batch_size: int = 4096,
        seed: int = 0,
        anomaly: RandAnomalies | None = None,
        train: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.ensembles = ensembles
        self.anomaly = RandAnomalies() if anomaly is None else anomaly
        self.batch_size = batch_size
        self.seed = seed
        self.precision = "float32"
        self._asr = copy.deepcopy(network.asr).double().cpu() if network.asr is not None else None
        if self._asr is not None:
            self._initialise(self._asr)
        self.optimizer = None if self._asr is None else optimizer(self._asr.parameters())
        epochs = 1 if network.asr is None else max_epochs  # without refinement the number has no meaning
        super().__init__(resolve_device(device), epochs, 1, train_handlers, train=train)
        self.network = network
        self.epochs = {} if network.asr is None else {"asr": 0}
        self.trained = list(self.epochs)

    def _initialise(self, asr: CellASRNet) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, STREAM, 0))
            for layer in asr.model:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""
        return {
            "distributions": weights_digest(self.network.dual),
            "pictures": hashlib.sha256("".join(self._pictures).encode()).hexdigest(),
            "anomaly": self.anomaly.settings,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "optimizer": None if self.optimizer is None else hyperparameters(self.optimizer),
        }

    def run(self) -> None:
        """Train to ``max_epochs``; see :class:`~monai_ddad.training.ResumableTrainer`."""
        asr = self.network.asr
        if self._asr is not None and asr is not None:
            units = {name: value.cpu() for name, value in asr.named_buffers()}
            self._asr.load_state_dict(self._asr.state_dict() | units)
            self._pictures, steps = from_first(self._prepare)
            self.data_loader = range(steps)
            self.state.epoch_length = steps
            super().run()
            broadcast([*asr.parameters(), *asr.buffers()], rank=0)
        self.network.eval()

    def _prepare(self) -> tuple[list[str], int]:
        """Return the keys of the pictures, and the steps of an epoch, having read what is learnt from."""
        pictures = self._choose()
        if not self.state.max_epochs:
            return pictures, 0
        pictures = self._learn_from(pictures)
        return pictures, len(epoch_order(len(self._targets), self.batch_size, seed=0))

    def _choose(self) -> list[str]:
        """Return the keys of the pictures that anomalies are drawn into: ``<key of the image>-<number of the draw>``.

        They depend on which known normals there are, not on their order, and each on its image alone, so that images
        that are added later need only their own.
        """
        features = self.ensembles.features
        assert features is not None
        normals = sorted({key for key, known in zip(features.keys, features.known.tolist()) if known})[:PICTURES]
        return [f"{key}-{draw}" for draw in range(-(-PICTURES // len(normals))) for key in normals]

    def _learn_from(self, pictures: list[str]) -> list[str]:
        """Draw and store what is missing, and read what is learnt from; return the keys of what there is."""
        what = f"anomalies {self.anomaly.settings}, seed {self.seed}"
        folder, preparation = self.ensembles.folder / "altered", self.ensembles.preparation
        store = FeatureStore(folder, self.network, preparation, what)
        dataset = self.ensembles.dataset
        places = {key: place for place, key in enumerate(keys_of(dataset.images))}
        missing = [key for key in pictures if key not in store and key.split("-")[0] in places]
        remove_leftovers(folder)
        for start in tqdm(range(0, len(missing), TOGETHER), desc="Synthetic anomalies", unit="batch", disable=None):
            keys = missing[start : start + TOGETHER]
            images = dataset.images[[places[key.split("-")[0]] for key in keys]]
            store.put(keys, self._altered(images, keys))
        pictures = [key for key in pictures if key in store]
        if not pictures:
            raise DataError("there are no known normals to draw anomalies into: train on all images without add.")
        store.keep(pictures)
        found: Features = {}
        for rows, part in store.read(pictures):
            for name, values in part.items():
                found.setdefault(name, values.new_empty(len(pictures), *values.shape[1:]))[rows] = values
        cells = found["cells"].flatten(0, 1)
        self._targets, self._weights = found["targets"].flatten().double(), found["weights"].flatten().double()
        dual, asr = copy.deepcopy(self.network.dual).cpu().double(), self._asr
        assert asr is not None
        self._inputs = torch.cat(
            [asr.inputs(part.double(), *dual(part.double())).float() for part in cells.split(2**14)]
        )
        return pictures

    def _altered(self, images: torch.Tensor, keys: Sequence[str]) -> Features:
        """Draw anomalies into (B, C, H, W) uint8 images, and describe some cells: (B, n, F), (B, n) and (B, n)."""
        drawn, labels = [], []
        for image, key in zip(normalise(images).double(), keys):
            name, number = key.split("-")
            self.anomaly.set_random_state(derive_seed(self.seed, STREAM, 1, int(name[:8], 16), int(number)))
            altered = self.anomaly(image)
            drawn.append(eight_bits(altered))
            labels.append(self.anomaly.label(image, normalise(drawn[-1])))
        features = describe(self.network, torch.stack(drawn))
        fine, _ = self.network.cells(features["first"].double(), features["second"].double())
        targets = F.adaptive_avg_pool2d(torch.stack(labels)[:, None], fine.shape[1]).flatten(1)
        generators = [
            torch.Generator().manual_seed(derive_seed(self.seed, STREAM, 2, int(key[:8], 16))) for key in keys
        ]
        random = torch.stack([torch.rand(targets.shape[1], generator=one) for one in generators])
        marked = targets > 0
        chosen = (random + marked).topk(min(CELLS, targets.shape[1]), dim=1).indices
        taken = marked.gather(1, chosen)
        shares = [side.sum(dim=1, keepdim=True) for side in (marked, ~marked, taken, ~taken)]
        weights = torch.where(taken, shares[0] / shares[2].clamp(min=1), shares[1] / shares[3].clamp(min=1))
        cells = fine.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, fine.shape[-1]))
        return {"cells": cells.half(), "targets": targets.gather(1, chosen).float(), "weights": weights.float()}

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the cells."""
        if idist.get_rank() == 0:
            self._order = epoch_order(len(self._targets), self.batch_size, derive_seed(self.seed, STREAM, 3, epoch))

    def _iteration(self, engine: Any, batchdata: int) -> list[dict[str, Any]]:
        loss = torch.zeros(())
        if idist.get_rank() == 0:
            assert self.optimizer is not None and self._asr is not None
            rows = self._order[batchdata]
            self.state.batch = {CommonKeys.IMAGE: self._inputs[rows], CommonKeys.LABEL: self._targets[rows]}
            logits = self._asr.model(self._inputs[rows].double())[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, self._targets[rows], weight=self._weights[rows])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self._show()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        loss = loss.detach().float()
        return [{CommonKeys.LOSS: loss, "losses": {} if idist.get_rank() else {"asr": loss}}]

    def _show(self) -> None:
        """Give the network what is learnt so far."""
        assert self._asr is not None and self.network.asr is not None
        self.network.asr.load_state_dict(self._asr.state_dict())

    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""
        assert self.optimizer is not None and self._asr is not None
        return {
            "epochs": dict(self.epochs),
            "seconds": self.seconds,
            "weights": self._asr.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""
        assert self.optimizer is not None and self._asr is not None
        self.epochs = dict(state["epochs"])
        self.seconds = state["seconds"]
        self._asr.load_state_dict(state["weights"])
        self._show()
        self.optimizer.load_state_dict(state["optimizer"])
        self.continue_after(self.epochs["asr"])
