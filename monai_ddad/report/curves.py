"""Points of the curves that a report draws."""

from __future__ import annotations

import numpy as np

from monai_ddad.metrics import binomial_interval
from monai_ddad.metrics.ranking import counts_by_score

__all__ = ["precision_recall_points", "realised_rates", "roc_points"]


def roc_points(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ROC curve, a point a threshold.

    Args:
        scores: (N,) float, higher is more abnormal.
        labels: (N,) 0 (normal) or 1 (abnormal), both present.

    Returns:
        false-positive rates and sensitivities, rising from (0, 0) to (1, 1); images of equal score go together.

    Raises:
        ValueError: see :func:`monai_ddad.metrics.auroc`.

    Example:
        >>> [points.tolist() for points in roc_points(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))]
        [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    _, abnormal, normal = counts_by_score(scores, labels)
    alarms, hits = (np.r_[0.0, part[::-1].cumsum()] / part.sum() for part in (normal, abnormal))
    return alarms, hits


def precision_recall_points(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the precision-recall curve, a point a threshold from the highest score down.

    Args:
        scores, labels: as in :func:`roc_points`, as are the errors.

    Returns:
        recalls, rising, and the precisions at them; the area below the steps that lead up to each point is the average
        precision.

    Example:
        >>> recall, precision = precision_recall_points(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> recall.tolist(), precision.round(2).tolist()
        ([0.5, 0.5, 1.0, 1.0], [1.0, 0.5, 0.67, 0.5])
    """
    _, abnormal, normal = counts_by_score(scores, labels)
    hits, alarms = abnormal[::-1].cumsum(), normal[::-1].cumsum()
    return hits / hits[-1], hits / (hits + alarms)


def realised_rates(p_values: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the share of normal images that are flagged at each rate that is asked for.

    Args:
        p_values: (N,) in [0, 1], of normal images, at least one.
        alphas: (A,) rates that are asked for.

    Returns:
        the realised rates and the lower and upper bounds of their exact 95 % binomial intervals, (A,) each.

    Example:
        >>> rates, low, high = realised_rates(np.array([0.01, 0.05, 0.3, 0.9]), np.array([0.0, 0.05, 1.0]))
        >>> rates.tolist(), low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.068, 0.398], [0.602, 0.932, 1.0])
    """
    flagged = (p_values[None] <= alphas[:, None].astype(np.float32)).sum(axis=1)
    bounds = np.array([binomial_interval(int(count), len(p_values)) for count in flagged])
    return flagged / len(p_values), bounds[:, 0], bounds[:, 1]
