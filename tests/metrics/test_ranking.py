"""AUROC and average precision against scikit-learn, and what their intervals promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_ddad.metrics import auroc, average_precision, bootstrap_interval

PAIRS = [(auroc, roc_auc_score), (average_precision, average_precision_score)]


def draw(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = rng.normal(size=60) + 0.7 * labels
    return np.round(scores) if ties else scores, labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_figures_equal_scikit_learn(ours, theirs, ties):
    for seed in range(20):
        scores, labels = draw(seed, ties)
        assert float(ours(scores, labels)) == pytest.approx(theirs(labels, scores), abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_weighted_figures_equal_scikit_learn_for_each_row(ours, theirs):
    scores, labels = draw(0, ties=True)
    weights = np.random.default_rng(1).integers(0, 4, (7, 60)).astype(float)
    expected = [theirs(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ours(scores, labels, weights), expected, atol=1e-12)


@pytest.mark.parametrize("ours", [auroc, average_precision])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 2], [-1, 0, 1]])
def test_one_class_or_other_labels_are_refused(ours, labels):
    with pytest.raises(ValueError, match="normal"):
        ours(np.array([0.1, 0.2, 0.3]), np.array(labels))


def test_interval_covers_the_true_value_about_as_often_as_promised():
    true = 0.7602  # of two normal distributions one standard deviation apart: Phi(1 / sqrt(2))
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = np.r_[rng.normal(size=50), rng.normal(1, 1, 50)]
        low, high = bootstrap_interval(auroc, scores, np.repeat([0, 1], 50), resamples=200, seed=seed)
        covered += low <= true <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_repeats_with_its_seed():
    scores, labels = draw(3, ties=False)
    assert bootstrap_interval(auroc, scores, labels, seed=5) == bootstrap_interval(auroc, scores, labels, seed=5)
    assert bootstrap_interval(auroc, scores, labels, seed=5) != bootstrap_interval(auroc, scores, labels, seed=6)
