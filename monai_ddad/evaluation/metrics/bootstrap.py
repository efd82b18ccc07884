"""Bootstrap intervals of a metric and of the difference between two models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["PairedDifference", "bootstrap_interval", "paired_bootstrap"]

Metric = Callable[..., np.ndarray]

DECIMALS = 12  # to which two figures count as equal: sums of different order round differently


@dataclass(frozen=True)
class PairedDifference:
    """How much better the second of two models is.

    Attributes:
        difference: metric of the second model less that of the first.
        interval: lower and upper bound of the difference.
        p_value: two-sided, of no difference; in (0, 1].
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def bootstrap_interval(
    metric: Metric, scores: np.ndarray, labels: np.ndarray, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval, resampling the images of each class on their own.

    Args:
        metric: function of scores, labels and ``weights`` (resamples, N), such as :func:`.auroc`.
        scores: (N,) float, higher is more abnormal.
        labels: (N,) 0 (normal) or 1 (abnormal), both present.
        resamples: bootstrap samples.
        level: coverage of the interval.
        seed: seed of the resampling.

    Returns:
        lower and upper bound.

    Raises:
        ValueError: a class is absent.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Example:
        >>> from monai_ddad.evaluation.metrics import auroc
        >>> bootstrap_interval(auroc, np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
        (1.0, 1.0)
    """
    return _percentiles(metric(scores, labels, weights=_resample(labels, resamples, seed)), level)


def paired_bootstrap(
    metric: Metric,
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models on the same images, drawing the same bootstrap samples for both.

    The p-value is twice the share of bootstrap differences on the other side of 0 from the observed one; a difference
    of 0 counts half, and one is added to both counts, so that it is never 0.

    Args:
        metric, labels, resamples, level, seed: as in :func:`bootstrap_interval`, as are the errors.
        first, second: (N,) float, both models' scores, higher is more abnormal.

    Returns:
        the difference with its interval and p-value; p is 1 where both models rank alike.

    Source: Davison, Hinkley, Bootstrap Methods and their Application, 1997, chapters 4 (the added one) and 5.

    Example:
        >>> from monai_ddad.evaluation.metrics import auroc
        >>> paired_bootstrap(auroc, np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]), np.array([0, 0, 1]))
        PairedDifference(difference=0.0, interval=(0.0, 0.0), p_value=1.0)
    """
    weights = _resample(labels, resamples, seed)
    observed = np.round(metric(second, labels) - metric(first, labels), DECIMALS)
    drawn = np.round(metric(second, labels, weights=weights) - metric(first, labels, weights=weights), DECIMALS)
    agreement = np.sign(observed) * drawn
    opposite = (agreement < 0).sum() + (agreement == 0).sum() / 2
    p_value = min(1.0, 2 * float(opposite + 1) / (resamples + 1))
    return PairedDifference(float(observed), _percentiles(drawn, level), p_value)


def _resample(labels: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each image counts in each bootstrap sample: (resamples, N)."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)))
    for label in (0, 1):
        members = np.flatnonzero(np.asarray(labels) == label)
        if not len(members):
            raise ValueError(f"normal (0) and abnormal (1) images are resampled on their own: none has label {label}.")
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return weights


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
