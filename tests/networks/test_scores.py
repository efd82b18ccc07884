"""Score maps against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from monai_ddad.networks.scores import (
    cell_logs,
    f_score,
    image_scores,
    inter_map,
    intra_map,
    mean_variance,
    ratio_score,
    rec_map,
    ssim_map,
)

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


@pytest.fixture
def field() -> torch.Tensor:
    """Which pixels of the two images count: not the left column, and not the first row of the second image."""
    field = torch.ones(2, 1, 6, 5, dtype=torch.float64)
    field[:, :, :, 0] = 0
    field[1, :, 0] = 0
    return field


def counted(values: np.ndarray, field: torch.Tensor) -> np.ndarray:
    """Mean of (B, C, H, W) values over channels and the pixels that count."""
    return np.array([one.mean(axis=0)[kept[0]].mean() for one, kept in zip(values, field.numpy() > 0)])


def test_ratio_is_the_logarithm_of_the_ratio_of_the_mean_errors(tensors, field):
    image, ndm, udm = tensors
    errors = [(image.numpy() - members.numpy().mean(axis=0)) ** 2 for members in (ndm, udm)]
    expected = np.log(counted(errors[0], field) / counted(errors[1], field))
    np.testing.assert_allclose(ratio_score(image, udm, ndm, field), expected, atol=1e-3)


def test_f_is_the_logarithm_of_variance_between_over_variance_within(tensors, field):
    _, ndm, udm = tensors
    between = (udm.numpy().mean(axis=0) - ndm.numpy().mean(axis=0)) ** 2
    within = udm.numpy().var(axis=0, ddof=1) + ndm.numpy().var(axis=0, ddof=1)
    expected = np.log(counted(between, field) / counted(within, field))
    np.testing.assert_allclose(f_score(udm, ndm, field), expected, atol=1e-3)


def test_ssim_equals_that_of_scikit_image():
    generator = torch.Generator().manual_seed(0)
    udm, ndm = (torch.rand(3, 2, 3, 20, 24, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    found = ssim_map(udm, udm + 0.3 * ndm).numpy()
    for one, a, b in zip(found, udm.mean(dim=0).numpy(), (udm + 0.3 * ndm).mean(dim=0).numpy()):
        _, expected = structural_similarity(a, b, data_range=2, channel_axis=0, full=True)
        inner = (slice(3, -3), slice(3, -3))
        np.testing.assert_allclose(one[0][inner], 1 - expected.mean(axis=0)[inner], rtol=1e-6)
    assert found.shape == (2, 1, 20, 24) and (found[:, :, 0] == found[:, :, 3]).all()


def test_cells_hold_the_logarithm_of_the_mean_of_what_counts():
    maps, field = torch.arange(1.0, 513).view(2, 1, 16, 16).repeat(1, 2, 1, 1), torch.ones(2, 1, 16, 16)
    field[0, 0, :2, :2] = 0  # a whole cell
    field[0, 0, 2, 0] = 0  # a quarter of one
    found = cell_logs(maps, field)
    assert found.shape == (2, 2, 64)
    values = maps[0, 0].numpy()
    np.testing.assert_allclose(found[0, :, 9], np.log(1 + values[2:4, 2:4].mean() / 1e-5), rtol=1e-5)
    some = (values[2, 1] + values[3, 0] + values[3, 1]) / 3
    np.testing.assert_allclose(found[0, :, 8], 0.75 * np.log(1 + some / 1e-5), rtol=1e-5)
    assert (found[0, :, 0] == 0).all()
