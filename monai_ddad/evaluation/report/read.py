"""What an evaluation left in the folder of a run."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import plain_text

__all__ = ["Run", "ScoreTable", "find_evaluation", "read_run"]

DECIDED = ("p_value", "percentile", "flagged")  # columns of a calibrated table
BEHIND = (*DECIDED, "out_of_protocol")  # columns that follow the scores
LABELS = {"": -1, "0": 0, "1": 1}
PICTURE = re.compile(r"(\d{6,})_(image|overlay)\.png")


@dataclass(frozen=True)
class ScoreTable:
    """Rows of ``scores.csv`` or ``volumes.csv``.

    Attributes:
        columns: the text of the N cells of each column, by name.
        label: (N,) 0 (normal), 1 (abnormal) or -1 (unknown).
        scores: (N,) float by name, higher is more abnormal.
        p_value: (N,) float of the deciding score; None where nothing was calibrated.
        flagged: (N,) bool; None where nothing was calibrated.
    """

    columns: dict[str, list[str]]
    label: np.ndarray
    scores: dict[str, np.ndarray]
    p_value: np.ndarray | None
    flagged: np.ndarray | None

    def __len__(self) -> int:
        return len(self.label)

    def cell(self, name: str, row: int) -> str:
        """Return the text of a cell, empty where there is no such column."""
        return self.columns[name][row] if name in self.columns else ""

    def part(self, keep: np.ndarray) -> ScoreTable:
        """Return the rows where ``keep`` (N,) is true."""
        rows = np.flatnonzero(keep)
        return ScoreTable(
            {name: [cells[row] for row in rows] for name, cells in self.columns.items()},
            self.label[rows],
            {name: values[rows] for name, values in self.scores.items()},
            None if self.p_value is None else self.p_value[rows],
            None if self.flagged is None else self.flagged[rows],
        )


@dataclass(frozen=True)
class Run:
    """An evaluated run.

    Attributes:
        metrics: content of ``metrics.json``, checked; ``"training"`` is how the evaluated model was trained.
        table: the scored images.
        volumes: the scored volumes; None where there are none.
        unreadable: position, reason and perhaps name of each item that could not be read, below the columns' names.
        pictures: PNG files of chosen rows: ``"image"`` and ``"overlay"`` by row.
        retrained: the model was trained anew after the evaluation.
    """

    metrics: dict[str, Any]
    table: ScoreTable
    volumes: ScoreTable | None
    unreadable: list[list[str]]
    pictures: dict[int, dict[str, bytes]]
    retrained: bool

    @property
    def decision(self) -> dict[str, Any] | None:
        """How images were flagged; None where nothing was calibrated."""
        return self.metrics.get("decision")

    @property
    def score(self) -> str:
        """Name of the score that decides."""
        return self.metrics["score"]

    @property
    def out_of_fold(self) -> bool:
        """Whether p-values come from normals of the training, each scored by a fit without its fifth of them."""
        unknown = 0 if self.metrics.get("backbone") == "features" else None  # without a record of the training
        return self.decision is not None and self.training("data").get("calibration", unknown) == 0

    def training(self, part: str) -> dict[str, Any]:
        """Return a part of the training's record, empty where it was not recorded."""
        return self.metrics.get("training", {}).get(part, {})


def read_run(run: str | os.PathLike[str]) -> Run:
    """Read what an evaluation left.

    Args:
        run: folder of the run, whose evaluation is in ``eval/``, or of an evaluation: with ``metrics.json`` and
            ``scores.csv`` and, where they were written, ``volumes.csv``, ``unreadable.csv`` and ``gallery/``.

    Raises:
        DataError: nothing was evaluated there, or a file is damaged or of another evaluation.

    Example:
        >>> read_run("no such folder")
        Traceback (most recent call last):
            ...
        monai_ddad.io.errors.DataError: the run holds no evaluation (metrics.json is missing): evaluate first.
    """
    folder = find_evaluation(run)
    metrics = _read_json(folder / "metrics.json")
    schema = json.loads(resources.files(__package__).joinpath("metrics.schema.json").read_text(encoding="utf-8"))
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(metrics))
    if wrong is not None:
        raise DataError(f"metrics.json is damaged ({wrong.json_path} is not as expected): evaluate again.")
    table = _read_scores(folder / "scores.csv")
    volumes = _read_scores(folder / "volumes.csv", list(table.scores)) if (folder / "volumes.csv").is_file() else None
    if len(table) != metrics["images"]["scored"]:
        raise DataError(
            f"scores.csv has {len(table)} rows and metrics.json counts {metrics['images']['scored']} images: they are "
            "of different evaluations. Evaluate again."
        )
    decision = metrics.get("decision")
    if (decision is None) != (table.flagged is None) or metrics["score"] not in table.scores:
        raise DataError("scores.csv and metrics.json disagree on how it was decided: evaluate again.")
    records = [parent / "models" / "run.json" for parent in folder.resolve().parents[:2]]
    record = next(filter(Path.is_file, records), None)
    return Run(
        metrics,
        table,
        volumes,
        _read_rows(folder / "unreadable.csv") if (folder / "unreadable.csv").is_file() else [],
        _read_pictures(folder / "gallery", len(table)),
        record is not None and _differs(record, metrics.get("training")),
    )


def find_evaluation(run: str | os.PathLike[str]) -> Path:
    """Return the folder of an evaluation: of a run its ``eval/``.

    Example:
        >>> find_evaluation("runs/mine").parts
        ('runs', 'mine', 'eval')
    """
    folder = Path(run)
    return folder if (folder / "metrics.json").is_file() else folder / "eval"


def _differs(record: Path, training: Any) -> bool:
    """Tell whether ``run.json`` is not the one that an evaluation holds; a damaged one is not."""
    try:
        return bool(_read_json(record) != training)
    except DataError:
        return True


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"the run holds no evaluation ({path.name} is missing): evaluate first.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path.name} is damaged (it is no JSON): evaluate again.") from None


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[plain_text(cell) for cell in row] for row in csv.reader(file, strict=True)]
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"the run holds no evaluation ({path.name} is missing): evaluate first.") from None
    except (ValueError, csv.Error):
        raise DataError(f"{path.name} is damaged (it is no CSV table): evaluate again.") from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise DataError(f"{path.name} is damaged (its rows differ in length): evaluate again.")
    return rows


def _read_scores(path: Path, names: Sequence[str] | None = None) -> ScoreTable:
    """Read a table whose scores are ``names``; None takes the columns between the label and those behind."""
    header, *rows = _read_rows(path)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    try:
        if names is None:
            names = [name for name in header[header.index("label") + 1 :] if name not in BEHIND]
        numbers = {
            name: np.array([float(cell) for cell in columns[name]])
            for name in [*names, *(DECIDED if "flagged" in columns else ())]
        }
        if not (names and rows and columns["position"] and all(np.isfinite(part).all() for part in numbers.values())):
            raise ValueError
        label = np.array([LABELS[cell] for cell in columns["label"]])
    except (KeyError, ValueError):
        raise DataError(
            f"{path.name} is damaged (a column is missing, or a score or label is no number): evaluate again."
        ) from None
    flagged = numbers["flagged"] == 1 if "flagged" in numbers else None
    return ScoreTable(columns, label, {name: numbers[name] for name in names}, numbers.get("p_value"), flagged)


def _read_pictures(folder: Path, rows: int) -> dict[int, dict[str, bytes]]:
    """Read the pictures of each row that has an image; an overlay may be missing."""
    pictures: dict[int, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.png")):
        found = PICTURE.fullmatch(path.name)
        if found and int(found[1]) < rows:
            with suppress(FileNotFoundError):
                pictures.setdefault(int(found[1]), {})[found[2]] = path.read_bytes()
    return {row: pair for row, pair in sorted(pictures.items()) if "image" in pair}
