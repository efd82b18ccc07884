"""Discrepancy maps and image scores as pure functions of reconstructions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = [
    "cell_logs",
    "f_score",
    "field_of_view",
    "image_scores",
    "inter_map",
    "intra_map",
    "mean_variance",
    "ratio_score",
    "rec_map",
    "ssim_map",
    "z_map",
]

FAINT = 1e-5  # below the rounding of 8 bits, (1 / 255)^2


def mean_variance(log_variances: torch.Tensor) -> torch.Tensor:
    """Average the members' predicted variances.

    Args:
        log_variances: (K, B, C, H, W) log-variances of the NDM's members.

    Returns:
        (B, C, H, W), positive.

    Source: method.md section 3, V of AE-U.

    Example:
        >>> mean_variance(torch.zeros(3, 1, 1, 1, 1)).item()
        1.0
    """
    return log_variances.exp().mean(dim=0)


def rec_map(image: torch.Tensor, ndm: torch.Tensor) -> torch.Tensor:
    """Square the difference between the image and the NDM's mean reconstruction.

    For AE-U, divide the result by :func:`mean_variance`.

    Args:
        image: (B, C, H, W) float in [-1, 1].
        ndm: (K, B, C, H, W) reconstructions of the NDM's members.

    Returns:
        (B, C, H, W), at least 0.

    Source: method.md section 3, A_rec.

    Example:
        >>> rec_map(torch.ones(1, 1, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)).item()
        0.25
    """
    return (image - ndm.mean(dim=0)).square()


def intra_map(ndm: torch.Tensor) -> torch.Tensor:
    """Take the unbiased standard deviation of the NDM's reconstructions.

    For AE-U, divide the result by the square root of :func:`mean_variance`.

    Args:
        ndm: (K, B, C, H, W) reconstructions of the NDM's members, K at least 2.

    Returns:
        (B, C, H, W), at least 0.

    Raises:
        ValueError: K is 1, for which the standard deviation is undefined.

    Source: method.md section 3, A_intra.

    Example:
        >>> round(intra_map(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)).item(), 4)
        0.7071
    """
    if ndm.shape[0] < 2:
        raise ValueError("intra is the spread of at least 2 NDM members, got 1: it is undefined.")
    return _variance(ndm).sqrt()


def _variance(members: torch.Tensor) -> torch.Tensor:
    """Return the unbiased variance over the first dimension, ten times as fast as torch.var on a CPU."""
    return (members - members.mean(dim=0)).square().sum(dim=0) / (members.shape[0] - 1)


def inter_map(udm: torch.Tensor, ndm: torch.Tensor) -> torch.Tensor:
    """Take the absolute difference of the two modules' mean reconstructions.

    For AE-U, divide the result by the square root of :func:`mean_variance`.

    Args:
        udm: (K, B, C, H, W) reconstructions of the UDM's members.
        ndm: (K', B, C, H, W) reconstructions of the NDM's members.

    Returns:
        (B, C, H, W), at least 0.

    Source: method.md section 3, A_inter.

    Example:
        >>> inter_map(torch.ones(3, 1, 1, 1, 1), torch.zeros(3, 1, 1, 1, 1)).item()
        1.0
    """
    return (udm.mean(dim=0) - ndm.mean(dim=0)).abs()


def z_map(maps: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Express anomaly maps in standard deviations of each pixel above its mean on normal images.

    Args:
        maps: (B, M, H, W) anomaly maps.
        mean, deviation: (M, H, W) of normal images, the latter positive.

    Returns:
        (B, M, H, W); 0 where the map is below the mean, since less than usual is not abnormal.

    Example:
        >>> z_map(torch.tensor([5.0, 0.0]).view(2, 1, 1, 1), torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0)).flatten()
        tensor([2., 0.])
    """
    return ((maps - mean) / deviation).clamp(min=0)


def field_of_view(image: torch.Tensor) -> torch.Tensor:
    """Tell which pixels count where the outside of the field of view was made black.

    Args:
        image: (B, C, H, W) float in [-1, 1].

    Returns:
        (B, 1, H, W), 0 where all channels are exactly -1, else 1.

    Example:
        >>> field_of_view(torch.tensor([-1.0, -0.5, 1.0]).view(1, 1, 1, 3)).flatten().tolist()
        [0.0, 1.0, 1.0]
    """
    return (image.amax(dim=1, keepdim=True) > -1).to(image.dtype)


def image_scores(maps: torch.Tensor, field: torch.Tensor | None = None) -> torch.Tensor:
    """Average each map over its pixels.

    Args:
        maps: (B, M, H, W) anomaly maps.
        field: (B, 1, H, W), 1 where a pixel counts and 0 where not; None counts all. Where nothing counts the score
            is 0.

    Returns:
        (B, M) image scores.

    Source: method.md sections 3 and 4.

    Example:
        >>> image_scores(torch.ones(2, 4, 8, 8)).shape
        torch.Size([2, 4])
    """
    if field is None:
        return maps.mean(dim=(2, 3))
    return (maps * field).sum(dim=(2, 3)) / field.sum(dim=(2, 3)).clamp(min=1)


def ratio_score(
    image: torch.Tensor, udm: torch.Tensor, ndm: torch.Tensor, field: torch.Tensor, faint: float = FAINT
) -> torch.Tensor:
    """Compare how badly the two modules reconstruct: the logarithm of the ratio of their mean squared errors.

    What unlabelled images hold and known normals do not, the UDM reconstructs and the NDM does not. Details that
    neither reconstructs, which make up most of :func:`rec_map`, cancel out.

    Args:
        image: (B, C, H, W) float in [-1, 1].
        udm: (K, B, C, H, W) reconstructions of the UDM's members.
        ndm: (K', B, C, H, W) reconstructions of the NDM's members.
        field: (B, 1, H, W), 1 where a pixel counts and 0 where not.
        faint: added to both means.

    Returns:
        (B,), log(mean (x - mu_b)^2 / mean (x - mu_a)^2), about 0 on normal images.

    Source: not of the paper; a log-likelihood ratio of two Gaussian models of equal variance has the difference of the
    same errors, as in Ren et al., Likelihood Ratios for Out-of-Distribution Detection, NeurIPS 2019.

    Example:
        >>> image, near, far = torch.zeros(1, 1, 2, 2), torch.full((2, 1, 1, 2, 2), 0.1), torch.ones(2, 1, 1, 2, 2)
        >>> round(ratio_score(image, near, far, torch.ones(1, 1, 2, 2)).item(), 2)
        4.6
    """
    errors = torch.stack([rec_map(image, ndm), rec_map(image, udm)]).mean(dim=2)
    found = image_scores(errors.transpose(0, 1), field)
    return (found[:, 0] + faint).log() - (found[:, 1] + faint).log()


def f_score(udm: torch.Tensor, ndm: torch.Tensor, field: torch.Tensor, faint: float = FAINT) -> torch.Tensor:
    """Relate the difference between the modules to that within them.

    It is the logarithm of what the F statistic of an analysis of variance is proportional to.

    Args:
        udm: (K, B, C, H, W) reconstructions of the UDM's members, K at least 2.
        ndm: (K', B, C, H, W) reconstructions of the NDM's members, K' at least 2.
        field: (B, 1, H, W), 1 where a pixel counts and 0 where not.
        faint: added to both means.

    Returns:
        (B,), log(mean (mu_a - mu_b)^2 / mean (s_a^2 + s_b^2)) with the members' unbiased variances s^2.

    Source: not of the paper, of which it relates A_inter and A_intra; Fisher, Statistical Methods for Research Workers,
    1925.

    Example:
        >>> udm = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1, 1)
        >>> round(f_score(udm, udm - 2, torch.ones(1, 1, 1, 1)).item(), 4)  # log(4 / (2 + 2))
        0.0
    """
    between = (udm.mean(dim=0) - ndm.mean(dim=0)).square()
    within = _variance(udm) + _variance(ndm)
    found = image_scores(torch.stack([between, within]).mean(dim=2).transpose(0, 1), field)
    return (found[:, 0] + faint).log() - (found[:, 1] + faint).log()


def ssim_map(udm: torch.Tensor, ndm: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Compare the modules' mean reconstructions by their structure: 1 - SSIM.

    Args:
        udm: (K, B, C, H, W) reconstructions of the UDM's members.
        ndm: (K', B, C, H, W) reconstructions of the NDM's members.
        window: side of the square over which means and variances are taken, pixels, odd.

    Returns:
        (B, 1, H, W) in [0, 2], averaged over the channels; pixels closer to the edge than half a window have the value
        of the closest one that is not.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 13, 2004,
    with a uniform window; values are those of ``skimage.metrics.structural_similarity``.

    Example:
        >>> one, other = torch.randn(2, 3, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim_map(one, one).max().item() < 1e-6, ssim_map(one, other).mean().item() > 0.5
        (True, True)
    """
    first, second = udm.mean(dim=0), ndm.mean(dim=0)
    parts = torch.cat([first, second, first * first + second * second, first * second], dim=1)
    sums = _window_sums(_window_sums(parts, window, 2), window, 3) / window**2
    mean_a, mean_b, squares, product = sums.chunk(4, dim=1)
    unbiased = window**2 / (window**2 - 1)
    mean_squares, mean_product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    variances, covariance = unbiased * (squares - mean_squares), unbiased * (product - mean_product)
    stable_mean, stable_variance = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of values in [-1, 1]
    similar = (2 * mean_product + stable_mean) * (2 * covariance + stable_variance)
    similar = similar / ((mean_squares + stable_mean) * (variances + stable_variance))
    edge = window // 2
    return F.pad(1 - similar.mean(dim=1, keepdim=True), [edge, edge, edge, edge], mode="replicate").clamp(min=0)


def _window_sums(values: torch.Tensor, window: int, dim: int) -> torch.Tensor:
    """Sum an odd number of neighbours along a dimension, from sums of 2, 4 and so on; on a CPU faster than pooling."""
    length = values.shape[dim] - window + 1
    total, count, size = values.narrow(dim, 0, length), 1, 1
    while count < window:
        there = values.shape[dim] - size
        values, size = values.narrow(dim, 0, there) + values.narrow(dim, size, there), 2 * size
        if window // size % 2 == 1:
            total, count = total + values.narrow(dim, count, length), count + size
    return total


def cell_logs(maps: torch.Tensor, field: torch.Tensor, cells: int = 8, faint: float = FAINT) -> torch.Tensor:
    """Describe where maps are high: the logarithm of their mean in each of some square cells.

    A logarithm, because errors differ by factors; the mean of a cell, because they lie elsewhere in each image.

    Args:
        maps: (B, M, H, W), at least 0, H = W a multiple of ``cells``.
        field: (B, 1, H, W), 1 where a pixel counts and 0 where not.
        cells: along a side.
        faint: a mean that counts as little.

    Returns:
        (B, M, cells^2), at least 0: log(1 + mean / faint), times the share of the cell that counts.

    Example:
        >>> cell_logs(torch.ones(2, 3, 16, 16), torch.ones(2, 1, 16, 16)).shape
        torch.Size([2, 3, 64])
    """
    side = maps.shape[-1] // cells
    share = F.avg_pool2d(field, side)
    mean = F.avg_pool2d(maps * field, side) / share.clamp(min=faint)
    return (share * (1 + mean / faint).log()).flatten(2)
