"""AUROC, average precision and sensitivity at a specificity against scikit-learn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from monai_ddad.evaluation.metrics import auroc, average_precision, sensitivity_at_specificity


def highest_sensitivity(labels, scores, specificity, sample_weight=None):
    false_alarms, sensitivities, _ = roc_curve(labels, scores, sample_weight=sample_weight, drop_intermediate=False)
    return sensitivities[1 - false_alarms >= specificity - 1e-9].max()


PAIRS = [(auroc, roc_auc_score), (average_precision, average_precision_score)]
PAIRS += [
    (partial(sensitivity_at_specificity, specificity=share), partial(highest_sensitivity, specificity=share))
    for share in (0.0, 0.1, 0.5, 0.8, 0.95, 1.0)
]


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
    np.testing.assert_allclose(ours(scores, labels, weights=weights), expected, atol=1e-12)


@pytest.mark.parametrize("normals", range(1, 60))
def test_a_specificity_that_the_images_reach_exactly_is_reached(normals):
    scores, labels = np.r_[np.arange(normals), np.arange(normals) + 0.5], np.repeat([0, 1], normals)
    for passed in range(1, normals + 1):  # the threshold is the highest of the normal images that pass
        found = sensitivity_at_specificity(scores, labels, passed / normals)
        assert found == pytest.approx((normals - passed + 1) / normals)


@pytest.mark.parametrize("specificity", [-0.01, 1.01, 95, float("nan")])
def test_a_specificity_that_is_no_share_is_refused(specificity):
    with pytest.raises(ValueError, match=f"specificity .* got {specificity}"):
        sensitivity_at_specificity(np.array([0.1, 0.2]), np.array([0, 1]), specificity)


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS[:3]])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 2], [-1, 0, 1]])
def test_one_class_or_other_labels_are_refused(ours, labels):
    with pytest.raises(ValueError, match="normal"):
        ours(np.array([0.1, 0.2, 0.3]), np.array(labels))


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS[:3]])
def test_nan_and_missing_scores_are_refused(ours):
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        ours(np.array([0.1, np.nan, 0.3]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match=r"\(2,\) scores and \(3,\) labels"):
        ours(np.array([0.1, 0.2]), np.array([0, 1, 1]))
