"""AUROC, average precision and sensitivity at a given specificity, of one set of weights or of many, and the curves."""

from __future__ import annotations

import numpy as np

__all__ = [
    "auroc",
    "average_precision",
    "counts_by_score",
    "precision_recall_points",
    "roc_points",
    "sensitivity_at_specificity",
]


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve: the share of (abnormal, normal) pairs ranked right, ties counting half.

    Args:
        scores: (N,) float, higher is more abnormal.
        labels: (N,) 0 (normal) or 1 (abnormal), both present.
        weights: (..., N) how often each image counts; None counts each once.

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: a class is absent, a label is neither 0 nor 1, a score is NaN, or the lengths differ.

    Example:
        >>> float(auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])))
        0.75
    """
    _, abnormal, normal = counts_by_score(scores, labels, weights)
    lower = normal.cumsum(axis=-1) - normal
    pairs = abnormal.sum(axis=-1) * normal.sum(axis=-1)
    return (abnormal * (lower + normal / 2)).sum(axis=-1) / pairs


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the average precision: the precision at each threshold, weighted by the gain in recall.

    Args:
        scores, labels, weights: as in :func:`auroc`, as are the errors.

    Returns:
        (...) in [0, 1].

    Example:
        >>> round(float(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))), 4)
        0.8333
    """
    _, abnormal, normal = counts_by_score(scores, labels, weights)
    hits = abnormal[..., ::-1].cumsum(axis=-1)
    flagged = hits + normal[..., ::-1].cumsum(axis=-1)
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return (precision * abnormal[..., ::-1]).sum(axis=-1) / abnormal.sum(axis=-1)


def sensitivity_at_specificity(
    scores: np.ndarray, labels: np.ndarray, specificity: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Find the highest sensitivity of any threshold whose specificity is at least the one asked for.

    A threshold t flags the images with a score above t, so images of equal score are flagged together. For
    :func:`~monai_ddad.evaluation.metrics.bootstrap_interval`, fix the specificity with :func:`functools.partial`.

    Args:
        scores, labels, weights: as in :func:`auroc`, as are the errors.
        specificity: share of the normal images that must not be flagged, in [0, 1].

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: the specificity is outside [0, 1].

    Example:
        >>> float(sensitivity_at_specificity(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), specificity=0.9))
        0.5
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must be a share in [0, 1], got {specificity}.")
    _, abnormal, normal = counts_by_score(scores, labels, weights)
    missed, passed = abnormal.cumsum(axis=-1), normal.cumsum(axis=-1)
    sensitivities = (missed[..., -1:] - missed) / missed[..., -1:]
    allowed = passed / passed[..., -1:] >= specificity
    highest = np.where(allowed, sensitivities, 0.0).max(axis=-1)
    return highest if specificity > 0 else np.ones_like(highest)  # below the lowest score everything is flagged


def roc_points(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ROC curve, a point a threshold.

    Args:
        scores: (N,) float, higher is more abnormal.
        labels: (N,) 0 (normal) or 1 (abnormal), both present.

    Returns:
        false-positive rates and sensitivities, rising from (0, 0) to (1, 1); images of equal score go together.

    Raises:
        ValueError: see :func:`auroc`.

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


def counts_by_score(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count abnormal and normal images at each distinct score.

    Args:
        scores, labels, weights: as in :func:`auroc`, as are the errors.

    Returns:
        the distinct scores (D,), ascending, and the counts of abnormal and of normal images, (..., D) float each.

    Example:
        >>> [counts.tolist() for counts in counts_by_score(np.array([0.2, 0.1, 0.2]), np.array([0, 0, 1]))]
        [[0.1, 0.2], [0.0, 1.0], [1.0, 1.0]]
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape:
        raise ValueError(f"each score needs one label, got {scores.shape} scores and {labels.shape} labels.")
    if not (np.isin(labels, (0, 1)).all() and 0 < labels.sum() < len(labels)):
        raise ValueError("both normal (0) and abnormal (1) images are needed to rank one against the other.")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN and have no rank: leave them out.")
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = [np.add.reduceat((weights * (labels == label))[..., order], starts, axis=-1) for label in (1, 0)]
    return ordered[starts], counts[0], counts[1]
