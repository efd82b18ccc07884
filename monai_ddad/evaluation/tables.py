"""Score tables as CSV, figures as JSON and text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from monai_ddad.evaluation.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    expected_calibration_error,
    flag_rate,
    sensitivity_at_specificity,
)
from monai_ddad.evaluation.metrics.bootstrap import Metric
from monai_ddad.io.writing import atomic_file, write_table

__all__ = ["evaluate_scores", "format_table", "operating_points", "volume_scores", "write_json", "write_scores"]

ALPHAS = (0.01, 0.05, 0.1, 0.2)  # false-positive rates that every evaluation reports

METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "sensitivity_at_90_specificity": partial(sensitivity_at_specificity, specificity=0.9),
    "sensitivity_at_95_specificity": partial(sensitivity_at_specificity, specificity=0.95),
}
SHOWN = ("auroc", "average_precision")  # in the table of a log


def evaluate_scores(
    scores: dict[str, np.ndarray],
    names: Sequence[str],
    keep: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    p_values: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Compute all metrics of all scores on a part of the images.

    Args:
        scores: ``"label"`` (N,) with 0, 1 or -1 (unknown), and (N,) scores by name.
        names: which scores.
        keep: (N,) bool, the images that count; those with an unknown label never do.
        resamples, seed: of the bootstrap intervals.
        p_values: (N,) by name of a calibrated score; None where they are not calibrated.

    Returns:
        counts ``"normal"`` and ``"abnormal"``, ``"scores"``: by name each of :data:`METRICS` with
        ``<metric>_interval``, or an empty dictionary where a class is absent; and ``"operating_points"`` by name, see
        :func:`operating_points`, where there are p-values and normal images.

    Example:
        >>> table = {"label": np.array([0, 0, 1]), "rec": np.array([0.1, 0.2, 0.3])}
        >>> evaluate_scores(table, ["rec"], np.array([True, True, True]))["scores"]["rec"]["auroc"]
        1.0
    """
    keep = keep & (scores["label"] >= 0)
    labels = scores["label"][keep]
    result: dict[str, Any] = {"normal": int((labels == 0).sum()), "abnormal": int((labels == 1).sum()), "scores": {}}
    if result["normal"] and result["abnormal"]:
        for name in names:
            values = scores[name][keep]
            result["scores"][name] = {}
            for metric, function in METRICS.items():
                result["scores"][name][metric] = float(function(values, labels))
                interval = bootstrap_interval(function, values, labels, resamples, seed=seed)
                result["scores"][name][f"{metric}_interval"] = list(interval)
    if result["normal"] and p_values:
        result["operating_points"] = {name: operating_points(p_values[name][keep], labels) for name in names}
    return result


def operating_points(p_values: np.ndarray, labels: np.ndarray, alphas: Sequence[float] = ALPHAS) -> dict[str, Any]:
    """Compare the promised false-positive rates with those found on test images.

    Args:
        p_values: (N,) of one score.
        labels: (N,) 0 (normal) or 1 (abnormal), at least one of them 0.
        alphas: false-positive rates.

    Returns:
        ``"calibration_error"``, and for each alpha in ``"points"`` the realised ``false_positive_rate`` and, where
        there are abnormal images, the ``sensitivity``, each with its exact 95 % binomial ``<name>_interval``.

    Example:
        >>> operating_points(np.array([0.02, 0.5, 0.01]), np.array([0, 0, 1]), [0.05])["points"][0]["sensitivity"]
        1.0
    """
    points = []
    for alpha in alphas:
        point: dict[str, Any] = {"alpha": alpha}
        for label, name in ((0, "false_positive_rate"), (1, "sensitivity")):
            if (labels == label).any():
                point[name], *point[f"{name}_interval"] = flag_rate(p_values[labels == label], alpha)
        points.append(point)
    return {"calibration_error": expected_calibration_error(p_values[labels == 0]), "points": points}


def format_table(splits: dict[str, dict[str, Any]]) -> str:
    """Lay out the figures of :func:`evaluate_scores`, by split, as text.

    Example:
        >>> figures = {"auroc": 0.9, "auroc_interval": [0.8, 1.0]}
        >>> figures |= {"average_precision": 0.7, "average_precision_interval": [0.6, 0.8]}
        >>> print(format_table({"all": {"normal": 5, "abnormal": 6, "scores": {"rec": figures}}}))
        split                  images    score      AUROC                AP
        all                    5 + 6     rec        .900 [.800, 1.000]   .700 [.600, .800]
    """
    rows = [("split", "images", "score", "AUROC", "AP")]
    for split, figures in splits.items():
        for name, values in figures["scores"].items():
            cells = [
                f"{_short(values[metric])} [{', '.join(map(_short, values[f'{metric}_interval']))}]" for metric in SHOWN
            ]
            rows.append(
                (split.replace("_", " "), f"{figures['normal']} + {figures['abnormal']}", name, cells[0], cells[1])
            )
    return "\n".join(f"{a:22} {b:9} {c:10} {d:20} {e}" for a, b, c, d, e in rows)


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def write_json(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a JSON file atomically; NaN is an error."""
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_scores(
    scores: dict[str, np.ndarray],
    names: Sequence[str],
    path: str | os.PathLike[str],
    columns: Mapping[str, Sequence[Any]],
    further: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write one CSV row an image, atomically: what ``columns`` say of it, its label (empty where unknown), all scores.

    Args:
        scores: ``"index"``, ``"label"`` and scores by name, (N,) each.
        names: which scores, in the order of the columns.
        path: the CSV file.
        columns: columns in front of the label, indexed by the image's index; None is left empty.
        further: columns behind the scores, indexed by the row.
    """
    rows = [
        [values[index] for values in columns.values()]
        + ["" if scores["label"][row] < 0 else int(scores["label"][row])]
        + [f"{scores[name][row]:.8g}" for name in names]
        + [values[row] for values in (further or {}).values()]
        for row, index in enumerate(scores["index"])
    ]
    write_table([*columns, "label", *names, *(further or {})], rows, path)


def volume_scores(
    scores: dict[str, np.ndarray], names: Sequence[str], volumes: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """Join the scores of slices to scores of their volumes.

    Args:
        scores: ``"index"``, ``"label"`` and scores by name, (N,) each.
        names: which scores.
        volumes: number of the volume that the image of an index is a slice of; None for a picture.

    Returns:
        ``"index"`` (the volumes' numbers), ``"label"``, ``"slices"`` (how many were scored), each score as the mean
        over the slices, and ``"<name>_max"``, the highest of the slices; (V,) each.

    Example:
        >>> table = {"index": np.arange(3), "label": np.array([1, 1, -1]), "rec": np.array([1.0, 3.0, 9.0])}
        >>> joined = volume_scores(table, ["rec"], [7, 7, None])
        >>> joined["index"].tolist(), joined["slices"].tolist(), joined["rec"].tolist(), joined["rec_max"].tolist()
        ([7], [2], [2.0], [3.0])
    """
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(scores["index"]):
        if (volume := volumes[index]) is not None:
            rows.setdefault(volume, []).append(row)
    members = list(rows.values())
    joined = {"index": np.array(list(rows)), "label": np.array([scores["label"][rows[0]] for rows in members])}
    joined["slices"] = np.array([len(rows) for rows in members])
    for name in names:
        joined[name] = np.array([scores[name][rows].mean() for rows in members])
        joined[f"{name}_max"] = np.array([scores[name][rows].max() for rows in members])
    return joined
