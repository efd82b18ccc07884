"""What follows from image scores once they are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from monai_ddad.networks import DDADModel
from monai_ddad.networks.calibration import TIE, NormalScores, flagged, groups_to_flag, smallest_alpha
from monai_ddad.networks.protocol import MIN_IMAGES

__all__ = [
    "Decisions",
    "cautions",
    "decide",
    "doubt_refinement",
    "doubt_score",
]

DOUBT = 0.001  # chance of a warning where the two have nothing to do with each other


@dataclass(frozen=True)
class Decisions:
    """Decisions on N images or volumes.

    Attributes:
        score: name of the score that decides.
        alpha: false-positive rate promised on normal ones.
        normals: calibration images or volumes.
        groups: how many groups, such as patients, those are of.
        p_values: (N,) by name of the score.
        percentile: (N,) share of the calibration that scores lower, in percent.
        flagged: (N,) bool, whether the p-value of the deciding score is at most alpha.
    """

    score: str
    alpha: float
    normals: int
    groups: int
    p_values: dict[str, np.ndarray]
    percentile: np.ndarray
    flagged: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Return how it was decided, for a JSON file."""
        return {
            "alpha": self.alpha,
            "calibration_normals": self.normals,
            "calibration_groups": self.groups,
            "smallest_alpha": smallest_alpha(self.groups),
            "flagged": int(self.flagged.sum()),
        }


def decide(
    scores: np.ndarray, names: Sequence[str], normals: NormalScores, score: str, alpha: float = 0.05
) -> Decisions:
    """Compare scores with those of the calibration images.

    Args:
        scores: (N, S) float.
        names: of the S scores, in the order of ``normals``.
        normals: scores of the calibration images or volumes.
        score: name of the score that decides.
        alpha: an image is flagged when its p-value is at most this, in [0, 1].

    Raises:
        ValueError: there is no such score, or ``alpha`` is outside [0, 1].

    Example:
        >>> normals = NormalScores(1)
        >>> normals.fit(torch.arange(4.0)[:, None], groups=range(4))
        >>> found = decide(np.array([[0.5], [9.0]]), ["rec"], normals, "rec", alpha=0.2)
        >>> found.p_values["rec"].tolist(), found.percentile.tolist(), found.flagged.tolist()
        ([0.800000011920929, 0.20000000298023224], [25.0, 100.0], [False, True])
    """
    if score not in names:
        raise ValueError(f"score must be one of {', '.join(names)}, got {score!r}.")
    values = torch.from_numpy(scores).to(normals.scores)
    found = normals.p_values(values).cpu().numpy().T
    ranks = normals.percentiles(values).cpu().numpy().T
    chosen = list(names).index(score)
    return Decisions(
        score,
        alpha,
        len(normals),
        normals.groups,
        dict(zip(names, found)),
        ranks[chosen],
        flagged(found[chosen], alpha),
    )


def cautions(network: DDADModel, normals: NormalScores, alpha: float) -> list[str]:
    """Say what a reader of one decision has to know of the model, in sentences.

    Args:
        network: the model.
        normals: its calibration images or volumes.
        alpha: false-positive rate at which an image is flagged.

    Returns:
        which scores could not be learnt and what decides instead, whether the calibration is too small to flag
        anything, and whether nothing is known of what is out of protocol; empty if there is nothing to say.

    Example:
        >>> from monai_ddad.networks import build_model
        >>> network, few = build_model(image_size=32, width=2, hidden_size=8), NormalScores(4)
        >>> few.fit(torch.rand(9, 4), groups=range(9))
        >>> cautions(network, few, alpha=0.05)[0]
        'Nothing can be flagged at alpha 0.05: the calibration has 9 groups of normals, and it takes 19.'
    """
    said = list(network.notes)
    needed = groups_to_flag(alpha)
    if 0 < normals.groups < needed:
        said.append(
            f"Nothing can be flagged at alpha {alpha:g}: the calibration has {normals.groups} groups of normals, and "
            f"it takes {needed}."
        )
    if not network.protocol.fitted:
        said.append(f"What is out of protocol is not known: it takes {MIN_IMAGES} images of the training to learn.")
    return said


def doubt_score(name: str, scores: np.ndarray) -> str:
    """Warn of a score that does not tell images apart.

    Args:
        name: of the score that decides.
        scores: (N,) its values.

    Returns:
        a warning where several images all have the same, else nothing.

    Example:
        >>> doubt_score("rec", np.array([0.5, 0.5])), doubt_score("rec", np.array([0.5, 0.6]))
        ('rec is the same for all 2 images: it tells nothing of them.', '')
    """
    if len(scores) < 2 or np.ptp(scores) > TIE * np.abs(scores).max():
        return ""
    return f"{name} is the same for all {len(scores)} images: it tells nothing of them."


def doubt_refinement(refined: np.ndarray, inter: np.ndarray, decides: bool) -> str:
    """Tell whether the refined score orders images against the discrepancy that it refines; no label is needed.

    ASR-Net learns where in an image an anomaly is. Nothing in its training fixes the level of a whole image, of which
    the score is the mean, and it has been seen to fall where inter rises.

    Args:
        refined: (N,) scores by ASR-Net.
        inter: (N,) scores by inter.
        decides: the refined score is the one that decides.

    Returns:
        a warning where the rank correlation is negative beyond chance (one-sided p < :data:`DOUBT`), else nothing.

    Example:
        >>> rising = np.linspace(0.1, 0.2, 50)
        >>> doubt_refinement(rising, rising, decides=True), doubt_refinement(rising, -rising, decides=True)[:41]
        ('', 'The refined score orders the images again')
    """
    if any(np.ptp(scores) <= TIE * np.abs(scores).max() for scores in (refined, inter)):
        return ""  # one of them orders nothing
    found = spearmanr(refined, inter, alternative="less")
    if not found.pvalue < DOUBT:
        return ""
    return (
        f"The refined score orders the images against inter (rank correlation {found.statistic:.2f}), so one of the "
        "two is wrong, most likely the refined one." + (" Decide by inter: --score inter." if decides else "")
    )
