"""Synthetic axial brain-like slices."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from monai_ddad.data.phantom import brain, draw_phantom

DRAWN = {  # SHA-256 of the images and masks of eight seeds, of version 2
    64: "70dda1788d19a0670a16c13ed422553e53c99d09df241fe33c8e974f4581df84",
    101: "ad5eec72cc894bcba9ca33346a28949ebb5add85f33209b2e8b14cec19c3355b",
}


@pytest.mark.parametrize("side", DRAWN)
def test_the_pictures_stay_the_same_as_long_as_their_version_does(side):
    digest = hashlib.sha256()
    for seed in range(8):
        for abnormal in (False, True):
            for array in draw_phantom(seed, abnormal, side):
                digest.update(array.tobytes())
    assert digest.hexdigest() == DRAWN[side]


def test_lesions_lie_within_the_head_and_are_of_the_promised_size():
    y, x = np.mgrid[0:128, 0:128] - 63.5
    outside = np.hypot(x / (0.42 * 128), y / (0.5 * 128)) > 1
    for seed in range(40):
        mask = draw_phantom(seed, True)[1]
        assert mask.any() and not (mask & outside).any()
        assert np.pi * 4**2 < mask.sum() < 2 * np.pi * 20**2


def test_half_of_the_pictures_are_t2_like(monkeypatch):
    drawn = [draw_phantom(seed, bool(seed % 2), 32) for seed in range(100)]
    monkeypatch.setattr(brain, "T2_LIKE", brain.T1_LIKE)
    again = [draw_phantom(seed, bool(seed % 2), 32) for seed in range(100)]
    assert all(np.array_equal(mask, other) for (_, mask), (_, other) in zip(drawn, again))
    assert 30 < sum(not np.array_equal(image, other) for (image, _), (other, _) in zip(drawn, again)) < 70
