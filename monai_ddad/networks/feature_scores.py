"""Scores of images from the features of their cells."""

from collections.abc import Sequence

import torch
from torch import nn

from monai_ddad.networks.gaussian import DualGaussian, Gaussian, Moments
from monai_ddad.networks.plus import lacking

__all__ = ["FEATURE_SCORES", "FeatureScores"]

FEATURE_SCORES = (
    "log_ratio",
    "log_ratio_top",
    "pu_cells",
    "pu_cells_top",
    "pu_pooled",
    "neighbours",
    "ddad_plus",
)
TOP = 0.05  # share of the cells that are highest
NEIGHBOURS = 5
BANK = 1000  # known normals that neighbours are looked for among, at most
PENALTY = 1e-3  # C of the logistic regression
FAR = 1e4  # where no normal is
FLOOR = 0.25  # least weight of what the pool teaches
SURE = 2  # standard errors that are taken off the excess of the pool


class FeatureScores(nn.Module):
    """Scores of images from the features of a :class:`~monai_ddad.networks.FeatureNet`.

    By name, in the order of :data:`FEATURE_SCORES`; q is the squared distance of Mahalanobis of a cell:

    - ``log_ratio``: log mean q of the NDM - log mean q of the UDM; ``log_ratio_top``: the mean of the highest 5 % of
      log q of the NDM - log q of the UDM over the cells;
    - ``pu_cells``, ``pu_cells_top``: Fisher's discriminant of the cells of known normals against those of the pool, its
      mean and the mean of its highest 5 %;
    - ``pu_pooled``: balanced logistic regression of known normals against the pool, on the pooled features;
    - ``neighbours``: one-class, the log of the mean distance to the 5 nearest known normals in the last stride's means;
    - ``ddad_plus``: ``neighbours`` + (.25 + 1.75 w) (the two ratios, the two of cells, twice ``pu_pooled``) / 6, each
      in standard deviations from its mean over known normals that were left out of what scores them. The weight w, from
      0 to 1, is by how many of these deviations the pool exceeds the known normals in the sum of the latter, less two
      standard errors of this difference.

    Args:
        size: numbers of a cell (F).
        cells: of an image (G).
        channels: of the encoder's three strides.

    Source: positive-unlabelled scores after Elkan, Noto, KDD 2008; neighbours after Bergman, Cohen, Hoshen, Deep
    nearest neighbor anomaly detection, 2020; not part of the DDAD paper.
    """

    means: torch.Tensor
    deviations: torch.Tensor
    weight: torch.Tensor
    centre: torch.Tensor
    direction: torch.Tensor
    pooled_mean: torch.Tensor
    pooled_scale: torch.Tensor
    slope: torch.Tensor
    bank: torch.Tensor

    def __init__(self, size: int, cells: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.names = FEATURE_SCORES
        self.of_pool = FEATURE_SCORES[:5]
        self.size = size
        self.number = cells
        self.last = channels[2]
        pooled = 2 * (channels[1] + channels[2])
        self.floor = FLOOR
        self.nearest = NEIGHBOURS
        self.top = max(1, round(TOP * cells))
        self.dual = DualGaussian(size)
        for name, length in (("centre", size), ("direction", size), ("pooled_mean", pooled), ("slope", pooled)):
            self.register_buffer(name, torch.zeros(length))
        self.register_buffer("pooled_scale", torch.ones(pooled))
        self.register_buffer("bank", torch.zeros(BANK, self.last))
        self.register_buffer("means", torch.zeros(len(FEATURE_SCORES) - 1))
        self.register_buffer("deviations", torch.ones(len(FEATURE_SCORES) - 1))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Score images: (B, G * F + P) features -> (B, 7), higher is more abnormal."""
        places = self.number * self.size
        parts = self.parts(features[:, :places].unflatten(1, [self.number, self.size]), features[:, places:])
        return torch.cat([parts, self.plus(parts)[:, None]], dim=1)

    def plus(self, parts: torch.Tensor) -> torch.Tensor:
        """Compute ``ddad_plus`` from the other scores: (B, 6) -> (B,)."""
        units = (parts - self.means) / self.deviations
        return units[:, 5] + (self.floor + (2 - self.floor) * self.weight) * self._learnt(units)

    def _learnt(self, units: torch.Tensor) -> torch.Tensor:
        """Return the mean of what the pool has taught: (B, 6) -> (B,)."""
        return (units[:, :5].sum(dim=1) + units[:, 4]) / 6

    def parts(self, cells: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Compute all scores but ``ddad_plus``, of (B, G, F) cells and (B, P) pooled features: (B, 6)."""
        pooled = (pooled - self.pooled_mean) / self.pooled_scale
        normal, unknown = self.dual(cells)
        normal, unknown = normal + 1e-6, unknown + 1e-6
        ratio = normal.mean(dim=1).log() - unknown.mean(dim=1).log()
        ratios = normal.log() - unknown.log()
        found = (cells - self.centre) @ self.direction
        places = pooled.shape[1] - 2 * self.last
        last = pooled[:, places : places + self.last]
        neighbours = (self._distances(last).mean(dim=1) + 1e-6).log()
        top, found_top = self._highest(ratios), self._highest(found)
        return torch.stack([ratio, top, found.mean(dim=1), found_top, pooled @ self.slope, neighbours], dim=1)

    def _distances(self, last: torch.Tensor) -> torch.Tensor:
        """Return the distances of (B, F) vectors to the nearest of the bank: (B, 5)."""
        squares = self.bank.square().sum(dim=1) - 2 * last @ self.bank.T  # but for what is the same for all
        nearest = self.bank[squares.topk(self.nearest, dim=1, largest=False).indices]
        return (nearest - last.unsqueeze(1)).square().sum(dim=2).sqrt()  # without the rounding of the products

    def _highest(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of the highest of (B, G) cells."""
        return values.topk(self.top, dim=1).values.mean(dim=1)

    @staticmethod
    def unlearnable(known: int, pool: int) -> dict[str, str]:
        """Tell which scores cannot be learnt from so few groups, and why; see :func:`~.plus.unlearnable`."""
        return lacking(known, pool, FEATURE_SCORES, FEATURE_SCORES[:5])

    @torch.jit.unused
    @torch.no_grad()
    def learn(self, known: Moments, pool: Moments, normals: torch.Tensor, others: torch.Tensor) -> None:
        """Learn all parts but their units.

        Args:
            known: moments of the cells of the known normals.
            pool: of the unlabelled images; none leaves what they teach as it is.
            normals: (N, P) pooled features of the known normals.
            others: (N', P) of the unlabelled images.
        """
        self.dual.fit(known, pool)
        self.centre.copy_(known.mean)
        if pool.count:
            within = Gaussian(self.size)
            within.fit(_centred(known, pool), known.scale)
            whitening = within.whitening.double()
            self.direction.copy_(whitening @ (whitening.T @ (pool.mean - known.mean)))
        deviation = normals.std(dim=0)
        self.pooled_mean.copy_(normals.mean(dim=0))
        self.pooled_scale.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        units = torch.cat([normals, others]).sub(self.pooled_mean).div(self.pooled_scale)
        if len(others):
            labels = torch.cat([torch.zeros(len(normals)), torch.ones(len(others))])
            self.slope.copy_(balanced_logistic(units, labels, PENALTY, self.slope))
        places = units.shape[1] - 2 * self.last
        bank = units[: len(normals), places : places + self.last]
        spread = torch.linspace(0, len(bank) - 1, min(BANK, len(bank))).round().long()
        self.bank.fill_(FAR)
        self.bank[: len(spread)] = bank[spread]

    @torch.jit.unused
    @torch.no_grad()
    def settle(self, known: torch.Tensor, pool: torch.Tensor, groups: Sequence[int]) -> None:
        """Take the units of ``ddad_plus`` and the weight of what the pool has taught.

        Args:
            known: (N, 6) :meth:`parts` of known normals, by what was learnt without them.
            pool: (N', 6) of unlabelled images, likewise; none has no weight.
            groups: how many groups, such as patients, either are of.
        """
        self.means.copy_(known.mean(dim=0))
        self.deviations.copy_(known.std(dim=0).clamp(min=1e-6))
        learnt, pooled = (self._learnt((values - self.means) / self.deviations) for values in (known, pool))
        self.weight.zero_()
        if len(pool):  # images of one group may be alike, so that they count as one
            error = (learnt.var() / groups[0] + pooled.var() / groups[1]).sqrt()
            excess = (pooled.mean() - learnt.mean() - SURE * error) / learnt.std().clamp(min=1e-6)
            self.weight.copy_(excess.clamp(0, 1))


def _centred(known: Moments, pool: Moments) -> Moments:
    """Return moments about 0 whose covariance is the mean of the two, as Fisher's discriminant takes it."""
    covariance = (known.covariance + pool.covariance) / 2
    return Moments(1, torch.zeros_like(known.total), covariance)


def balanced_logistic(
    features: torch.Tensor, labels: torch.Tensor, penalty: float, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Fit a logistic regression whose two classes weigh the same.

    Args:
        features: (N, F), in units of about 1.
        labels: (N,) 0 or 1, both there.
        penalty: inverse strength of the squared penalty, C of scikit-learn's ``LogisticRegression``.
        start: (F,) slope to begin with, which does not change the result; None begins with 0.

    Returns:
        (F,) float64 slope; the intercept, which changes no order, is left out.

    Example:
        >>> balanced_logistic(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 1.0]), 1.0).shape
        torch.Size([1])
    """
    values, targets = features.double(), labels.double()
    ones = torch.ones(len(values), 1, dtype=torch.float64)
    joined = torch.cat([values, ones], dim=1)
    number = torch.stack([(targets == kind).sum() for kind in (0, 1)]).clamp(min=1)
    weights = len(values) / (2 * number[targets.long()])
    strength = torch.full((joined.shape[1],), 1 / penalty, dtype=torch.float64)
    strength[-1] = 0
    slope = torch.zeros(joined.shape[1], dtype=torch.float64)
    if start is not None:
        slope[:-1] = start
    for _ in range(50):  # Newton's method, which has come to rest long before
        shown = (joined @ slope).sigmoid()
        gradient = joined.T @ (weights * (shown - targets)) + strength * slope
        curvature = joined.T @ (joined * (weights * shown * (1 - shown))[:, None]) + torch.diag(strength)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(len(curvature), dtype=torch.float64), gradient)
        slope = slope - step
        if step.abs().max() < 1e-6:  # what is left is about its square
            break
    return slope[:-1]
