"""Copies and the closest images are those that a plain loop over all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.data import copies as copies_module
from monai_ddad.data.copies import find_copies, worst_pairs


def test_closest_images_are_those_of_a_plain_loop_whatever_the_block(monkeypatch):
    monkeypatch.setattr(copies_module, "BLOCK", 3)
    images = torch.randint(0, 256, (17, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[9] = images[2]
    splits = [0] * 4 + [1] * 8 + [3] * 5  # no image in split 2
    contents = [image.numpy().tobytes() for image in images]
    copies = find_copies(images, splits, 4, list(range(17)), contents)
    correlation = np.corrcoef(images.flatten(1).numpy())
    for i in range(17):
        for split in range(4):
            others = [j for j in range(17) if splits[j] == split and contents[j] != contents[i]]
            best = max(others, key=lambda j: correlation[i, j], default=-1)
            assert copies.closest[i, split] == best
            if others:
                assert copies.correlation[i, split] == pytest.approx(correlation[i, best], abs=1e-5)
    assert copies.same_content[2].tolist() == [-1, 9, -1, -1] and copies.same_content[9].tolist() == [2, -1, -1, -1]
    assert (copies.same_file == -1).all()
    shown = worst_pairs(copies, splits, 2)
    assert [(pair.first, pair.second) for pair in shown["same_content"]] == [(9, 2)]
    top = max(correlation[i, j] for i in range(17) for j in range(17) if splits[i] > splits[j] and {i, j} != {2, 9})
    assert shown["most_alike"][0].correlation == pytest.approx(top, abs=1e-5)


def test_constant_images_are_copies_of_equal_ones_only():
    images = torch.stack([torch.full((4, 4), value, dtype=torch.uint8) for value in (7, 7, 8)])
    copies = find_copies(images, [0, 1, 1], 2, ["a", "b", "c"], [7, 7, 8])
    assert copies.near(0.99).tolist() == [[False, True], [True, False], [False, False]]
