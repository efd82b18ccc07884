"""Two closed-form models of feature vectors: how far from a set of images, and towards which of two sets."""

import torch
from torch import nn

__all__ = ["Discriminant", "Reference", "whitening"]


def whitening(features: torch.Tensor, floor: float) -> torch.Tensor:
    """Compute the matrix that turns the covariance of features into the identity.

    The correlations are shrunk towards 0 as if F further images with uncorrelated features had been seen.

    Args:
        features: (N, F), N at least 2.
        floor: added to every feature's standard deviation, in quadrature, positive.

    Returns:
        (F, F) float64 on the CPU, to be multiplied from the right.

    Source: shrinkage after Ledoit, Wolf, Journal of Multivariate Analysis 88, 2004, with a fixed weight.

    Example:
        >>> whitening(torch.tensor([[0.0], [2.0], [4.0]]), floor=1e-6)
        tensor([[0.5000]], dtype=torch.float64)
    """
    values = features.double().cpu()
    number, size = values.shape
    covariance = torch.cov(values.T).view(size, size)
    deviation = (covariance.diagonal() + floor**2).sqrt()
    correlation = covariance / deviation.outer(deviation) * (number / (number + size))
    correlation.fill_diagonal_(1)
    factor = torch.linalg.cholesky(correlation)
    return torch.linalg.solve_triangular(factor, torch.diag(1 / deviation), upper=False).T


class Reference(nn.Module):
    """Mean and covariance of features of a set of images, and the distance to them.

    The distance is that of Mahalanobis, Proceedings of the National Institute of Sciences of India 2, 1936, divided by
    sqrt(F).

    Args:
        size: number of features (F).
        floor: see :func:`whitening`; it keeps a feature that hardly varies from counting much.

    Attributes:
        mean: (F,).
        whitening: (F, F), all 0 until fitted, which makes every distance 0.

    Example:
        >>> reference = Reference(1)
        >>> reference.fit(torch.tensor([[0.0], [2.0], [4.0]]))
        >>> reference(torch.tensor([[2.0], [6.0]]))
        tensor([0.0000, 1.9975])
    """

    mean: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, size: int, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.zeros(size, size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the root mean square of (..., F) whitened features: (...), about 1 for an ordinary image."""
        whitened = (features - self.mean).double() @ self.whitening.double()  # which autocast leaves alone
        return whitened.square().mean(dim=-1).sqrt().to(features.dtype)

    @torch.jit.export
    def by_elements(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the same of (B, F) features without a matrix product, which autocast would round: (B,)."""
        whitened = ((features - self.mean).unsqueeze(-1) * self.whitening).sum(dim=-2)
        return whitened.square().mean(dim=-1).sqrt()

    @torch.jit.unused
    def fit(self, features: torch.Tensor) -> None:
        """Take mean and covariance of (N, F) features, N at least 2."""
        self.mean.copy_(features.double().mean(dim=0))
        self.whitening.copy_(whitening(features, self.floor))


class Discriminant(nn.Module):
    """Fisher's linear discriminant between two sets of images.

    Args:
        size: number of features (F).

    Attributes:
        weight: (F,), all 0 until fitted, which makes every value 0.
        offset: ().

    Source: Fisher, Annals of Eugenics 7, 1936; of known against unlabelled items, which ranks as of known against
    other ones does: Elkan, Noto, KDD 2008.

    Example:
        >>> discriminant = Discriminant(1)
        >>> discriminant.fit(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[10.0], [12.0], [14.0]]))
        >>> discriminant(torch.tensor([[2.0], [8.0]]))
        tensor([0., 3.])
    """

    weight: torch.Tensor
    offset: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Project (..., F) features: (...), in standard deviations of the first set from its mean."""
        return (features * self.weight).sum(dim=-1) - self.offset

    @torch.jit.unused
    def fit(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Learn the direction from (N, F) features of one set to (N', F) ones of another, N and N' at least 2."""
        one, other = first.double().cpu(), second.double().cpu()
        step = other.mean(dim=0) - one.mean(dim=0)
        scale = torch.cat([one, other]).std(dim=0).mean().item()
        turn = whitening(torch.cat([one - one.mean(dim=0), other - other.mean(dim=0)]), floor=max(1e-3 * scale, 1e-12))
        weight = turn @ (turn.T @ step)
        projected = one @ weight
        weight = weight / projected.std().clamp(min=1e-12)
        self.weight.copy_(weight)
        self.offset.copy_((one @ weight).mean())
