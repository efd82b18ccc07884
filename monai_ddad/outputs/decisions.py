"""What follows from image scores once they are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_ddad.calibration import p_values, percentiles, smallest_alpha
from monai_ddad.metrics import binomial_interval, expected_calibration_error

__all__ = ["ALPHAS", "Decisions", "decide", "operating_points"]

ALPHAS = (0.01, 0.05, 0.1, 0.2)  # false-positive rates that every evaluation reports


@dataclass(frozen=True)
class Decisions:
    """Decisions on N images.

    Attributes:
        score: name of the score that decides.
        alpha: false-positive rate promised on normal images.
        normals: calibration images.
        p_values: (N,) by name of the score.
        percentile: (N,) share of the calibration images that score lower, in percent.
        flagged: (N,) bool, whether the p-value of the deciding score is at most alpha.
    """

    score: str
    alpha: float
    normals: int
    p_values: dict[str, np.ndarray]
    percentile: np.ndarray
    flagged: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Return how it was decided, for a JSON file."""
        return {
            "score": self.score,
            "alpha": self.alpha,
            "calibration_normals": self.normals,
            "smallest_alpha": smallest_alpha(self.normals),
            "flagged": int(self.flagged.sum()),
        }


def decide(
    scores: dict[str, np.ndarray],
    names: Sequence[str],
    calibration: torch.Tensor,
    score: str | None = None,
    alpha: float = 0.05,
) -> Decisions:
    """Compare scores with those of the calibration images.

    Args:
        scores: (N,) scores by name.
        names: the M scores of the model, in the order of ``calibration``.
        calibration: (M, n) scores of the calibration images.
        score: name of the score that decides; None takes the first.
        alpha: an image is flagged when its p-value is at most this, in [0, 1].

    Raises:
        ValueError: there is no such score, or ``alpha`` is outside [0, 1].

    Example:
        >>> found = decide({"rec": np.array([0.5, 9.0])}, ["rec"], torch.arange(4.0)[None], alpha=0.2)
        >>> found.p_values["rec"].tolist(), found.percentile.tolist(), found.flagged.tolist()
        ([0.800000011920929, 0.20000000298023224], [25.0, 100.0], [False, True])
    """
    score = score or names[0]
    if score not in names:
        raise ValueError(f"score must be one of {', '.join(names)}, got {score!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
    values = torch.from_numpy(np.stack([scores[name] for name in names], axis=-1)).to(calibration.dtype)
    found = p_values(values, calibration).numpy().T
    ranks = percentiles(values, calibration).numpy().T
    chosen = list(names).index(score)
    limit = np.float32(alpha)  # the p-values' own precision, for 1 / 20 <= .05
    return Decisions(score, alpha, calibration.shape[1], dict(zip(names, found)), ranks[chosen], found[chosen] <= limit)


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
            flagged = p_values[labels == label] <= np.float32(alpha)
            if len(flagged):
                point[name] = float(flagged.mean())
                point[f"{name}_interval"] = list(binomial_interval(int(flagged.sum()), len(flagged)))
        points.append(point)
    return {"calibration_error": expected_calibration_error(p_values[labels == 0]), "points": points}
