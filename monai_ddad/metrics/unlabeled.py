"""How well a score orders images whose labels are not known."""

from __future__ import annotations

import numpy as np

from monai_ddad.metrics.ranking import auroc

__all__ = ["aucp"]


def aucp(normal: np.ndarray, unlabeled: np.ndarray) -> float:
    """Compute the AUROC between known normal and unlabelled images, as if all of the latter were abnormal (AUCp).

    With abnormal images as the share r of the unlabelled ones, and normal ones among them that score as the known
    normals do, its expectation is r AUROC + (1 - r) / 2. So whatever r is, AUCp rises and falls with AUROC, if no score
    that is compared has learned from one of the two sets more than from the other.

    Args:
        normal: (N,) float scores of known normal images, higher is more abnormal, N at least 1.
        unlabeled: (N',) float scores of unlabelled images, N' at least 1.

    Returns:
        in [0, 1].

    Raises:
        ValueError: one of the sets is empty, or a score is NaN.

    Source: AUCp, IEEE Transactions on Medical Imaging 2026, DOI 10.1109/TMI.2026.3684946.

    Example:
        >>> aucp(np.array([0.1, 0.2]), np.array([0.15, 0.9]))
        0.75
    """
    if not len(normal) or not len(unlabeled):
        raise ValueError(f"AUCp needs normal and unlabelled images, got {len(normal)} and {len(unlabeled)}.")
    labels = np.repeat([0, 1], [len(normal), len(unlabeled)])
    return float(auroc(np.concatenate([normal, unlabeled]), labels))
