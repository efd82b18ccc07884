"""Distances and discriminants against SciPy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from monai_ddad.networks.distributions import Discriminant, Reference, whitening

MIX = torch.tensor([[2.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.3, 0.0], [0.0, 0.0, 0.5, 0.1], [0.2, 0.0, 0.0, 3.0]])


def normals(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, 4, generator=torch.Generator().manual_seed(seed)) @ MIX + 5


@pytest.mark.parametrize("number", [6, 50, 2000])
def test_a_distance_is_that_of_mahalanobis_with_shrunk_correlations(number):
    features, new = normals(number), normals(9, seed=1)
    values = features.double().numpy()
    covariance = np.cov(values.T)
    deviation = np.sqrt(np.diag(covariance) + 0.1**2)
    correlation = covariance / np.outer(deviation, deviation) * number / (number + 4)
    np.fill_diagonal(correlation, 1)
    inverse = np.linalg.inv(correlation * np.outer(deviation, deviation))
    expected = [mahalanobis(row, values.mean(axis=0), inverse) / 2 for row in new.double().numpy()]
    reference = Reference(4)
    assert not reference(new).any()  # not fitted
    reference.fit(features)
    np.testing.assert_allclose(reference(new), expected, rtol=1e-4)


def test_whitened_features_have_no_covariance():
    features = normals(20000)
    found = torch.cov((features.double() @ whitening(features, floor=1e-9)).T)
    torch.testing.assert_close(found, torch.eye(4, dtype=torch.float64), atol=2e-3, rtol=0)


def test_a_feature_that_never_varies_does_no_harm():
    features = torch.cat([normals(30), torch.ones(30, 1)], dim=1)
    reference, discriminant = Reference(5), Discriminant(5)
    reference.fit(features)
    discriminant.fit(features, features + torch.tensor([1.0, 0, 0, 0, 0]))
    assert reference(features).isfinite().all() and discriminant(features).isfinite().all()


def test_a_discriminant_has_the_direction_of_fishers_and_the_first_set_as_its_unit():
    known, other = normals(5000), normals(3000, seed=1) + torch.tensor([0.5, -0.2, 0.3, 0.0])
    discriminant = Discriminant(4)
    assert not discriminant(known).any()  # not fitted
    discriminant.fit(known, other)
    fisher = LinearDiscriminantAnalysis(solver="lsqr").fit(torch.cat([known, other]), [0] * 5000 + [1] * 3000)
    cosine = np.dot(discriminant.weight, fisher.coef_[0]) / np.linalg.norm(discriminant.weight)
    assert cosine / np.linalg.norm(fisher.coef_[0]) > 0.9999
    values = discriminant(known)
    assert values.mean().abs() < 1e-3 and values.std().item() == pytest.approx(1, abs=1e-3)
    assert discriminant(other).mean() > 0.2


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_units_of_the_features_do_not_matter(scale):
    known, other, new = normals(40), normals(40, seed=1) + 0.5, normals(9, seed=2)
    first, second = Discriminant(4), Discriminant(4)
    first.fit(known, other)
    second.fit(scale * known, scale * other)
    torch.testing.assert_close(second(scale * new), first(new), rtol=1e-3, atol=1e-3)


def test_autocast_changes_nothing():
    reference, discriminant, new = Reference(4), Discriminant(4), normals(9, seed=1)
    reference.fit(normals(50))
    discriminant.fit(normals(50), normals(50, seed=2) + 1)
    with torch.autocast("cpu", torch.bfloat16):
        found, values = reference.by_elements(new), discriminant(new)
    torch.testing.assert_close(found, reference(new), rtol=1e-5, atol=1e-5)
    assert torch.equal(values, discriminant(new))
