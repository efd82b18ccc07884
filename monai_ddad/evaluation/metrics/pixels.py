"""How well anomaly maps find the pixels of lesions."""

from __future__ import annotations

import numpy as np
from scipy.integrate import trapezoid
from scipy.ndimage import label

from monai_ddad.evaluation.metrics.ranking import auroc, average_precision, counts_by_score

__all__ = ["best_dice", "per_region_overlap", "pixel_auroc", "pixel_average_precision"]

EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # within an image, not across


def pixel_auroc(maps: np.ndarray, masks: np.ndarray, field: np.ndarray | None = None) -> float:
    """Compute the area under the ROC curve over the pixels of all images together.

    Args:
        maps: (N, H, W) float, higher is more abnormal.
        masks: (N, H, W) bool, True in lesions.
        field: (N, H, W) bool, True where a pixel counts; None counts all.

    Returns:
        in [0, 1].

    Raises:
        ValueError: shapes or types differ from these, a map is NaN where it counts, or no pixel that counts is in a
            lesion or all are.

    Example:
        >>> masks = np.array([[[True, False], [False, False]]])
        >>> pixel_auroc(np.array([[[0.5, 0.1], [0.2, 0.9]]]), masks)
        0.6666666666666666
    """
    counted = _counted(maps, masks, field)
    return float(auroc(maps[counted], masks[counted]))


def pixel_average_precision(maps: np.ndarray, masks: np.ndarray, field: np.ndarray | None = None) -> float:
    """Compute the average precision over the pixels of all images together.

    Args:
        maps, masks, field: as in :func:`pixel_auroc`, as are the errors.

    Returns:
        in [0, 1].

    Example:
        >>> masks = np.array([[[True, False], [False, False]]])
        >>> pixel_average_precision(np.array([[[0.5, 0.1], [0.2, 0.9]]]), masks)
        0.5
    """
    counted = _counted(maps, masks, field)
    return float(average_precision(maps[counted], masks[counted]))


def best_dice(maps: np.ndarray, masks: np.ndarray, field: np.ndarray | None = None) -> tuple[float, float]:
    """Find the one threshold for all images at which the pixels that reach it overlap best with the lesions.

    The threshold is chosen with the masks at hand, so this is an upper bound of the Dice of a threshold chosen without.

    Args:
        maps, masks, field: as in :func:`pixel_auroc`, as are the errors.

    Returns:
        the Dice over the pixels of all images together, in (0, 1], and the threshold; of several the highest.

    Example:
        >>> masks = np.array([[[True, True], [False, False]]])
        >>> best_dice(np.array([[[0.5, 0.8], [0.2, 0.6]]]), masks)
        (0.8, 0.5)
    """
    counted = _counted(maps, masks, field)
    thresholds, abnormal, normal = (values[::-1] for values in counts_by_score(maps[counted], masks[counted]))
    hits, flagged = abnormal.cumsum(), (abnormal + normal).cumsum()
    dice = 2 * hits / (flagged + hits[-1])
    best = dice.argmax()
    return float(dice[best]), float(thresholds[best])


def per_region_overlap(
    maps: np.ndarray, masks: np.ndarray, limit: float = 0.3, field: np.ndarray | None = None
) -> float:
    """Compute the normalised area under the curve of per-region overlap (PRO) against pixel false positives.

    The overlap is the share of a lesion's pixels that is flagged, averaged over the connected (8-connected) regions of
    all masks, so a small lesion weighs as much as a large one. The false-positive rate is over the pixels outside of
    lesions of all images. Between two thresholds, and at the limit, the curve is linear.

    Args:
        maps, masks, field: as in :func:`pixel_auroc`, as are the errors. What the field cuts from a region does not
            count; a region that it cuts in two stays one.
        limit: false-positive rate up to which the area counts, in (0, 1].

    Returns:
        the area divided by the limit, in [0, 1].

    Raises:
        ValueError: the limit is outside (0, 1].

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, International Journal of Computer Vision 129, 2021,
    the section on evaluation metrics.

    Example:
        >>> masks = np.array([[[True, False, True, True]]])
        >>> per_region_overlap(np.array([[[0.9, 0.3, 0.8, 0.1]]]), masks)  # all of one region and half of the other
        0.75
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be a false-positive rate above 0 and at most 1, got {limit}.")
    counted = _counted(maps, masks, field)
    regions = label(masks, EIGHT_CONNECTED)[0][counted]
    weights = np.where(regions > 0, 1 / np.bincount(regions)[regions], 1.0)
    _, abnormal, normal = counts_by_score(maps[counted], masks[counted], weights)
    overlap, false_alarms = (np.r_[0.0, counts[::-1].cumsum()] for counts in (abnormal, normal))
    overlap, false_alarms = overlap / overlap[-1], false_alarms / false_alarms[-1]
    within = false_alarms <= limit
    heights = np.r_[overlap[within], np.interp(limit, false_alarms, overlap)]
    return float(trapezoid(heights, np.r_[false_alarms[within], limit])) / limit


def _counted(maps: np.ndarray, masks: np.ndarray, field: np.ndarray | None) -> np.ndarray:
    """Check maps and masks; return which pixels count."""
    counted = np.ones(np.shape(masks), dtype=bool) if field is None else field
    shapes = [np.shape(array) for array in (maps, masks, counted)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        raise ValueError(f"maps, masks and field must be (N, H, W) alike, got {', '.join(map(str, shapes))}.")
    for name, array in (("masks", masks), ("field", counted)):
        if array.dtype != bool:
            raise ValueError(f"{name} must be bool, got {array.dtype}: compare with a value first, such as > 0.")
    if np.isnan(maps[counted]).any():
        raise ValueError(f"{np.isnan(maps[counted]).sum()} pixels of the maps are NaN and have no rank.")
    lesions, pixels = int(masks[counted].sum()), int(counted.sum())
    if not 0 < lesions < pixels:
        raise ValueError(f"pixels in and outside of lesions are needed, got {lesions} of {pixels} in lesions.")
    return counted
