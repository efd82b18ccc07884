"""Points of curves against scikit-learn and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from monai_ddad.evaluation.metrics import precision_recall_points, roc_points


def draw(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, 40)]
    scores = rng.normal(size=42) + 0.7 * labels
    return np.round(scores) if ties else scores, labels


@pytest.mark.parametrize("ties", [False, True])
def test_roc_points_equal_scikit_learn(ties):
    for seed in range(10):
        scores, labels = draw(seed, ties)
        alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(roc_points(scores, labels), [alarms, hits], atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_precision_recall_points_equal_scikit_learn(ties):
    for seed in range(10):
        scores, labels = draw(seed, ties)
        precision, recall, _ = precision_recall_curve(labels, scores)
        found = precision_recall_points(scores, labels)
        np.testing.assert_allclose(found, [recall[-2::-1], precision[-2::-1]], atol=1e-12)
        area = (np.diff(found[0], prepend=0) * found[1]).sum()
        assert area == pytest.approx(average_precision_score(labels, scores))
