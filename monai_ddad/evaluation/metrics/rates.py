"""Rates of flagged images: their intervals, and whether p-values keep what they promise on normal images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import betabinom, binomtest

from monai_ddad.networks.calibration import TIE, flagged

__all__ = ["Rate", "binomial_interval", "expected_calibration_error", "expected_rates", "flag_rate"]


class Rate(NamedTuple):
    """A share of images in [0, 1], and the bounds of its exact 95 % binomial interval."""

    value: float
    low: float
    high: float


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the exact (Clopper-Pearson) interval of a proportion.

    Args:
        successes: how many of the trials, 0 to ``trials``.
        trials: number of independent trials; of none, nothing is known.
        level: coverage of the interval, at least this.

    Returns:
        lower and upper bound in [0, 1].

    Raises:
        ValueError: the number of successes is negative or above that of the trials.

    Source: Clopper, Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934.

    Example:
        >>> [round(bound, 4) for bound in binomial_interval(0, 20)]
        [0.0, 0.1684]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and the number of trials, got {successes} of {trials}.")
    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def flag_rate(p_values: np.ndarray, alpha: float) -> Rate:
    """Compute the share of images that are flagged: of normal ones the realised false-positive rate, of abnormal ones
    the sensitivity.

    Args:
        p_values: (N,) float in [0, 1].
        alpha: the rate that was asked for, in [0, 1].

    Returns:
        the share with its exact 95 % binomial interval.

    Raises:
        ValueError: there is no p-value, or one or alpha is NaN or outside [0, 1].

    Example:
        >>> flag_rate(np.array([0.01, 0.05, 0.3, 0.9]), alpha=0.05).value
        0.5
    """
    found = flagged(_checked(p_values), alpha)
    return Rate(float(found.mean()), *binomial_interval(int(found.sum()), found.size))


def expected_rates(calibration: int, tests: int, alpha: float, level: float = 0.95) -> tuple[float, float]:
    """Compute the range that the realised false-positive rate lies in by chance, where the promise holds.

    It holds on average over the draw of the calibration images; one draw and one test lie off it, the more so the
    fewer there are. Of ``tests`` normal images the number that is flagged has a beta-binomial distribution with
    a = floor(alpha (n + 1)) and b = n + 1 - a, if no two scores are equal; equal ones are flagged less often.

    Args:
        calibration: calibration images (n), or their groups.
        tests: normal test images, at least 1.
        alpha: the promised rate, in [0, 1].
        level: share of the draws that lie in the range, at least this.

    Returns:
        lower and upper bound in [0, 1].

    Raises:
        ValueError: ``alpha`` is outside [0, 1], or there is no test image.

    Source: Vovk, Conditional validity of inductive conformal predictors, 2012, section 3.

    Example:
        >>> expected_rates(calibration=30, tests=100, alpha=0.1)
        (0.01, 0.24)
    """
    if not 0 <= alpha <= 1 or tests < 1:
        raise ValueError(f"alpha must be in [0, 1] and there must be a test image, got {alpha} and {tests} images.")
    flagged_ranks = math.floor(alpha * (1 + TIE) * (calibration + 1))
    if flagged_ranks == 0 or flagged_ranks > calibration:
        return (0.0, 0.0) if flagged_ranks == 0 else (1.0, 1.0)
    spread = betabinom(tests, flagged_ranks, calibration + 1 - flagged_ranks)
    return float(spread.ppf((1 - level) / 2)) / tests, float(spread.ppf((1 + level) / 2)) / tests


def expected_calibration_error(p_values: np.ndarray) -> float:
    """Average over all alpha in [0, 1] how far the realised false-positive rate is from alpha.

    This is the area between the empirical distribution function of the p-values and the diagonal, without a grid.

    Args:
        p_values: (N,) float in [0, 1], of normal images.

    Returns:
        in (0, 0.5]: near 0 where the p-values spread evenly over [0, 1], 0.5 where all are 0 or all are 1.

    Raises:
        ValueError: there is no p-value, or one is NaN or outside [0, 1].

    Example:
        >>> expected_calibration_error(np.array([0.5]))
        0.25
    """
    edges = np.r_[0.0, np.sort(_checked(p_values)), 1.0]
    rates = np.linspace(0, 1, len(edges) - 1)  # the realised rate between an edge and the next
    above, below = edges[1:] - rates, edges[:-1] - rates
    return float((above * np.abs(above) - below * np.abs(below)).sum() / 2)


def _checked(p_values: np.ndarray) -> np.ndarray:
    p_values = np.asarray(p_values)
    if p_values.size == 0:
        raise ValueError("there is no p-value: at least one normal image is needed.")
    wrong = int((~((p_values >= 0) & (p_values <= 1))).sum())
    if wrong:
        raise ValueError(f"p-values must lie in [0, 1]: {wrong} of {p_values.size} are NaN or outside.")
    return p_values
