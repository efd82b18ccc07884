"""Pictures of right and wrong decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_ddad.evaluation.report.plots import data_address
from monai_ddad.evaluation.report.read import Run
from monai_ddad.evaluation.report.tables import place

__all__ = ["KINDS", "Card", "make_cards"]

KINDS = {
    "true-positive": "True positive",
    "false-positive": "False positive",
    "false-negative": "False negative",
    "true-negative": "True negative",
    "flagged": "Flagged",
    "not-flagged": "Not flagged",
    "most-anomalous": "Higher half of the scores",
    "least-anomalous": "Lower half of the scores",
}
LABELS = {0: "normal", 1: "abnormal", -1: "unknown"}
COPIES = {"duplicate": "the content of a training image", "near_copy": "a near copy of a training image"}


@dataclass(frozen=True)
class Card:
    """An image of the gallery.

    Attributes:
        row: of the table, from 0; images are in the order of the list.
        kind: one of :data:`KINDS`.
        place: position in the list, and the slice.
        score: of the deciding score.
        details: what is known of the image, by name.
        image: address that holds the image.
        overlay: address that holds the image with its anomaly map; empty where there is none.
    """

    row: int
    kind: str
    place: str
    score: float
    details: Sequence[tuple[str, str]]
    image: str
    overlay: str

    @property
    def title(self) -> str:
        """The kind as words."""
        return KINDS[self.kind]


def make_cards(run: Run) -> list[Card]:
    """Return the images that an evaluation has pictures of.

    Args:
        run: an evaluation.

    Returns:
        cards in the order of the list; decided images with a label are right or wrong, those without it, and slices of
        abnormal volumes, flagged or not, and undecided ones are among the higher or lower half of the scores.
    """
    values = run.table.scores[run.score]
    higher = np.zeros(len(values), dtype=bool)
    higher[np.argsort(-values, kind="stable")[: len(values) // 2]] = True
    cards = []
    for row, pair in run.pictures.items():
        addresses = {name: data_address(content, "image/png") for name, content in pair.items()}
        cards.append(
            Card(
                row,
                _kind(run, row, bool(higher[row])),
                place(run.table, row),
                float(values[row]),
                _details(run, row),
                addresses["image"],
                addresses.get("overlay", ""),
            )
        )
    return cards


def _kind(run: Run, row: int, higher: bool) -> str:
    if run.table.flagged is None:
        return "most-anomalous" if higher else "least-anomalous"
    flagged, label = bool(run.table.flagged[row]), int(run.table.label[row])
    if label < 0 or (label == 1 and run.table.cell("slice", row)):  # not every slice of a volume shows a lesion
        return "flagged" if flagged else "not-flagged"
    return f"{'true' if flagged == (label == 1) else 'false'}-{'positive' if flagged else 'negative'}"


def _details(run: Run, row: int) -> list[tuple[str, str]]:
    table = run.table
    kind = LABELS[int(table.label[row])] + (" volume" if table.cell("slice", row) else "")
    known = [("Label", kind), (run.score, f"{table.scores[run.score][row]:.4g}")]
    if table.p_value is not None:
        known += [
            ("Percentile", f"{float(table.cell('percentile', row)):.1f}"),
            ("p-value", f"{table.p_value[row]:.3g}"),
        ]
    if text := table.cell("out_of_protocol", row):
        known.append(("Out of protocol", text))
    for column, what in COPIES.items():
        if table.cell(column, row) == "1":
            known.append(("Copy", what))
            break
    if text := table.cell("image", row):
        known.append(("Image", text))
    return known
