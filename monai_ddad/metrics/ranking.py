"""AUROC and average precision with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["auroc", "average_precision", "bootstrap_interval"]

Metric = Callable[..., np.ndarray]


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve: the share of (abnormal, normal) pairs ranked right, ties counting half.

    Args:
        scores: (N,) float, higher is more abnormal.
        labels: (N,) 0 (normal) or 1 (abnormal), both present.
        weights: (..., N) how often each image counts; None counts each once.

    Returns:
        (...) in [0, 1].

    Example:
        >>> float(auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])))
        0.75
    """
    abnormal, normal = _counts_by_score(scores, labels, weights)
    lower = normal.cumsum(axis=-1) - normal
    pairs = abnormal.sum(axis=-1) * normal.sum(axis=-1)
    return (abnormal * (lower + normal / 2)).sum(axis=-1) / pairs


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the average precision: the precision at each threshold, weighted by the gain in recall.

    Args:
        scores, labels, weights: as in :func:`auroc`.

    Returns:
        (...) in [0, 1].

    Example:
        >>> round(float(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))), 4)
        0.8333
    """
    abnormal, normal = _counts_by_score(scores, labels, weights)
    hits = abnormal[..., ::-1].cumsum(axis=-1)
    flagged = hits + normal[..., ::-1].cumsum(axis=-1)
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return (precision * abnormal[..., ::-1]).sum(axis=-1) / abnormal.sum(axis=-1)


def bootstrap_interval(
    metric: Metric, scores: np.ndarray, labels: np.ndarray, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval, resampling the images of each class on their own.

    Args:
        metric: :func:`auroc` or :func:`average_precision`.
        scores, labels: as in :func:`auroc`.
        resamples: bootstrap samples.
        level: coverage of the interval.
        seed: seed of the resampling.

    Returns:
        lower and upper bound.

    Example:
        >>> bootstrap_interval(auroc, np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
        (1.0, 1.0)
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)))
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(metric(scores, labels, weights), [tail, 1 - tail])
    return float(low), float(high)


def _counts_by_score(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Count abnormal and normal images at each distinct score, ascending: two (..., distinct) arrays."""
    labels = np.asarray(labels)
    if not (np.isin(labels, (0, 1)).all() and 0 < labels.sum() < len(labels)):
        raise ValueError("both normal (0) and abnormal (1) images are needed to rank one against the other.")
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = [np.add.reduceat((weights * (labels == label))[..., order], starts, axis=-1) for label in (1, 0)]
    return counts[0], counts[1]
