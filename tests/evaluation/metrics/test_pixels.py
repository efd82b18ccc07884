"""Pixel metrics against scikit-learn and plain loops over all thresholds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from skimage.measure import label
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_ddad.evaluation.metrics import best_dice, per_region_overlap, pixel_auroc, pixel_average_precision

METRICS = [pixel_auroc, pixel_average_precision, best_dice, per_region_overlap]


def draw(seed: int, ties: bool, fields: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Draw maps of four images, the first without a lesion, with regions that touch at corners and across images."""
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 9, 8)) < 0.25
    masks[0] = False
    maps = rng.normal(size=masks.shape) + 0.8 * masks
    field = rng.random(masks.shape) < 0.7 if fields else None
    return np.round(maps, 1 if ties else 12), masks, field


def plain_overlap(maps, masks, limit, field):
    """Flag at each threshold, count each region, then integrate piece by piece."""
    field = np.ones_like(masks) if field is None else field
    regions = []
    for image, mask in enumerate(masks):
        numbers = label(mask, connectivity=2)
        regions += [(image, (numbers == number) & field[image]) for number in range(1, numbers.max() + 1)]
    regions = [(image, region) for image, region in regions if region.any()]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(maps[field].tolist()), reverse=True):
        flagged = maps >= threshold
        false_alarms = (flagged & ~masks & field).sum() / (~masks & field).sum()
        curve.append((false_alarms, np.mean([flagged[image][region].mean() for image, region in regions])))
    area = 0.0
    for (left, low), (right, high) in pairwise(curve):
        if right > limit and left < limit:
            high = low + (high - low) * (limit - left) / (right - left)
            right = limit
        if right <= limit:
            area += (right - left) * (low + high) / 2
    return area / limit


cases = pytest.mark.parametrize(
    ("seed", "ties", "fields"), [(seed, ties, fields) for seed in (0, 1) for ties in (0, 1) for fields in (0, 1)]
)


@cases
def test_ranking_of_pixels_equals_scikit_learn(seed, ties, fields):
    maps, masks, field = draw(seed, ties, fields)
    counted = np.ones_like(masks) if field is None else field
    assert pixel_auroc(maps, masks, field) == pytest.approx(roc_auc_score(masks[counted], maps[counted]))
    expected = average_precision_score(masks[counted], maps[counted])
    assert pixel_average_precision(maps, masks, field) == pytest.approx(expected)


@cases
def test_best_dice_equals_a_loop_over_all_thresholds(seed, ties, fields):
    maps, masks, field = draw(seed, ties, fields)
    counted = np.ones_like(masks) if field is None else field
    dice, threshold = best_dice(maps, masks, field)
    by_threshold = {}
    for value in np.unique(maps[counted]):
        flagged = (maps >= value) & counted
        by_threshold[value] = 2 * (flagged & masks).sum() / (flagged.sum() + (masks & counted).sum())
    assert dice == pytest.approx(max(by_threshold.values())) == pytest.approx(by_threshold[threshold])


@pytest.mark.parametrize("limit", [0.02, 0.3, 0.5, 1.0])
@cases
def test_per_region_overlap_equals_a_loop_over_all_thresholds(seed, ties, fields, limit):
    maps, masks, field = draw(seed, ties, fields)
    expected = plain_overlap(maps, masks, limit, field)
    assert per_region_overlap(maps, masks, limit, field) == pytest.approx(expected, abs=1e-12)


def test_overlap_below_and_at_a_step_that_ends_at_the_limit():
    masks = np.array([[[True, False, False, True, False, False]]])
    maps = np.array([[[0.5, 0.9, 0.1, 0.2, 0.6, 0.3]]])  # half of the normal pixels come first, then both regions
    assert per_region_overlap(maps, masks, limit=0.5) == 0
    assert per_region_overlap(maps, masks, limit=0.75) == pytest.approx(0.25 * 0.5 / 0.75)


def test_regions_join_at_corners_and_not_across_images():
    corner = np.array([[[True, False], [False, True]], [[False, False], [False, False]]])
    across = np.array([[[True, False], [False, False]], [[False, False], [False, True]]])
    sides = np.zeros((2, 2, 3), dtype=bool)
    sides[0, :, :2] = True  # four pixels of one image and one of the next, at the same place
    sides[1, 0, 0] = True
    maps = np.where(sides, 0.0, 0.5)
    maps[1, 0, 0] = 1.0
    assert per_region_overlap(maps, sides) == pytest.approx(0.5)
    for masks in (corner, across):
        assert per_region_overlap(np.where(masks, 1.0, 0.0), masks) == pytest.approx(1)


def test_perfect_and_uninformative_maps():
    _, masks, _ = draw(0, False, False)
    assert per_region_overlap(masks.astype(float), masks) == pytest.approx(1)
    assert best_dice(masks.astype(np.float32), masks) == (1.0, 1.0)
    flat = np.zeros(masks.shape)
    assert per_region_overlap(flat, masks) == pytest.approx(0.15)  # the diagonal up to .3
    assert best_dice(flat, masks) == (pytest.approx(2 * masks.sum() / (masks.size + masks.sum())), 0.0)


@pytest.mark.parametrize("metric", METRICS)
def test_pixels_outside_of_the_field_do_not_count(metric):
    maps, masks, field = draw(3, False, True)
    other = np.where(field, maps, np.nan)
    assert metric(other, masks, field=field) == metric(maps, masks, field=field) != metric(maps, masks)


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_measured_is_refused(metric):
    maps, masks, field = draw(0, False, True)
    with pytest.raises(ValueError, match="got 0 of 288 in lesions"):
        metric(maps, np.zeros_like(masks))
    with pytest.raises(ValueError, match="got 288 of 288 in lesions"):
        metric(maps, np.ones_like(masks))
    with pytest.raises(ValueError, match=f"got 0 of {(~masks).sum()} in lesions"):
        metric(maps, masks, field=~masks)
    with pytest.raises(ValueError, match=r"alike, got \(4, 9, 8\), \(4, 9, 7\)"):
        metric(maps, masks[..., :7])
    with pytest.raises(ValueError, match="alike"):
        metric(maps[0], masks[0])
    with pytest.raises(ValueError, match="alike"):
        metric(maps, masks, field=field[:1])
    with pytest.raises(ValueError, match="masks must be bool, got uint8"):
        metric(maps, masks.astype(np.uint8) * 255)
    with pytest.raises(ValueError, match="field must be bool, got float64"):
        metric(maps, masks, field=field.astype(float))
    maps[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match="2 pixels of the maps are NaN"):
        metric(maps, masks)


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, 30, float("nan")])
def test_a_limit_that_is_no_rate_is_refused(limit):
    maps, masks, _ = draw(0, False, False)
    with pytest.raises(ValueError, match=f"limit .* got {limit}"):
        per_region_overlap(maps, masks, limit)
