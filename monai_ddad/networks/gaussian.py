"""Gaussians of feature vectors, from sums that can be added up, and how far a vector is from one."""

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["DualGaussian", "Gaussian", "Moments"]

SHRINKAGE = 0.01  # towards the mean variance


@dataclass
class Moments:
    """Sums of vectors and of their products, which are exact whatever the order and the parts they come in.

    Attributes:
        count: vectors.
        total: (F,) float64, their sum.
        products: (F, F) float64, the sum of their outer products.

    Example:
        >>> first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0]])
        >>> both = Moments.of(first) + Moments.of(second)
        >>> both.count, both.mean.tolist(), round(both.covariance.item(), 6)
        (3, [2.0], 2.666667)
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Return those of no vectors of ``size`` numbers."""
        return cls(0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64))

    @classmethod
    def of(cls, vectors: torch.Tensor) -> "Moments":
        """Return those of (N, F) vectors, which may lie on a GPU; sums are kept on the CPU."""
        values = vectors.double()
        return cls(len(values), values.sum(dim=0).cpu(), (values.T @ values).cpu())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.count - other.count, self.total - other.total, self.products - other.products)

    @property
    def mean(self) -> torch.Tensor:
        """(F,) float64."""
        return self.total / max(1, self.count)

    @property
    def covariance(self) -> torch.Tensor:
        """(F, F) float64, of the vectors themselves (divided by their number)."""
        return self.products / max(1, self.count) - self.mean.outer(self.mean)

    @property
    def scale(self) -> torch.Tensor:
        """(F,) float32, the deviations, above 0."""
        return (self.covariance.diagonal().clamp(min=0).sqrt() + 1e-6).float()


class Gaussian(nn.Module):
    """Mean and covariance of vectors, and the squared distance of Mahalanobis to them.

    Args:
        size: numbers of a vector (F).

    Attributes:
        mean: (F,) float32.
        whitening: (F, F) float32, turns the covariance into the identity; all 0 until fitted, which makes every
            distance 0.

    Example:
        >>> gaussian = Gaussian(1)
        >>> gaussian.fit(Moments.of(torch.tensor([[0.0], [2.0], [4.0]])), torch.ones(1))
        >>> gaussian(torch.tensor([[2.0], [6.0]]))
        tensor([0.0000, 6.0000])
    """

    mean: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.zeros(size, size))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Compute the squared distances of (..., F) vectors: (...), F on average for those that were fitted."""
        return ((vectors - self.mean) @ self.whitening).square().sum(dim=-1)

    @torch.jit.unused
    def fit(self, moments: Moments, scale: torch.Tensor, shrinkage: float = SHRINKAGE) -> None:
        """Take mean and covariance.

        Args:
            moments: of the vectors, at least one.
            scale: (F,) positive, on the CPU, the unit of each number; in these units the covariance is shrunk towards
                the identity times the mean variance.
            shrinkage: weight of that, in (0, 1]. It keeps the covariance of few vectors, or of constant ones, from
                being singular.

        Raises:
            ValueError: there are no vectors, or a sum is not finite.

        Source: shrinkage after Ledoit, Wolf, Journal of Multivariate Analysis 88, 2004, with a fixed weight.
        """
        if moments.count == 0:
            raise ValueError("there are no vectors to fit a Gaussian to.")
        covariance = moments.covariance / scale.double().outer(scale.double())
        if not covariance.isfinite().all():
            raise ValueError("the vectors hold values that are not finite.")
        variance = covariance.diagonal().mean().clamp(min=1e-6)
        identity = torch.eye(len(covariance), dtype=torch.float64)
        factor = torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * variance * identity)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.mean.copy_(moments.mean)
        self.whitening.copy_(inverse.T / scale.double()[:, None])


class DualGaussian(nn.Module):
    """Normative and unknown distribution of vectors, each a Gaussian.

    Args:
        size: numbers of a vector (F).

    Attributes:
        ndm: of what known normal images have; udm: of what they and the unlabelled images have.

    Source: the principle is that of MedIA 2023, section 3.2; Gaussians of features are not of the paper.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ndm = Gaussian(size)
        self.udm = Gaussian(size)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the squared distances of (..., F) vectors to both, over F: two of (...)."""
        size = vectors.shape[-1]
        return self.ndm(vectors) / size, self.udm(vectors) / size

    @torch.jit.unused
    @torch.no_grad()
    def fit(self, known: Moments, pool: Moments) -> None:
        """Take both, in units of the deviations of the known normals.

        Args:
            known: moments of the vectors of known normals, at least one.
            pool: of the unlabelled images.

        Raises:
            ValueError: see :meth:`Gaussian.fit`.
        """
        scale = known.scale
        self.ndm.fit(known, scale)
        self.udm.fit(known + pool, scale)
