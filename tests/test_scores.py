"""Score maps against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.scores import image_scores, inter_map, intra_map, mean_variance, rec_map

SHAPE = (2, 3, 6, 5)


@pytest.fixture(params=[2, 3, 5])
def tensors(request) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image with the NDM's and the UDM's reconstructions."""
    generator = torch.Generator().manual_seed(request.param)
    ndm, udm = (torch.randn(request.param, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64), ndm, udm


def test_maps_equal_numpy(tensors):
    image, ndm, udm = tensors
    x, b, a = image.numpy(), ndm.numpy(), udm.numpy()
    np.testing.assert_allclose(rec_map(image, ndm), (x - np.mean(b, axis=0)) ** 2)
    np.testing.assert_allclose(intra_map(ndm), np.std(b, axis=0, ddof=1))
    np.testing.assert_allclose(inter_map(udm, ndm), np.abs(np.mean(a, axis=0) - np.mean(b, axis=0)))


def test_variance_is_the_mean_of_the_variances_not_of_their_logarithms(tensors):
    _, log_variances, _ = tensors
    np.testing.assert_allclose(mean_variance(log_variances), np.mean(np.exp(log_variances.numpy()), axis=0))


def test_image_scores_average_over_pixels(tensors):
    maps = tensors[0].abs()
    np.testing.assert_allclose(image_scores(maps), maps.numpy().reshape(2, 3, 30).mean(axis=2))


def test_modules_may_have_different_numbers_of_members(tensors):
    _, ndm, udm = tensors
    np.testing.assert_allclose(inter_map(udm[:1], ndm), np.abs(udm[0].numpy() - ndm.numpy().mean(axis=0)))


def test_intra_of_one_member_is_refused():
    with pytest.raises(ValueError, match="at least 2 NDM members, got 1"):
        intra_map(torch.zeros(1, *SHAPE))
