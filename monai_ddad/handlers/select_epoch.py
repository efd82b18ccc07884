"""Handler that chooses the epoch of the ensembles without labels."""

from __future__ import annotations

import logging
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events

from monai_ddad.data.resident import ResidentDataset, normalise
from monai_ddad.engines.units import MODULES
from monai_ddad.metrics import aucp
from monai_ddad.networks import UNFITTED_NAMES
from monai_ddad.runtimes import Runtime

__all__ = ["SelectEpoch"]

logger = logging.getLogger(__name__)

BATCH = 64


class SelectEpoch:
    """Let a training of the ensembles end with the weights of the epoch that has the highest AUCp.

    Every few epochs, and after the last, known normal and unlabelled images are scored by the networks as they are.
    ``state.metrics["aucp_<score>"]`` then holds the AUROC between them. The weights of both modules at the best of
    these epochs, of equal ones the first, become ``engine.selected``, which checkpoints hold and which
    :class:`~monai_ddad.engines.EnsembleTrainer` puts back at the end. Goes before the handler that saves checkpoints.

    Args:
        normals: known normals that no network is trained on. Those of the calibration must not be among them: the
            promise of p-values is that nothing was chosen by their images.
        unlabeled: unlabelled images that no network is trained on.
        score: what is compared: a map's mean (``inter``, ``intra``, ``rec``), or one of
            :data:`~monai_ddad.networks.UNFITTED_NAMES` where the network has them.
        interval: epochs from one scoring to the next.

    Raises:
        ValueError: there are no known normal or no unlabelled images; when attached, the network has no such score; on
            start, one module is trained without the other, so that they would not be of one epoch.

    Source: see :func:`monai_ddad.metrics.aucp`.

    Example:
        >>> from functools import partial
        >>> from monai_ddad.engines import EnsembleTrainer
        >>> from monai_ddad.networks import DDADNet
        >>> items = [{"image": value, "label": None if value % 2 else 0} for value in range(8)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 16, 16), item["image"] / 4 - 1)})
        >>> select = SelectEpoch(data.subset([0]), data.subset([1]), score="rec")
        >>> network, adam = DDADNet(image_size=16, width=2, hidden_size=8), partial(torch.optim.Adam, lr=5e-4)
        >>> trainer = EnsembleTrainer("cpu", 2, network, data.subset(range(2, 8)), adam, 4, train_handlers=[select])
        >>> trainer.run()
        >>> trainer.selected["epoch"] in (1, 2), trainer.selected["value"] == max(select.found.values())
        (True, True)
    """

    every_process = True

    def __init__(
        self, normals: ResidentDataset, unlabeled: ResidentDataset, score: str = "inter", interval: int = 1
    ) -> None:
        if not len(normals) or not len(unlabeled):
            raise ValueError(
                f"an epoch is chosen by known normal and unlabelled images that are set aside, got {len(normals)} and "
                f"{len(unlabeled)}: raise selection_share or selection_minimum, or set selection_share to 0."
            )
        self.normals = normals
        self.unlabeled = unlabeled
        self.score = score
        self.interval = interval
        self.found: dict[int, float] = {}  # AUCp by epoch, of this run

    def attach(self, engine: Any) -> None:
        """Attach to an :class:`~monai_ddad.engines.EnsembleTrainer`."""
        network = engine.network.without_refinement(keep_plus=self.score in UNFITTED_NAMES)
        names = [*engine.network.discrepancy_names, *([] if engine.network.plus is None else UNFITTED_NAMES)]
        if self.score not in names:
            raise ValueError(f"an epoch can be chosen by {', '.join(names)}, got selection_score {self.score!r}.")
        self._column = network.score_names.index(self.score)
        self._network = Runtime(network, device=engine.device)
        engine.selection = {
            "score": self.score,
            "interval": self.interval,
            "normal": len(self.normals),
            "unlabeled": len(self.unlabeled),
            "sha256": [self.normals.sha256, self.unlabeled.sha256],
        }
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.forget)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: Any) -> None:
        """Refuse to choose an epoch of one module alone."""
        if engine.trained and set(engine.trained) != set(MODULES):
            raise ValueError(
                f"an epoch is chosen for {' and '.join(MODULES)} at once, and this run trains {engine.trained[0]} "
                "alone: train both phases in one run, or set selection_share to 0."
            )

    def forget(self, engine: Any) -> None:
        """Leave no AUCp of an earlier epoch among the metrics."""
        engine.state.metrics.pop(f"aucp_{self.score}", None)

    def __call__(self, engine: Any) -> None:
        """Score the images and keep the weights if they are the best so far."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch < engine.state.max_epochs:
            return
        engine.share_weights()
        if idist.get_rank() > 0:
            return
        value = aucp(self._scores(self.normals), self._scores(self.unlabeled))
        engine.state.metrics[f"aucp_{self.score}"] = self.found[epoch] = value
        if not engine.selected or value > engine.selected["value"]:
            engine.selected = {"epoch": epoch, "value": value, "weights": engine.copy_weights()}
        best = engine.selected
        logger.info(
            f"Epoch {epoch}: AUCp of {self.score} {value:.4f}; best so far {best['value']:.4f}, epoch {best['epoch']}."
        )

    def _scores(self, dataset: ResidentDataset) -> np.ndarray:
        device = self._network.device
        batches = [self._network.scored(normalise(batch).to(device))[1] for batch in dataset.images.split(BATCH)]
        return torch.cat(batches)[:, self._column].cpu().numpy()
