"""What is counted: pictures, and volumes with their slices joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_ddad.evaluation.metrics import binomial_interval
from monai_ddad.evaluation.report.read import Run, ScoreTable

__all__ = ["Share", "Unit", "find_units", "slice_rows"]


@dataclass(frozen=True)
class Share:
    """A share of images, with its exact 95 % binomial interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        return binomial_interval(self.count, self.total)


@dataclass(frozen=True)
class Unit:
    """Pictures or volumes of an evaluation, each of which counts once.

    Attributes:
        name: ``"images"`` or ``"volumes"``.
        table: their scores.
        splits: figures by split, that of all of them first.
        decision: how they were flagged; None where nothing was calibrated.
    """

    name: str
    table: ScoreTable
    splits: dict[str, dict[str, Any]]
    decision: dict[str, Any] | None

    @property
    def main(self) -> dict[str, Any]:
        """Figures of all of them."""
        return next(iter(self.splits.values()))

    def flagged(self, label: int) -> Share | None:
        """Return the share that is flagged of those with a label: the false-positive rate (0) or sensitivity (1).

        None where nothing was calibrated or there are none.
        """
        chosen = self.table.label == label
        if self.table.flagged is None or not chosen.any():
            return None
        return Share(int(self.table.flagged[chosen].sum()), int(chosen.sum()))

    def threshold(self, score: str) -> float | None:
        """Return the lowest value of the deciding score that is flagged; None where none is."""
        if self.table.flagged is None or not self.table.flagged.any():
            return None
        return float(self.table.scores[score][self.table.flagged].min())

    def known(self) -> ScoreTable | None:
        """Return the rows with a label; None where they are not of both classes."""
        part = self.table.part(self.table.label >= 0)
        return part if {0, 1} <= set(part.label.tolist()) else None


def find_units(run: Run) -> list[Unit]:
    """Tell pictures and volumes apart; slices count only within their volume.

    Args:
        run: an evaluation.

    Returns:
        the units that it has, one or both.
    """
    units, splits = [], run.metrics["splits"]
    pictures = ~slice_rows(run.table)
    if pictures.any():
        figures = {name: part for name, part in splits.items() if name != "volumes"}
        units.append(Unit("images", run.table.part(pictures), figures, run.decision))
    if run.volumes is not None and "volumes" in splits:
        decision = run.metrics.get("volume_decision")
        units.append(Unit("volumes", run.volumes, {"volumes": splits["volumes"]}, decision))
    return units


def slice_rows(table: ScoreTable) -> np.ndarray:
    """Return which rows are slices of a volume: (N,) bool."""
    return np.array([table.cell("slice", row) != "" for row in range(len(table))])
