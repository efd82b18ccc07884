"""Scores and maps compared with those of known normals that no network has seen."""

import numpy as np
import torch
from torch import nn

__all__ = ["LEVELS", "Calibration", "map_percentiles", "p_values", "percentiles", "smallest_alpha"]

TIE = 1e-5  # runtimes and batch sizes round differently
LEVELS = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 100.0)  # percent of normal pixels


def p_values(scores: torch.Tensor, calibration: torch.Tensor, tie: float = TIE) -> torch.Tensor:
    """Compute split conformal p-values: how often a new normal image would score at least as high.

    ``p = (1 + number of calibration scores >= s) / (n + 1)``, ties counted as at least as high. Flagging ``p <= alpha``
    flags a normal image with a probability of at most alpha if it is exchangeable with the calibration images, which
    no network may have been trained on.

    Args:
        scores: (..., M) float, higher is more abnormal.
        calibration: (M, n) scores of the calibration images.
        tie: relative difference of two scores that count as equal.

    Returns:
        (..., M) float32 in [1 / (n + 1), 1]; all 1 where n is 0.

    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, section 2.2; Bates et al., Testing
    for outliers with conformal p-values, Annals of Statistics 51, 2023, section 2.

    Example:
        >>> p_values(torch.tensor([[0.5], [2.0], [9.0]]), torch.tensor([[1.0, 2.0, 3.0]])).T
        tensor([[1.0000, 0.7500, 0.2500]])
    """
    lowest = scores - tie * scores.abs()
    higher = (calibration >= lowest.unsqueeze(-1)).sum(dim=-1)
    return (higher + 1).float() / (calibration.shape[1] + 1)


def percentiles(scores: torch.Tensor, calibration: torch.Tensor, tie: float = TIE) -> torch.Tensor:
    """Compute the share of calibration images that score lower, ties counting half.

    Args:
        scores: (..., M) float.
        calibration: (M, n) scores of the calibration images.
        tie: relative difference of two scores that count as equal.

    Returns:
        (..., M) float32 in [0, 100]; all 50 where n is 0.

    Example:
        >>> percentiles(torch.tensor([[0.5], [2.0], [9.0]]), torch.tensor([[1.0, 2.0, 3.0]])).T
        tensor([[  0.,  50., 100.]])
    """
    if calibration.shape[1] == 0:
        return torch.full_like(scores, 50.0)
    slack = tie * scores.abs()
    lower = (calibration < (scores - slack).unsqueeze(-1)).sum(dim=-1)
    higher = (calibration > (scores + slack).unsqueeze(-1)).sum(dim=-1)
    return 50 * (lower - higher + calibration.shape[1]).float() / calibration.shape[1]


def smallest_alpha(normals: int) -> float:
    """Return the smallest false-positive rate at which that many calibration images can flag anything.

    Example:
        >>> smallest_alpha(19)
        0.05
    """
    return 1 / (normals + 1)


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


class Calibration(nn.Module):
    """Scores and maps of known normals as buffers, so that every form of the model carries them.

    Args:
        channels: number of scores (M).
        images: calibration images (n); 0 where none were set aside: p-values are then 1.
        volumes: calibration volumes among whose slices the images are; 0 for pictures.

    Attributes:
        alpha: () false-positive rate at which an image is flagged.
        scores: (M, n) scores of the calibration images, rising along n.
        volume_scores: (M, v) mean scores of the calibration volumes, rising along v.
        map_quantiles: (M, Q) values of each map that the share :data:`LEVELS` of the normal pixels stays below; all 0
            where nothing is fitted.

    Example:
        >>> calibration = Calibration(2, images=3)
        >>> calibration.fit_scores(torch.tensor([[3.0, 0.1], [1.0, 0.2], [2.0, 0.3]]), [None, None, None])
        >>> calibration.scores
        tensor([[1.0000, 2.0000, 3.0000],
                [0.1000, 0.2000, 0.3000]])
    """

    alpha: torch.Tensor
    scores: torch.Tensor
    volume_scores: torch.Tensor
    map_quantiles: torch.Tensor

    def __init__(self, channels: int, images: int = 0, volumes: int = 0) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(0.05))
        self.register_buffer("scores", torch.zeros(channels, images))
        self.register_buffer("volume_scores", torch.zeros(channels, volumes))
        self.register_buffer("map_quantiles", torch.zeros(channels, len(LEVELS)))

    def fit_scores(self, scores: torch.Tensor, volumes: list[int | None]) -> None:
        """Keep the scores of the calibration images; their number becomes that of the buffers.

        Args:
            scores: (n, M).
            volumes: number of the volume that each image is a slice of; None for a picture.
        """
        self.scores = scores.T.sort(dim=1).values.contiguous()
        means = [
            scores[[i for i, other in enumerate(volumes) if other == volume]].mean(dim=0)
            for volume in dict.fromkeys(volumes)
            if volume is not None
        ]
        joined = torch.stack(means, dim=1) if means else scores.new_zeros(scores.shape[1], 0)
        self.volume_scores = joined.sort(dim=1).values.contiguous()

    def fit_maps(self, maps: torch.Tensor, field: torch.Tensor | None = None) -> None:
        """Keep the quantiles of the (N, M, H, W) maps of normal images, where the (N, 1, H, W) field is not 0."""
        pixels = maps.transpose(0, 1).flatten(1)
        if field is not None:
            pixels = pixels[:, field.flatten() > 0]
        quantiles = np.quantile(pixels.numpy(), np.array(LEVELS) / 100, axis=1).T
        self.map_quantiles = torch.from_numpy(quantiles).float().contiguous()
