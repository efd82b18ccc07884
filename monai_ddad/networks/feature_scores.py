"""Scores of images from the features of their cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from monai_ddad.networks.gaussian import Gaussian, Moments
from monai_ddad.networks.plus import FOLDS, MIN_GROUPS, folds, lacking

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
FLOOR = 0.5  # least weight of what the pool teaches


class FeatureScores(nn.Module):
    """Scores of images from the features of a :class:`~monai_ddad.networks.FeatureNet`.

    By name, in the order of :data:`FEATURE_SCORES`; q is the squared distance of Mahalanobis of a cell:

    - ``log_ratio``: log mean q of the NDM - log mean q of the UDM; ``log_ratio_top``: the mean of the highest 5 % of
      log q of the NDM - log q of the UDM over the cells;
    - ``pu_cells``, ``pu_cells_top``: Fisher's discriminant of the cells of known normals against those of the pool, its
      mean and the mean of its highest 5 %;
    - ``pu_pooled``: balanced logistic regression of known normals against the pool, on the pooled features;
    - ``neighbours``: one-class, the log of the mean distance to the 5 nearest known normals in the last stride's means;
    - ``ddad_plus``: ``neighbours`` + (.5 + 1.5 w) (the two ratios, the two of cells, twice ``pu_pooled``) / 6, each in
      standard deviations from its mean over known normals that were left out of what scores them. The weight w, from 0
      to 1, is by how many of these deviations the pool exceeds the known normals in the sum of the latter.

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
        self.arguments = (size, cells, tuple(channels))
        self.size = size
        self.number = cells
        self.last = channels[2]
        pooled = 2 * (channels[1] + channels[2])
        self.top = max(1, round(TOP * cells))
        self.ndm = Gaussian(size)
        self.udm = Gaussian(size)
        for name, length in (("centre", size), ("direction", size), ("pooled_mean", pooled), ("slope", pooled)):
            self.register_buffer(name, torch.zeros(length))
        self.register_buffer("pooled_scale", torch.ones(pooled))
        self.register_buffer("bank", torch.zeros(BANK, self.last))
        self.register_buffer("means", torch.zeros(len(FEATURE_SCORES) - 1))
        self.register_buffer("deviations", torch.ones(len(FEATURE_SCORES) - 1))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Score images: (B, G * F + P) features -> (B, 7), higher is more abnormal."""
        parts = self.parts(features)
        units = (parts - self.means) / self.deviations
        plus = units[:, 5] + (FLOOR + (2 - FLOOR) * self.weight) * self._learnt(units)
        return torch.cat([parts, plus[:, None]], dim=1)

    def _learnt(self, units: torch.Tensor) -> torch.Tensor:
        """Return the mean of what the pool has taught: (B, 6) -> (B,)."""
        return (units[:, :5].sum(dim=1) + units[:, 4]) / 6

    def parts(self, features: torch.Tensor) -> torch.Tensor:
        """Compute all scores but ``ddad_plus``: (B, G * F + P) -> (B, 6)."""
        cells = features[:, : self.number * self.size].unflatten(1, (self.number, self.size))
        pooled = (features[:, self.number * self.size :] - self.pooled_mean) / self.pooled_scale
        normal, unknown = self.ndm(cells) + 1e-6, self.udm(cells) + 1e-6
        ratio = normal.mean(dim=1).log() - unknown.mean(dim=1).log()
        ratios = normal.log() - unknown.log()
        found = (cells - self.centre) @ self.direction
        places = pooled.shape[1] - 2 * self.last
        last = pooled[:, places : places + self.last]
        squares = last.square().sum(dim=1, keepdim=True) + self.bank.square().sum(dim=1) - 2 * last @ self.bank.T
        nearest = squares.clamp(min=0).sqrt().topk(NEIGHBOURS, dim=1, largest=False).values
        top = [values.topk(self.top, dim=1).values.mean(dim=1) for values in (ratios, found)]
        neighbours = (nearest.mean(dim=1) + 1e-6).log()
        return torch.stack([ratio, top[0], found.mean(dim=1), top[1], pooled @ self.slope, neighbours], dim=1)

    @staticmethod
    def unlearnable(known: int, pool: int) -> dict[str, str]:
        """Tell which scores cannot be learnt from so few groups, and why; see :func:`~.plus.unlearnable`."""
        return lacking(known, pool, FEATURE_SCORES, FEATURE_SCORES[:5])

    @torch.jit.unused
    @torch.no_grad()
    def fit(
        self,
        known: torch.Tensor,
        pool: torch.Tensor,
        known_groups: Sequence[int] | None = None,
        pool_groups: Sequence[int] | None = None,
    ) -> None:
        """Learn from the features of the images of the training.

        Args:
            known: (N, G * F + P) features of the known normals.
            pool: (N', G * F + P) of the unlabelled images.
            known_groups, pool_groups: see :meth:`monai_ddad.networks.PlusScores.fit`.
        """
        learner = FeatureScores(*self.arguments)  # on the CPU, and without what was learnt before
        learner._fit(known.cpu(), pool.cpu(), known_groups, pool_groups)
        self.load_state_dict(learner.state_dict())

    def _fit(
        self,
        known: torch.Tensor,
        pool: torch.Tensor,
        known_groups: Sequence[int] | None,
        pool_groups: Sequence[int] | None,
    ) -> None:
        fold, groups = folds(range(len(known)) if known_groups is None else known_groups)
        other, other_groups = folds(range(len(pool)) if pool_groups is None else pool_groups)
        if groups < MIN_GROUPS:
            return
        if other_groups < MIN_GROUPS:
            pool, other = pool[:0], other[:0]
        own = [self._moments(known[fold == number]) for number in range(FOLDS)]
        others = [self._moments(pool[other == number]) for number in range(FOLDS)]
        of_known, of_pool = sum(own[1:], own[0]), sum(others[1:], others[0])
        start = self.number * self.size
        parts, pools = [], []
        for number in range(FOLDS):
            kept, left = known[fold != number, start:], pool[other != number, start:]
            self._learn(of_known - own[number], of_pool - others[number], kept, left)
            parts.append(torch.cat([self.parts(chunk) for chunk in known[fold == number].split(64)]))
            pools.append(torch.cat([self.parts(chunk) for chunk in pool[other == number].split(64)]))
        self._learn(of_known, of_pool, known[:, start:], pool[:, start:])
        scored, exceeding = torch.cat(parts), torch.cat(pools)
        self.means.copy_(scored.mean(dim=0))
        self.deviations.copy_(scored.std(dim=0).clamp(min=1e-6))
        learnt, pooled = (self._learnt((values - self.means) / self.deviations) for values in (scored, exceeding))
        if len(pool):
            self.weight.copy_(((pooled.mean() - learnt.mean()) / learnt.std().clamp(min=1e-6)).clamp(0, 1))

    def _moments(self, features: torch.Tensor) -> Moments:
        """Return the moments of the cells of (N, G * F + P) features."""
        found = Moments.none(self.size)
        for chunk in features.split(64):
            found = found + Moments.of(chunk[:, : self.number * self.size].reshape(-1, self.size))
        return found

    def _learn(self, known: Moments, pool: Moments, normals: torch.Tensor, others: torch.Tensor) -> None:
        """Learn from the moments of the cells, and from (N, P) and (N', P) pooled features."""
        scale = (known.covariance.diagonal().clamp(min=0).sqrt() + 1e-6).float()
        self.ndm.fit(known, scale)
        self.udm.fit(known + pool, scale)
        self.centre.copy_(known.mean)
        if pool.count:
            within = Gaussian(self.size)
            within.fit(_centred(known, pool), scale)
            whitening = within.whitening.double()
            self.direction.copy_(whitening @ (whitening.T @ (pool.mean - known.mean)))
        deviation = normals.std(dim=0)
        self.pooled_mean.copy_(normals.mean(dim=0))
        self.pooled_scale.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        units = torch.cat([normals, others]).sub(self.pooled_mean).div(self.pooled_scale)
        if len(others):
            labels = torch.cat([torch.zeros(len(normals)), torch.ones(len(others))])
            self.slope.copy_(balanced_logistic(units, labels, PENALTY))
        places = units.shape[1] - 2 * self.last
        bank = units[: len(normals), places : places + self.last]
        spread = torch.linspace(0, len(bank) - 1, min(BANK, len(bank))).round().long()
        self.bank.fill_(FAR)
        self.bank[: len(spread)] = bank[spread]


def _centred(known: Moments, pool: Moments) -> Moments:
    """Return moments about 0 whose covariance is the mean of the two, as Fisher's discriminant takes it."""
    covariance = (known.covariance + pool.covariance) / 2
    return Moments(1, torch.zeros_like(known.total), covariance)


def balanced_logistic(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> torch.Tensor:
    """Fit a logistic regression whose two classes weigh the same.

    Args:
        features: (N, F), in units of about 1.
        labels: (N,) 0 or 1, both there.
        penalty: inverse strength of the squared penalty, C of scikit-learn's ``LogisticRegression``.

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
    for _ in range(50):  # Newton's method, which has come to rest long before
        shown = (joined @ slope).sigmoid()
        gradient = joined.T @ (weights * (shown - targets)) + strength * slope
        curvature = (joined * (weights * shown * (1 - shown))[:, None]).T @ joined + torch.diag(strength)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(len(curvature), dtype=torch.float64), gradient)
        slope = slope - step
        if step.abs().max() < 1e-10:
            break
    return slope[:-1]
