"""Moments and Gaussians against NumPy, in any parts and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.networks import Gaussian, Moments


@pytest.fixture
def vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(300, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 5


@pytest.mark.parametrize("parts", [1, 7, 300])
def test_moments_do_not_depend_on_the_parts_and_their_order(vectors, parts):
    found = Moments.none(6)
    for chunk in reversed(vectors.chunk(parts)):
        found = found + Moments.of(chunk)
    values = vectors.double().numpy()
    assert found.count == 300
    np.testing.assert_allclose(found.mean.numpy(), values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(values.T, bias=True), rtol=1e-9)


def test_what_was_added_can_be_taken_away(vectors):
    whole, part = Moments.of(vectors), Moments.of(vectors[:100])
    rest, expected = whole - part, Moments.of(vectors[100:])
    assert rest.count == 200
    torch.testing.assert_close(rest.mean, expected.mean)
    torch.testing.assert_close(rest.covariance, expected.covariance)


def test_the_distance_is_that_of_the_shrunken_covariance(vectors):
    gaussian, scale = Gaussian(6), vectors.std(dim=0)
    gaussian.fit(Moments.of(vectors), scale, shrinkage=0.1)
    values, unit = vectors.double().numpy(), scale.double().numpy()
    covariance = np.cov(values.T, bias=True) / np.outer(unit, unit)
    covariance = (0.9 * covariance + 0.1 * np.trace(covariance) / 6 * np.eye(6)) * np.outer(unit, unit)
    offset = values - values.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    np.testing.assert_allclose(gaussian(vectors).numpy(), expected, rtol=1e-3)


def test_units_change_nothing(vectors):
    distances, factor = [], torch.tensor([1e-3, 1.0, 1e3, 7.0, 0.1, 50.0])
    for values in (vectors, vectors * factor):
        gaussian = Gaussian(6)
        gaussian.fit(Moments.of(values), values.std(dim=0))
        distances.append(gaussian(values))
    torch.testing.assert_close(*distances, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("values", [torch.ones(4, 3), torch.randn(2, 3), torch.randn(1, 3)])
def test_few_or_constant_vectors_give_finite_distances(values):
    gaussian = Gaussian(3)
    gaussian.fit(Moments.of(values), torch.ones(3))
    assert gaussian(torch.randn(5, 3)).isfinite().all()


def test_no_vectors_and_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="no vectors"):
        Gaussian(3).fit(Moments.none(3), torch.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        Gaussian(3).fit(Moments.of(torch.full((4, 3), float("nan"))), torch.ones(3))
