"""What two evaluations have in common, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_ddad.evaluation.metrics import PairedDifference, paired_bootstrap
from monai_ddad.evaluation.report.read import Run, ScoreTable
from monai_ddad.evaluation.report.units import Unit
from monai_ddad.evaluation.tables import METRICS

__all__ = ["Difference", "different_images", "differing_settings", "find_differences", "pair_units"]

RESAMPLES = 1000  # bootstrap samples of a difference
KEPT = {"without_duplicates": "duplicate", "without_near_copies": "near_copy"}  # the flag that takes an image out
PARTS = ("data", "network", "preparation", "settings", "epochs", "versions")


@dataclass(frozen=True)
class Difference:
    """A figure of two runs.

    Attributes:
        split, score, metric: what it is the figure of.
        figures: of the first and the second run, with the intervals; None where a run does not have it.
        paired: how much better the second run is; None where they cannot be compared image by image.
    """

    split: str
    score: str
    metric: str
    figures: tuple[tuple[float, list[float]] | None, ...]
    paired: PairedDifference | None


def different_images(first: Run, second: Run) -> str:
    """Tell why two runs cannot be compared image by image; empty where they can.

    Args:
        first, second: the runs.

    Returns:
        what differs: the images as the networks saw them (their checksums), or their labels.
    """
    if first.metrics["images"]["sha256"] != second.metrics["images"]["sha256"]:
        return "the runs scored different images, or images that were prepared differently"
    if not np.array_equal(first.table.label, second.table.label):
        return "the runs scored equal images, but their labels differ"
    return ""


def pair_units(first: list[Unit], second: list[Unit]) -> list[tuple[Unit, Unit]]:
    """Return what both runs count: pictures, volumes."""
    return [(one, other) for one in first for other in second if one.name == other.name]


def find_differences(pairs: list[tuple[Unit, Unit]], same_images: bool) -> list[Difference]:
    """Put the figures of two runs side by side, with the paired bootstrap difference where both have a score.

    Args:
        pairs: see :func:`pair_units`.
        same_images: both scored the same images with the same labels; otherwise nothing is tested.

    Returns:
        a difference for each split, score and metric that one of the runs has.
    """
    return [
        Difference(split, score, metric, figures, paired)
        for one, other in pairs
        for split in dict.fromkeys([*one.splits, *other.splits])
        for score, metric, figures, paired in _compare(one, other, split, same_images)
    ]


def _compare(
    one: Unit, other: Unit, split: str, same_images: bool
) -> Iterator[tuple[str, str, tuple[tuple[float, list[float]] | None, ...], PairedDifference | None]]:
    found = [unit.splits.get(split, {}).get("scores", {}) for unit in (one, other)]
    kept = _kept(one.table, split)
    testable = same_images and np.array_equal(kept, _kept(other.table, split))
    for score in dict.fromkeys([*found[0], *found[1]]):
        for metric, function in METRICS.items():
            figures = tuple(
                (part[score][metric], part[score][f"{metric}_interval"]) if metric in part.get(score, {}) else None
                for part in found
            )
            paired = None
            if testable and all(figures):
                first, second = (unit.table.scores[score][kept] for unit in (one, other))
                paired = paired_bootstrap(function, first, second, one.table.label[kept], RESAMPLES)
            if any(figures):
                yield score, metric, figures, paired


def _kept(table: ScoreTable, split: str) -> np.ndarray:
    """Return which rows count in a split: (N,) bool."""
    flag = KEPT.get(split)
    copies = [flag is not None and table.cell(flag, row) == "1" for row in range(len(table))]
    return (table.label >= 0) & ~np.array(copies)


def differing_settings(first: Run, second: Run) -> list[tuple[str, str, Any, Any]]:
    """List what was recorded differently of two trainings: part, name, and both values; None where not recorded."""
    rows = []
    for part in PARTS:
        one, other = first.training(part), second.training(part)
        rows += [
            (part, name, one.get(name), other.get(name))
            for name in dict.fromkeys([*one, *other])
            if one.get(name) != other.get(name)
        ]
    return rows
