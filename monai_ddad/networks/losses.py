"""Training losses as pure functions of tensors."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["attention_entropy", "focal_loss", "gaussian_nll", "mean_squared_error"]


def mean_squared_error(reconstruction: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Average the squared error over batch and pixels.

    Args:
        reconstruction, image: (B, C, H, W) float.

    Returns:
        scalar, at least 0.

    Source: method.md section 2, loss of AE.

    Example:
        >>> mean_squared_error(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0))
        tensor(9.)
    """
    return (reconstruction - image).square().mean()


def gaussian_nll(mean: torch.Tensor, log_variance: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Average exp(-s) (mean - x)^2 + s over batch and pixels, s the log-variance.

    This is twice the Gaussian negative log-likelihood without its constant.

    Args:
        mean, log_variance, image: (B, C, H, W) float.

    Returns:
        scalar, unbounded.

    Source: method.md section 2, loss of AE-U.

    Example:
        >>> gaussian_nll(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0))
        tensor(9.)
    """
    return (torch.exp(-log_variance) * (mean - image).square()).mean() + log_variance.mean()


def attention_entropy(attention: torch.Tensor) -> torch.Tensor:
    """Average the entropy (in nats) of attention rows.

    Args:
        attention: (B, slots) float in [0, 1], rows sum to 1.

    Returns:
        scalar in [0, log(slots)].

    Source: method.md section 2, second term of MemAE's loss.

    Example:
        >>> round(float(attention_entropy(torch.full((3, 4), 0.25))), 4)  # log(4)
        1.3863
    """
    return -(attention * torch.log(attention + 1e-12)).sum(dim=1).mean()


def focal_loss(logits: torch.Tensor, mask: torch.Tensor, gamma: float = 2.0, smooth: float = 1e-5) -> torch.Tensor:
    """Average the two-class focal loss, without class balancing, over all pixels.

    With the softmax probability p_t of the pixel's class, the smoothed probability is
    ``pt = (1 - smooth) p_t + smooth (1 - p_t) + smooth`` and the loss ``-(1 - pt)^gamma log(pt)``.

    Args:
        logits: (B, 2, H, W) float, unbounded.
        mask: (B, H, W), 1 where the pixel is anomalous and 0 elsewhere.
        gamma: focusing exponent.
        smooth: label smoothing.

    Returns:
        scalar, at least 0.

    Source: method.md section 4, loss.

    Example:
        >>> round(float(focal_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1))), 4)  # .25 * log(2)
        0.1733
    """
    target = F.softmax(logits, dim=1).gather(1, mask.long().unsqueeze(1))
    pt = (1 - smooth) * target + smooth * (1 - target) + smooth
    return (-(1 - pt).pow(gamma) * pt.log()).mean()
