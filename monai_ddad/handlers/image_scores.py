"""Handler that collects image scores and computes their metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.engines.scoring import SCORES
from monai_ddad.metrics import auroc, average_precision
from monai_ddad.networks import DDADNet
from monai_ddad.protocol import reason

__all__ = ["ImageScores"]


class ImageScores:
    """Collect the image scores of an evaluator's epoch.

    The evaluator's batches hold ``"index"`` and ``"label"`` (-1 where unknown) and its output ``"image"`` and
    ``"scores"``, as :func:`~monai_ddad.engines.score_batch` makes it. At the end of the epoch ``state.scores`` holds
    ``"index"`` (N,), ``"label"`` (N,) and each score (N,) by name, as NumPy arrays in the order of the index; where
    both classes are there, ``state.metrics`` holds ``auroc_<score>`` and ``average_precision_<score>``.

    ``state.out_of_protocol`` is a list of N reasons why an image is not of the trained kind, empty where it is.

    Args:
        network: the network that is evaluated.

    Raises:
        CheckpointError: when a batch comes, the network has no trained weights.
        FloatingPointError: a score is NaN or infinite; the message names the images by index.
    """

    def __init__(self, network: DDADNet) -> None:
        self.network = network

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Forget an earlier epoch."""
        self._batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def collect(self, engine: Any) -> None:
        """Keep the scores of a batch."""
        self.network.require_weights()
        index, label = torch.as_tensor(engine.state.batch["index"]), torch.as_tensor(engine.state.batch["label"])
        scores, image = engine.state.output[SCORES].float().cpu(), engine.state.output[CommonKeys.IMAGE]
        bad = index[~torch.isfinite(scores).all(dim=1)].tolist()
        if bad:
            raise FloatingPointError(f"the scores of the images number {bad[:10]} (from 0) are not finite.")
        self._batches.append((index, label, scores, self.network.protocol(image).cpu()))

    def finish(self, engine: Any) -> None:
        """Join the batches and compute the metrics."""
        index, label, scores, ratios = (torch.cat(parts).numpy() for parts in zip(*self._batches))
        order, names = np.argsort(index), self.network.score_names
        label = label[order]
        engine.state.scores = {"index": index[order], "label": label}
        engine.state.scores.update({name: scores[order, i] for i, name in enumerate(names)})
        engine.state.out_of_protocol = [reason(row) for row in ratios[order].tolist()]
        known = label >= 0
        if len(set(label[known].tolist())) == 2:
            for name in names:
                values = engine.state.scores[name][known]
                engine.state.metrics[f"auroc_{name}"] = float(auroc(values, label[known]))
                engine.state.metrics[f"average_precision_{name}"] = float(average_precision(values, label[known]))
