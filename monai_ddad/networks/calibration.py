"""Scores and maps compared with those of known normals that no network has seen."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = [
    "LEVELS",
    "TIE",
    "Calibration",
    "NormalScores",
    "flagged",
    "groups_to_flag",
    "map_percentiles",
    "p_values",
    "percentiles",
    "smallest_alpha",
]

TIE = 1e-5  # runtimes and batch sizes round differently
LEVELS = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 100.0)  # percent of normal pixels


def p_values(scores: torch.Tensor, calibration: torch.Tensor, weights: torch.Tensor, tie: float = TIE) -> torch.Tensor:
    """Compute split conformal p-values: how often a new normal image would score at least as high.

    Calibration images of one group (a patient, a volume) are not independent, so each group counts as one: an image
    weighs 1 / (images of its group), and with G groups ``p = (1 + weight of the calibration scores >= s) / (G + 1)``,
    ties counted as at least as high. Flagging ``p <= alpha`` flags an image of a new normal group with a probability
    of at most alpha if that group is exchangeable with those of the calibration, which no network may have been
    trained on.

    Args:
        scores: (..., M) float, higher is more abnormal.
        calibration: (M, n) scores of the calibration images.
        weights: (M, n) float in (0, 1] of the calibration images; 1 where each is a group of its own.
        tie: difference of two scores that count as equal, relative to the score or, if larger, to an average one.

    Returns:
        (..., M) float32 in [1 / (G + 1), 1]; all 1 where n is 0.

    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, section 2.2; Bates et al., Testing
    for outliers with conformal p-values, Annals of Statistics 51, 2023, section 2; of groups Lee, Barber, Willett,
    Distribution-free inference with hierarchical data, 2023, section 3.

    Example:
        >>> p_values(torch.tensor([[0.5], [2.0], [9.0]]), torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)).T
        tensor([[1.0000, 0.7500, 0.2500]])
        >>> p_values(torch.tensor([[2.5]]), torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 0.5]]))
        tensor([[0.5000]])
    """
    lowest = scores - tie * _scale(scores, calibration)
    higher = ((calibration >= lowest.unsqueeze(-1)) * weights).sum(dim=-1)
    return ((higher + 1) / (weights.sum(dim=-1) + 1)).float()


def _scale(scores: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:
    """Return how large (..., M) scores are, of small ones how large those of the (M, n) calibration are on average."""
    usual = calibration.abs().sum(dim=-1) / max(1, calibration.shape[-1])
    return torch.maximum(scores.abs(), usual)


def percentiles(
    scores: torch.Tensor, calibration: torch.Tensor, weights: torch.Tensor, tie: float = TIE
) -> torch.Tensor:
    """Compute the share of the calibration that scores lower, ties counting half and each group as one.

    Args:
        scores: (..., M) float.
        calibration, weights: as in :func:`p_values`.
        tie: difference of two scores that count as equal, relative to the score or, if larger, to an average one.

    Returns:
        (..., M) float32 in [0, 100]; all 50 where n is 0.

    Example:
        >>> percentiles(torch.tensor([[0.5], [2.0], [9.0]]), torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)).T
        tensor([[  0.,  50., 100.]])
    """
    slack = tie * _scale(scores, calibration)
    lower = ((calibration < (scores - slack).unsqueeze(-1)) * weights).sum(dim=-1)
    higher = ((calibration > (scores + slack).unsqueeze(-1)) * weights).sum(dim=-1)
    total = weights.sum(dim=-1)
    return (50 * (1 + (lower - higher) / total.clamp(min=1e-12))).float()


def flagged(p_values: np.ndarray, alpha: float, tie: float = TIE) -> np.ndarray:
    """Tell which images are flagged: those whose p-value is at most alpha, whatever the rounding.

    Args:
        p_values: float of any shape in [0, 1].
        alpha: the promised rate of false positives, in [0, 1].
        tie: relative difference that counts as equal.

    Returns:
        bool of that shape.

    Raises:
        ValueError: ``alpha`` is NaN or outside [0, 1].

    Example:
        >>> flagged(np.array([0.01, 0.05, 0.3], dtype=np.float32), alpha=0.05).tolist()
        [True, True, False]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be a rate in [0, 1], got {alpha}.")
    return np.asarray(p_values) <= alpha * (1 + tie)


def smallest_alpha(groups: int) -> float:
    """Return the smallest false-positive rate at which calibration images of that many groups can flag anything.

    Example:
        >>> smallest_alpha(19)
        0.05
    """
    return 1 / (groups + 1)


def groups_to_flag(alpha: float, tie: float = TIE) -> int:
    """Return how many groups of calibration images it takes to flag anything at a false-positive rate; 0 at 0.

    Example:
        >>> groups_to_flag(0.05), groups_to_flag(0.01), groups_to_flag(0.3)
        (19, 99, 3)
    """
    return math.ceil(1 / (alpha * (1 + tie))) - 1 if alpha > 0 else 0


def map_percentiles(maps: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Express values of one anomaly map as percentiles among the pixels of normal images.

    Args:
        maps: float of any shape.
        quantiles: (Q,) values of that map at :data:`LEVELS`, rising.

    Returns:
        float of that shape in [0, 100], linear between the levels.

    Example:
        >>> map_percentiles(np.array([0.0, 0.5, 2.0]), np.linspace(0, 1, len(LEVELS))).tolist()
        [0.0, 98.0, 100.0]
    """
    return np.interp(maps, quantiles, LEVELS)


class NormalScores(nn.Module):
    """Scores of normal images or volumes that no network has seen, as buffers.

    Args:
        channels: number of scores (M).
        size: images or volumes (n); 0 where none were set aside: p-values are then 1.

    Attributes:
        scores: (M, n), rising along n.
        weights: (M, n) of the scores at the same place, 1 / (members of the group).

    Example:
        >>> normals = NormalScores(2)
        >>> normals.fit(torch.tensor([[3.0, 0.1], [1.0, 0.2], [2.0, 0.3]]), groups=[0, 1, 1])
        >>> normals.scores[0].tolist(), normals.weights[0].tolist(), normals.groups
        ([1.0, 2.0, 3.0], [0.5, 0.5, 1.0], 2)
    """

    scores: torch.Tensor
    weights: torch.Tensor

    def __init__(self, channels: int, size: int = 0) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(channels, size))
        self.register_buffer("weights", torch.ones(channels, size))

    def __len__(self) -> int:
        return self.scores.shape[1]

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Take the number of images from what is loaded, since a retrained model may have another one."""
        for name in ("scores", "weights"):
            value = state_dict.get(prefix + name)
            if value is not None and value.ndim == 2 and len(value) == len(self.scores):
                setattr(self, name, self.scores.new_empty(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    @torch.jit.unused
    def groups(self) -> int:
        """How many groups (G) the images or volumes are of."""
        return round(float(self.weights[0].sum()))

    @torch.jit.unused
    def fit(self, scores: torch.Tensor, groups: Sequence[int]) -> None:
        """Keep scores; their number becomes that of the buffers.

        Args:
            scores: (n, M).
            groups: (n,) number of the group that each is of.
        """
        members = Counter(groups)
        weights = torch.tensor([1 / members[group] for group in groups])
        self.scores, order = scores.T.contiguous().sort(dim=1)
        self.weights = weights.to(scores)[order]

    def p_values(self, scores: torch.Tensor) -> torch.Tensor:
        """Compute p-values of (..., M) scores; see :func:`p_values`."""
        return p_values(scores, self.scores, self.weights)

    def percentiles(self, scores: torch.Tensor) -> torch.Tensor:
        """Compute percentiles of (..., M) scores; see :func:`percentiles`."""
        return percentiles(scores, self.scores, self.weights)


class Calibration(nn.Module):
    """Scores and maps of known normals as buffers, so that every form of the model carries them.

    Args:
        scores: number of scores (S).
        maps: number of maps (M).
        images: calibration images.
        volumes: calibration volumes among whose slices the images are; 0 for pictures.

    Attributes:
        alpha: () false-positive rate at which an image is flagged.
        images: scores of the calibration images.
        volumes: scores of the calibration volumes, each the mean over its slices.
        map_quantiles: (M, Q) values of each map that the share :data:`LEVELS` of the normal pixels stays below; all 0
            where nothing is fitted.
    """

    alpha: torch.Tensor
    map_quantiles: torch.Tensor

    def __init__(self, scores: int, maps: int, images: int = 0, volumes: int = 0) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(0.05))
        self.images = NormalScores(scores, images)
        self.volumes = NormalScores(scores, volumes)
        self.register_buffer("map_quantiles", torch.zeros(maps, len(LEVELS)))

    @property
    @torch.jit.unused
    def rate(self) -> float:
        """Alpha as it was set, before it became a float32."""
        return round(float(self.alpha), 6)

    @torch.jit.unused
    def fit_scores(self, scores: torch.Tensor, groups: Sequence[int], volumes: Sequence[int | None]) -> None:
        """Keep the scores of the calibration images, and of the volumes that they are slices of.

        Args:
            scores: (n, S).
            groups: (n,) number of the group, such as a patient, that each image is of.
            volumes: (n,) number of the volume that each image is a slice of; None for a picture.
        """
        self.images.fit(scores, groups)
        rows: dict[int, list[int]] = {}
        for row, volume in enumerate(volumes):
            if volume is not None:
                rows.setdefault(volume, []).append(row)
        means = [scores[members].mean(dim=0) for members in rows.values()]
        joined = torch.stack(means) if means else scores.new_zeros(0, scores.shape[1])
        self.volumes.fit(joined, [groups[members[0]] for members in rows.values()])

    @torch.jit.unused
    def map_percentiles(self, values: np.ndarray, channel: int) -> np.ndarray:
        """Express values of one map as percentiles among normal pixels; where nothing is fitted, among themselves."""
        quantiles = self.map_quantiles[channel].cpu().numpy()
        return map_percentiles(values, quantiles if quantiles.any() else np.quantile(values, np.array(LEVELS) / 100))

    @torch.jit.unused
    def fit_maps(self, maps: torch.Tensor, field: torch.Tensor | None = None) -> None:
        """Keep the quantiles of the (N, M, H, W) maps of normal images, where the (N, 1, H, W) field is not 0."""
        pixels = maps.transpose(0, 1).flatten(1)
        if field is not None:
            pixels = pixels[:, field.flatten() > 0]
        quantiles = np.quantile(pixels.numpy(), np.array(LEVELS) / 100, axis=1).T
        self.map_quantiles = torch.from_numpy(quantiles).float().contiguous()
