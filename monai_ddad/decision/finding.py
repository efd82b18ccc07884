"""What is found of items: from the maps and scores of their images to a decision, and a map on their own grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from monai_ddad.data.items import BatchItem
from monai_ddad.decision.decisions import Decisions, cautions, decide
from monai_ddad.decision.heat import HeatMap, restore_map
from monai_ddad.networks import DDADModel, Decided
from monai_ddad.networks.protocol import reason

__all__ = ["NOT_FINITE", "Finding", "Judge", "Result", "Unreadable", "score_in_parts"]

BATCH = 64  # images that a network takes at a time: a volume may have more
NOT_FINITE = "its scores are not finite"

NOTHING = "nothing in it can be scored"


@dataclass(frozen=True)
class Result:
    """What is found of one picture or volume.

    Attributes:
        scores: by name; of a volume the means over its slices.
        score: name of the one that decides.
        map: name of the map that shows where: of that score, or ``"inter"`` if it has none.
        p_value: in (0, 1]; None where the model is not calibrated for pictures, or for volumes.
        percentile: share of the calibration normals that score lower, in [0, 100]; None likewise.
        flagged: whether the p-value is at most alpha; None likewise.
        out_of_protocol: why the image, or most slices of the volume, are not of the trained kind; empty if they are.
        slices: slices of a volume that were scored; 0 of a picture.
        notes: what there is to know of the model, see :func:`monai_ddad.decision.decisions.cautions`.
    """

    scores: dict[str, float]
    score: str
    map: str
    p_value: float | None
    percentile: float | None
    flagged: bool | None
    out_of_protocol: str
    slices: int
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return it for a JSON reply: the deciding score as ``"score"``, with its name and what follows from it."""
        return {
            "score": self.scores[self.score],
            "score_name": self.score,
            "map": self.map,
            "p_value": self.p_value,
            "percentile": self.percentile,
            "flagged": self.flagged,
            "out_of_protocol": self.out_of_protocol,
            "scores": self.scores,
            "slices": self.slices,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Unreadable:
    """An item of which nothing is found, since it cannot be read.

    Attributes:
        position: of the item in the list.
        reason: one sentence, without anything of a header or a path.
        item: the item.
    """

    position: int
    reason: str
    item: BatchItem


@dataclass(frozen=True, eq=False)
class Finding:
    """What is found of one item, with all that it takes to show it.

    Attributes:
        position: of the item in the list.
        result: scores and decision.
        item: the item, with the image as it was read.
        images: (n, C, h, w) float32 in [-1, 1], its prepared images: one of a picture, of a volume one a slice.
        maps: (n, M, h, w) float32 of each, one channel a name in the network's ``map_names``.
        scores: (n, S) float32 of each.
        ratios: (n, 4) float32 of each, see :class:`monai_ddad.networks.protocol.ProtocolCheck`.
        judge: what found it.
    """

    position: int
    result: Result
    item: BatchItem
    images: torch.Tensor = field(repr=False)
    maps: torch.Tensor = field(repr=False)
    scores: torch.Tensor = field(repr=False)
    ratios: torch.Tensor = field(repr=False)
    judge: Judge = field(repr=False)

    def heat_map(self, name: str | None = None) -> HeatMap:
        """Return one map on the item's own grid.

        Args:
            name: one of the network's ``map_names``; None takes its ``shown_map``.

        Raises:
            ValueError: the network has no such map, or the image as it was read was not kept.
        """
        return restore_map(self.item, self.maps[:, self.judge.channel(name)], self.judge.transform)

    def percentiles(self, values: np.ndarray, name: str | None = None) -> np.ndarray:
        """Express values of a map in percentiles; see :meth:`.Calibration.map_percentiles`."""
        return self.judge.network.calibration.map_percentiles(values, self.judge.channel(name))


class Judge:
    """What a trained model's maps and scores mean, by its calibration and its check of the input.

    Args:
        network: the model.
        alpha: false-positive rate at which an image is flagged, in [0, 1]; None takes the model's own.
        transform: the preparation of the items, by which maps are put back on their grids.

    Raises:
        ValueError: ``alpha`` is outside its range.
    """

    def __init__(self, network: DDADModel, alpha: float | None = None, transform: Any = None) -> None:
        if alpha is not None and not 0 <= float(alpha) <= 1:
            raise ValueError(f"alpha must be a rate in [0, 1], got {alpha}.")
        self.network = network
        self.transform = transform
        self._alpha = None if alpha is None else float(alpha)

    @property
    def alpha(self) -> float:
        """False-positive rate at which an image is flagged; the model's own is known when its weights are loaded."""
        return self.network.calibration.rate if self._alpha is None else self._alpha

    def channel(self, name: str | None) -> int:
        """Return the channel of a map; None is the network's ``shown_map``.

        Raises:
            ValueError: the network has no such map.
        """
        names = self.network.map_names
        if name is not None and name not in names:
            raise ValueError(f"the map must be one of {', '.join(names)}, got {name!r}.")
        return names.index(name or self.network.shown_map)

    def decide(self, scores: np.ndarray, volumes: bool = False) -> Decisions | None:
        """Decide on (N, S) scores of images, or of volumes; None where the model is not calibrated for them."""
        network, calibration = self.network, self.network.calibration
        normals = calibration.volumes if volumes else calibration.images
        return decide(scores, network.score_names, normals, network.score, self.alpha) if len(normals) else None

    def results(
        self, scores: torch.Tensor, ratios: torch.Tensor, rows: Sequence[Sequence[int]], volumes: Sequence[bool]
    ) -> list[Result]:
        """Decide on items.

        Args:
            scores: (B, S) of images, see :class:`monai_ddad.networks.Decided`.
            ratios: (B, 4) of them, see :class:`monai_ddad.networks.protocol.ProtocolCheck`.
            rows: of each item, at least one: its images.
            volumes: whether each item is a volume, which is decided on by the means over its slices.
        """
        network, calibration = self.network, self.network.calibration
        found: dict[int, Result] = {}
        for volume in set(volumes):
            places = [place for place, own in enumerate(volumes) if own is volume]
            means = np.stack([scores[list(rows[place])].mean(dim=0).numpy() for place in places])
            decisions = self.decide(means, volume)
            notes = tuple(cautions(network, calibration.volumes if volume else calibration.images, self.alpha))
            for row, place in enumerate(places):
                found[place] = Result(
                    dict(zip(network.score_names, means[row].tolist())),
                    network.score,
                    network.shown_map,
                    float(decisions.p_values[network.score][row]) if decisions else None,
                    float(decisions.percentile[row]) if decisions else None,
                    bool(decisions.flagged[row]) if decisions else None,
                    most_common_reason(ratios[list(rows[place])].tolist()),
                    len(rows[place]) if volume else 0,
                    notes,
                )
        return [found[place] for place in range(len(rows))]

    def find(
        self, batch: dict[str, Any], scored: Sequence[torch.Tensor] = (), first: int = 0
    ) -> list[Finding | Unreadable]:
        """Say what is found of the items of a batch.

        Args:
            batch: see :func:`monai_ddad.data.collate_items`.
            scored: maps (B, M, h, w), scores (B, S) and ratios (B, 4) of its images; may be left out where B is 0.
            first: position of the first item.

        Returns:
            for each item what is found, or why there is nothing, as where a score is NaN or infinite.
        """
        items: Sequence[BatchItem] = batch["items"]
        found: list[Finding | Unreadable] = [
            Unreadable(first + place, item.error or NOTHING, item) for place, item in enumerate(items)
        ]
        read = [place for place, item in enumerate(items) if item.rows]
        if not read:
            return found
        images, maps, scores, ratios = (
            values.detach().as_subclass(torch.Tensor).float().cpu() for values in (batch["image"], *scored)
        )
        for place in [place for place in read if not scores[items[place].rows].isfinite().all()]:
            found[place] = Unreadable(first + place, NOT_FINITE, items[place])
            read.remove(place)
        if not read:
            return found
        rows, volumes = zip(*((items[place].rows, items[place].is_volume) for place in read))
        for place, result in zip(read, self.results(scores, ratios, rows, volumes)):
            own = items[place].rows
            parts = (images[own], maps[own], scores[own], ratios[own])
            found[place] = Finding(first + place, result, items[place], *parts, self)
        return found


def score_in_parts(
    images: torch.Tensor,
    call: Callable[[torch.Tensor], Decided],
    device: torch.device | None = None,
    keep_maps: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score images, a bounded number at a time.

    Args:
        images: (B, C, h, w) float32 in [-1, 1].
        call: such as :meth:`monai_ddad.networks.DDADModel.decide`.
        device: where to compute; the results are then on the CPU. None computes where the images are.
        keep_maps: False returns no maps.

    Returns:
        maps (B, M, h, w), scores (B, S) and ratios (B, 4).

    Raises:
        ValueError: the call returns maps without scores.
    """
    parts = []
    for part in images.as_subclass(torch.Tensor).split(BATCH):
        moved = part if device is None else part.to(device)
        found = call(moved)
        if not isinstance(found, tuple):
            raise ValueError("the compiled network returns no scores: export deciding_def instead of network_def.")
        maps, scores, _, ratios = found
        kept = (maps if keep_maps else maps[:0], scores, ratios)
        parts.append(kept if device is None else tuple(values.cpu() for values in kept))
    maps, scores, ratios = (torch.cat(values) for values in zip(*parts))
    return maps, scores, ratios


def most_common_reason(ratios: Sequence[Sequence[float]]) -> str:
    """Return the reason why most slices of a volume are out of protocol; empty if most are within.

    Args:
        ratios: of each slice, see :func:`monai_ddad.networks.protocol.reason`.
    """
    strange = Counter(filter(None, map(reason, ratios)))
    return strange.most_common(1)[0][0] if 2 * strange.total() > len(ratios) else ""
