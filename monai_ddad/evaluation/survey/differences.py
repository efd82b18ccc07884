"""What tells two groups of images apart besides the disease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_ddad.evaluation.metrics import auroc, bootstrap_interval

__all__ = ["compare_classes"]

NOTABLE = 0.7  # AUROC, in either direction, from which a property is worth a warning
RESAMPLES, FEWEST = 1000, 200  # bootstrap samples
LARGEST = 10**7  # images times bootstrap samples: bounds the memory


def compare_classes(
    normal: Sequence[dict[str, float]], abnormal: Sequence[dict[str, float]], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Rank two groups of images by each of their measures, without looking at the disease.

    Args:
        normal, abnormal: measures by name, a dictionary an image; a name that one of the groups lacks is left out.
        seed: of the bootstrap intervals.

    Returns:
        by name the ``auroc`` (above .5: higher in the second group), its 95 % ``interval``, the ``medians`` of both
        groups, and whether it is ``notable``: .7 or more in either direction, and the interval without .5.

    Example:
        >>> found = compare_classes([{"mean": 0.1}, {"mean": 0.2}], [{"mean": 0.3}, {"mean": 0.4}])
        >>> found["mean"]["auroc"], found["mean"]["notable"]
        (1.0, True)
    """
    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for image in normal for name in image):
        groups = [np.array([image[name] for image in group if name in image]) for group in (normal, abnormal)]
        if not all(map(len, groups)):
            continue
        values, labels = np.concatenate(groups), np.repeat([0, 1], [len(group) for group in groups])
        resamples = max(FEWEST, min(RESAMPLES, LARGEST // len(values)))
        area = float(auroc(values, labels))
        low, high = bootstrap_interval(auroc, values, labels, resamples, seed=seed)
        results[name] = {
            "auroc": area,
            "interval": [low, high],
            "medians": [float(np.median(group)) for group in groups],
            "notable": max(area, 1 - area) >= NOTABLE and not low <= 0.5 <= high,
        }
    return results
