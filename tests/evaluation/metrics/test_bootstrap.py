"""What bootstrap intervals and p-values promise, and a plain loop that finds the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from monai_ddad.evaluation.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    paired_bootstrap,
    sensitivity_at_specificity,
)

LABELS = np.repeat([0, 1], 50)


def two_models(seed: int, first: float = 1.0, second: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores that have a part in common and separate the classes by so many standard deviations."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=100)
    return tuple((common + rng.normal(size=100)) / np.sqrt(2) + shift * LABELS for shift in (first, second))


def test_interval_covers_the_true_value_about_as_often_as_promised():
    true = 0.7602  # of two normal distributions one standard deviation apart: Phi(1 / sqrt(2))
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = np.r_[rng.normal(size=50), rng.normal(1, 1, 50)]
        low, high = bootstrap_interval(auroc, scores, LABELS, resamples=200, seed=seed)
        covered += low <= true <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_repeats_with_its_seed():
    scores, _ = two_models(3)
    assert bootstrap_interval(auroc, scores, LABELS, seed=5) == bootstrap_interval(auroc, scores, LABELS, seed=5)
    assert bootstrap_interval(auroc, scores, LABELS, seed=5) != bootstrap_interval(auroc, scores, LABELS, seed=6)


def test_a_class_without_images_is_refused():
    with pytest.raises(ValueError, match="none has label 1"):
        bootstrap_interval(auroc, np.array([0.1, 0.2]), np.array([0, 0]))
    with pytest.raises(ValueError, match="none has label 0"):
        paired_bootstrap(auroc, np.array([0.1, 0.2]), np.array([0.1, 0.2]), np.array([1, 1]))


SENSITIVITY = partial(sensitivity_at_specificity, specificity=0.8)


def plain_sensitivity(labels, scores):
    false_alarms, sensitivities, _ = roc_curve(labels, scores, drop_intermediate=False)
    return sensitivities[false_alarms <= 0.2 + 1e-9].max()


@pytest.mark.parametrize(
    ("ours", "theirs", "draws_of_0"),
    [(auroc, roc_auc_score, 0), (average_precision, average_precision_score, 0), (SENSITIVITY, plain_sensitivity, 5)],
)
def test_comparison_equals_a_loop_that_copies_the_drawn_images(ours, theirs, draws_of_0):
    first, second = (np.round(scores, 1) for scores in two_models(0, second=1.2))
    rng = np.random.default_rng(9)
    counts = np.hstack([rng.multinomial(50, np.full(50, 1 / 50), size=300) for _ in (0, 1)])
    images = [np.repeat(np.arange(100), row) for row in counts]
    drawn = np.array(
        [theirs(LABELS[chosen], second[chosen]) - theirs(LABELS[chosen], first[chosen]) for chosen in images]
    )
    found = paired_bootstrap(ours, first, second, LABELS, resamples=300, level=0.9, seed=9)
    assert found.difference == pytest.approx(theirs(LABELS, second) - theirs(LABELS, first)) and found.difference > 0
    np.testing.assert_allclose(found.interval, np.quantile(drawn, [0.05, 0.95]), atol=1e-12)
    ties = sum(abs(drawn) <= 1e-9)
    assert ties >= draws_of_0
    assert found.p_value == pytest.approx(2 * (sum(drawn < -1e-9) + ties / 2 + 1) / 301) and found.p_value < 0.9


def test_exchanging_the_models_only_turns_the_sign():
    first, second = two_models(1, second=1.2)
    one, other = (paired_bootstrap(auroc, *pair, LABELS) for pair in ((first, second), (second, first)))
    assert one.difference == -other.difference != 0 and one.p_value == other.p_value < 1
    np.testing.assert_allclose(one.interval, [-other.interval[1], -other.interval[0]])


def test_models_that_are_alike_are_rejected_as_rarely_as_promised():
    p_values = [paired_bootstrap(auroc, *two_models(seed), LABELS, 200, seed=seed).p_value for seed in range(300)]
    for level in (0.05, 0.2, 0.5):
        rejected = int(sum(value <= level for value in p_values))
        assert binomtest(rejected, 300, level).pvalue > 0.001, (level, rejected)


def test_a_clear_difference_is_found_and_its_p_value_is_never_0():
    first, second = two_models(2, second=3.0)
    found = paired_bootstrap(auroc, first, second, LABELS, resamples=400)
    assert found.p_value == pytest.approx(2 / 401)
    assert 0 < found.interval[0] < found.difference < found.interval[1]


@pytest.mark.parametrize("metric", [auroc, average_precision, SENSITIVITY])
def test_models_that_rank_alike_differ_by_nothing(metric):
    scores, _ = two_models(4)
    # ties of normal images between two abnormal ones change the sums that metrics go through, not their values
    lower = np.searchsorted(np.sort(scores[LABELS == 1]), scores)
    for other in (scores, np.exp(scores), lower + LABELS / 2):
        found = paired_bootstrap(metric, scores, other, LABELS, resamples=100)
        assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
