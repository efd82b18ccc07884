"""Synthetic fundus photographs."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ddad.data.phantom import draw_phantom, fundus

BRIGHTER = ("exudates", "cotton wool", "large cup")


def photograph(seed, abnormal=False):
    return draw_phantom(seed, abnormal, kind="fundus")


@pytest.fixture(scope="module")
def fields():
    """Fields of view of some photographs."""
    return [photograph(seed)[0].max(axis=-1) > 20 for seed in range(30)]


def test_a_round_field_of_view_of_varying_size_lies_in_a_black_frame(fields):
    for field in fields:
        assert field.shape == (128, 160)
        assert not field[:, 0].any() and not field[:, -1].any()
        width = field.any(axis=0).sum()
        rows, columns = np.argwhere(field).mean(axis=0)
        y, x = np.mgrid[0:128, 0:160]
        circle = np.hypot(y - rows, x - columns) < width / 2
        assert (field == circle).mean() > 0.95
    assert np.ptp([field.any(axis=0).sum() for field in fields]) > 15


def test_some_fields_are_cut_above_and_below_and_some_are_whole(fields):
    cut = [bool(field[0].any() and field[-1].any()) for field in fields]
    assert 5 < sum(cut) < 25


def test_the_retina_is_red_before_green_before_blue():
    for seed in range(20):
        image, _ = photograph(seed)
        red, green, blue = image[image.max(axis=-1) > 20].mean(axis=0)
        assert red > 1.3 * green and green > 1.3 * blue > 13


def test_the_bright_disc_is_left_in_half_of_the_photographs():
    places = []
    for seed in range(60):
        green = photograph(seed)[0][..., 1].astype(float)
        brightest = np.argwhere(green >= np.percentile(green, 99.7))
        places.append(np.median(brightest[:, 1]) / 160)
    left, right = sum(place < 0.4 for place in places), sum(place > 0.6 for place in places)
    assert left + right >= 57 and min(left, right) > 15


@pytest.mark.parametrize("name", fundus.LESIONS)
def test_a_lesion_brightens_or_darkens_the_retina_as_its_disease_does(monkeypatch, name):
    monkeypatch.setattr(fundus, "LESIONS", (name,))
    for seed in range(10):
        (normal, _), (abnormal, mask) = photograph(seed), photograph(seed, True)
        change = (abnormal.astype(float) - normal)[mask][:, 1].mean()
        assert change > 6 if name in BRIGHTER else change < -6
        assert 0.005 < mask.mean() < 0.1
        assert not (mask & (normal.max(axis=-1) < 15)).any()
