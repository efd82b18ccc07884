"""Intervals and calibration against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from monai_ddad.evaluation.metrics import binomial_interval, expected_calibration_error, expected_rates, flag_rate


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 40), (39, 40), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bounds_leave_the_promised_tails(successes, trials, level):
    low, high = binomial_interval(successes, trials, level)
    tail = (1 - level) / 2
    assert low == 0 if successes == 0 else binom.sf(successes - 1, trials, low) == pytest.approx(tail)
    assert high == 1 if successes == trials else binom.cdf(successes, trials, high) == pytest.approx(tail)


def test_interval_covers_every_proportion_at_least_as_often_as_promised():
    for proportion in np.linspace(0.01, 0.99, 25):
        bounds = [binomial_interval(successes, 15) for successes in range(16)]
        covered = [low <= proportion <= high for low, high in bounds]
        assert binom.pmf(np.arange(16), 15, proportion)[covered].sum() >= 0.95


def test_no_trials_tell_nothing():
    assert binomial_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        binomial_interval(successes, trials)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("number", [float, np.float32, np.float64])
def test_a_p_value_of_alpha_is_flagged_in_any_precision(kind, number):
    p_values = np.arange(1, 21).astype(kind) / kind(20)
    for rank in (1, 3, 7, 20):
        alpha = rank / 20 if kind is np.float64 and number is np.float32 else number(rank / 20)
        assert flag_rate(p_values, alpha).value == rank / 20
    assert flag_rate(p_values, 0.049).value == 0


def test_the_flag_rate_equals_a_plain_count_with_the_clopper_pearson_interval():
    p_values = (np.random.default_rng(0).integers(1, 41, 50) / 40).astype(np.float32)
    for alpha in np.arange(1, 40) / 40:  # as many as there are different p-values, so that each counts at its own
        rate, low, high = flag_rate(p_values, alpha)
        count = sum(round(40 * float(p)) <= round(40 * alpha) for p in p_values)
        assert rate == count / 50
        assert low == pytest.approx(beta.ppf(0.025, count, 51 - count) if count else 0, abs=1e-9)
        assert high == pytest.approx(beta.ppf(0.975, count + 1, 50 - count) if count < 50 else 1, abs=1e-9)


@pytest.mark.parametrize("calibration, tests, alpha", [(30, 24, 0.2), (19, 100, 0.05), (99, 300, 0.1), (30, 50, 0.01)])
def test_the_range_by_chance_is_that_of_simulated_calibrations_and_tests(calibration, tests, alpha):
    rng = np.random.default_rng(0)
    known, new = rng.random((20_000, calibration)), rng.random((20_000, tests))
    known.sort(axis=1)
    ranks = int(alpha * (calibration + 1) + 1e-9)
    above = new > known[:, [calibration - ranks]] if ranks else np.zeros_like(new, dtype=bool)
    rates = above.mean(axis=1)
    low, high = expected_rates(calibration, tests, alpha)
    assert ((low <= rates) & (rates <= high)).mean() >= 0.945
    assert (rates < low).mean() <= 0.03 and (rates > high).mean() <= 0.03
    assert (rates <= high - 1.5 / tests).mean() < 0.98 or high < 2 / tests


def test_nothing_and_everything_are_flagged_at_the_ends():
    assert expected_rates(30, 10, 0.0) == (0, 0) and expected_rates(30, 10, 1.0) == (1, 1)
    assert expected_rates(200_000, 10, 1.0) == (1, 1)
    for alpha, tests in ((-0.1, 5), (float("nan"), 5), (0.1, 0)):
        with pytest.raises(ValueError, match="alpha must be in"):
            expected_rates(30, tests, alpha)


@pytest.mark.parametrize("count", [1, 2, 13, 200])
@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_calibration_error_equals_a_fine_grid(count, power):
    p_values = np.random.default_rng(count).random(count) ** power
    alphas = (np.arange(200_000) + 0.5) / 200_000
    realised = np.searchsorted(np.sort(p_values), alphas, side="right") / count
    assert expected_calibration_error(p_values) == pytest.approx(np.abs(realised - alphas).mean(), abs=1e-5)


def test_calibration_error_of_known_distributions():
    assert expected_calibration_error(np.zeros(5)) == expected_calibration_error(np.ones(5)) == 0.5
    assert expected_calibration_error((np.arange(1000) + 0.5) / 1000) == pytest.approx(1 / 4000)
    # p = u ** 2 has the distribution function sqrt(p), whose area above the diagonal is 2 / 3 - 1 / 2
    even = (np.arange(100_000) + 0.5) / 100_000
    assert expected_calibration_error(even**2) == pytest.approx(1 / 6, abs=1e-4)


@pytest.mark.parametrize("function", [expected_calibration_error, lambda p_values: flag_rate(p_values, 0.1)])
def test_what_is_no_p_value_is_refused(function):
    with pytest.raises(ValueError, match="no p-value"):
        function(np.array([]))
    with pytest.raises(ValueError, match=r"3 of 4 are NaN or outside"):
        function(np.array([0.5, np.nan, -0.1, 1.1]))


@pytest.mark.parametrize("alpha", [-0.1, 5, float("nan")])
def test_an_alpha_that_is_no_rate_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha .* got {alpha}"):
        flag_rate(np.array([0.5]), alpha)
