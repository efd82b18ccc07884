"""Handler that collects what is found of an evaluator's images, and computes the metrics of their scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_ddad.decision.finding import NOT_FINITE, Finding
from monai_ddad.evaluation.metrics import auroc, average_precision
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADModel
from monai_ddad.networks.protocol import reason
from monai_ddad.transforms.eight_bit import eight_bits

__all__ = ["Evaluated", "ImageScores", "require_all_read"]


@dataclass
class Evaluated:
    """What an evaluator has seen: its items, and a row for each of their images.

    Attributes:
        items: how many there were.
        errors: position of an item -> why it cannot be read.
        positions: of the item that each image is of.
        slices: number of each image among the slices of its volume; None for a picture.
        labels: 0, 1 or -1 of each image.
        scores: (N, S) float32.
        out_of_protocol: why an image is not of the trained kind, empty where it is.
        digests: hash of each image's 8-bit pixels.
        constant: positions of the images that have one value alone.
        sha256: hash of the pixels of all images, in their order.
    """

    items: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)
    slices: list[int | None] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    out_of_protocol: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    sha256: str = ""

    @property
    def volumes(self) -> list[int | None]:
        """Position of the volume that each image is a slice of; None for a picture."""
        return [None if part is None else place for place, part in zip(self.positions, self.slices)]

    def table(self, names: list[str]) -> dict[str, np.ndarray]:
        """Return (N,) arrays by name: ``"index"``, ``"label"`` and the scores, which have the names given."""
        table = {"index": np.arange(len(self.positions)), "label": np.array(self.labels, dtype=int)}
        return table | {name: self.scores[:, column] for column, name in enumerate(names)}


class ImageScores:
    """Collect what an :class:`~monai_ddad.evaluation.ItemEvaluator` finds in an epoch.

    At its end ``state.evaluated`` is an :class:`Evaluated`, ``state.scores`` its table, and, where both classes are
    there, ``state.metrics`` holds ``auroc_<score>`` and ``average_precision_<score>``.

    Args:
        network: the network that is evaluated.

    Raises:
        FloatingPointError: a score is NaN or infinite; the message names the item by position.
    """

    def __init__(self, network: DDADModel) -> None:
        self.network = network

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Forget an earlier epoch."""
        self._found = Evaluated()
        self._scores: list[torch.Tensor] = []
        self._hash = hashlib.sha256()

    def collect(self, engine: Any) -> None:
        """Keep a row for each image of a batch."""
        found, labels = self._found, engine.state.batch["label"].tolist()
        for one in engine.state.findings:
            item = one.item
            found.items += 1
            if not isinstance(one, Finding):
                if one.reason == NOT_FINITE:
                    raise FloatingPointError(f"the scores of item number {one.position} (from 0) are not finite.")
                found.errors[one.position] = one.reason
                continue
            found.positions += [one.position] * len(item.rows)
            found.slices += item.slices or [None] * len(item.rows)
            found.labels += [labels[row] for row in item.rows]
            found.out_of_protocol += [reason(ratios) for ratios in one.ratios.tolist()]
            for image in one.images:
                pixels = eight_bits(image)
                content = pixels.numpy().tobytes()
                self._hash.update(content)
                found.digests.append(hashlib.sha256(content).digest())
                if pixels.min() == pixels.max():
                    found.constant.append(one.position)
            self._scores.append(one.scores)

    def finish(self, engine: Any) -> None:
        """Join the rows and compute the metrics."""
        names, found = self.network.score_names, self._found
        found.sha256 = self._hash.hexdigest()
        found.scores = torch.cat([torch.zeros(0, len(names)), *self._scores]).numpy()
        engine.state.evaluated, engine.state.scores = found, found.table(names)
        label = np.array(found.labels, dtype=int)
        known = label >= 0
        if len(set(label[known].tolist())) == 2:
            for name in names:
                values = engine.state.scores[name][known]
                engine.state.metrics[f"auroc_{name}"] = float(auroc(values, label[known]))
                engine.state.metrics[f"average_precision_{name}"] = float(average_precision(values, label[known]))


def require_all_read(evaluator: Any) -> None:
    """End a run that is done with an error if some of its files could not be read.

    Args:
        evaluator: has run, with an :class:`ImageScores` handler.

    Raises:
        DataError: some are missing; the message counts them.
    """
    seen: Evaluated = evaluator.state.evaluated
    if seen.errors:
        raise DataError(
            f"{len(seen.errors)} of {seen.items} items could not be read: unreadable.csv lists them with the "
            "reason. All others are done."
        )
