"""Synthetic frontal chest films."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ddad.data.phantom import chest, draw_phantom

BRIGHTER = ("consolidation", "mass", "effusion", "large heart")


def film(seed, abnormal=False):
    return draw_phantom(seed, abnormal, kind="chest")


def borders(image):
    """Brightness of the collimation border on each edge that has one: a row or column of one value, 0 or 255."""
    edges = image[0], image[-1], image[:, 0], image[:, -1]
    return {int(edge[0]) for edge in edges if len(set(edge)) == 1 and edge[0] in (0, 255)}


def test_films_differ_in_width():
    widths = {film(seed)[0].shape for seed in range(30)}
    assert all(rows == 128 and 112 <= columns <= 150 for rows, columns in widths)
    assert len(widths) > 15


def test_lungs_are_darker_than_the_heart_and_the_abdomen():
    for seed in range(20):
        image = film(seed)[0].astype(float)
        middle = image.shape[1] // 2
        third = image.shape[1] // 4
        lungs = np.mean([image[50:75, third - 6 : third + 6].mean(), image[50:75, -third - 6 : -third + 6].mean()])
        assert image[75:90, middle - 6 : middle + 18].mean() > lungs + 25
        assert image[108:118, middle - 20 : middle - 8].mean() > lungs + 25


def test_some_films_have_a_black_border_and_some_a_white_one():
    found = [borders(film(seed)[0]) for seed in range(60)]
    assert {0} in found and {255} in found
    assert all(len(values) <= 1 for values in found)
    assert 10 < sum(values == {255} or values == {0} for values in found) < 50


@pytest.mark.parametrize("name", chest.LESIONS)
def test_a_lesion_changes_the_lungs_the_way_its_disease_does(monkeypatch, name):
    monkeypatch.setattr(chest, "LESIONS", (name,))
    for seed in range(10):
        (normal, _), (abnormal, mask) = film(seed), film(seed, True)
        change = (abnormal.astype(float) - normal)[mask].mean()
        assert change > 8 if name in BRIGHTER else change < -8
        assert 0.01 < mask.mean() < 0.2


def test_fluid_lies_low_and_free_air_high(monkeypatch):
    heights = {}
    for name in ("effusion", "pneumothorax"):
        monkeypatch.setattr(chest, "LESIONS", (name,))
        heights[name] = [np.argwhere(film(seed, True)[1])[:, 0].mean() for seed in range(10)]
    assert min(heights["effusion"]) > 64 > max(heights["pneumothorax"])
