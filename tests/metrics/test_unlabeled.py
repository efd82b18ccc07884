"""AUCp against scikit-learn and against its expectation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from monai_ddad.metrics import aucp


@pytest.mark.parametrize("ties", [False, True])
def test_unlabelled_images_are_taken_for_abnormal(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        normal, unlabeled = rng.normal(size=17), rng.normal(0.5, size=31)
        if ties:
            normal, unlabeled = normal.round(), unlabeled.round()
        expected = roc_auc_score([0] * 17 + [1] * 31, [*normal, *unlabeled])
        assert aucp(normal, unlabeled) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("abnormal", [0, 5, 60, 100])
def test_with_the_known_normals_themselves_in_the_pool_the_formula_is_exact(abnormal):
    """The pool's normals being as the known ones, and not only distributed as they are, leaves no chance."""
    rng = np.random.default_rng(1)
    normal, lesions = rng.normal(size=100 - abnormal or 40), rng.normal(1.0, size=abnormal)
    pool = lesions if abnormal == 100 else np.r_[normal, lesions]
    rate = abnormal / 100
    true = roc_auc_score([0] * len(normal) + [1] * abnormal, [*normal, *lesions]) if abnormal else 0.5
    found = aucp(normal, pool)
    assert found == pytest.approx(rate * true + (1 - rate) / 2, abs=1e-12)


def test_on_average_over_pools_the_formula_holds():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        normal, pool = rng.normal(size=40), np.r_[rng.normal(size=40), rng.normal(1.0, size=20)]
        found.append(aucp(normal, pool))
    error = np.std(found) / 20
    expected = (0.7602 + 2 * 0.5) / 3  # a third has an AUROC of Φ(1 / √2)
    assert np.mean(found) == pytest.approx(expected, abs=3 * error)


@pytest.mark.parametrize("normal, unlabeled", [([], [1.0]), ([1.0], [])])
def test_both_kinds_are_needed(normal, unlabeled):
    with pytest.raises(ValueError, match=f"got {len(normal)} and {len(unlabeled)}"):
        aucp(np.array(normal), np.array(unlabeled))


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        aucp(np.array([1.0]), np.array([float("nan")]))
