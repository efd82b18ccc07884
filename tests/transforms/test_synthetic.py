"""Synthetic anomalies follow the distribution of method.md, section 4."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.transforms import BlendBox, BlendPatch, RandBlendPatch

DRAWS = 6000
NUMBER, INDEX = 7, 2


def near(count: int, draws: int, probability: float) -> bool:
    """Say whether a count lies within 4.5 standard deviations of its expectation."""
    return abs(count - draws * probability) < 4.5 * (draws * probability * (1 - probability)) ** 0.5


@pytest.fixture(scope="module")
def drawn() -> list[tuple[BlendBox | None, int]]:
    """Box and source of many draws for image 2 of 7, 64 x 64."""
    transform = RandBlendPatch().set_random_state(0)
    result = []
    for _ in range(DRAWS):
        transform.randomize((64, 64, INDEX, NUMBER))
        result.append((transform.box, transform.other))
    return result


@pytest.fixture(scope="module")
def boxes(drawn) -> list[BlendBox]:
    return [box for box, _ in drawn if box is not None]


def test_half_of_the_images_stay_as_they_are(boxes):
    assert near(len(boxes), DRAWS, 0.5)


@pytest.mark.parametrize("axis", ["row", "column"])
def test_centres_are_uniform_from_6_to_56(boxes, axis):
    counts = np.bincount([getattr(box, axis) for box in boxes], minlength=64)
    assert np.flatnonzero(counts).min() == 6 and np.flatnonzero(counts).max() == 56
    assert all(near(count, len(boxes), 1 / 51) for count in counts[6:57])


def test_rows_and_columns_are_independent(boxes):
    rows, columns = [box.row for box in boxes], [box.column for box in boxes]
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 4.5 / len(boxes) ** 0.5


def test_half_widths_are_uniform_from_3_to_12(boxes):
    counts = np.bincount([box.half_width for box in boxes])
    assert np.flatnonzero(counts).tolist() == list(range(3, 13))
    assert all(near(count, len(boxes), 1 / 10) for count in counts[3:])


def test_alpha_is_uniform_below_1(boxes):
    alpha = np.array([box.alpha for box in boxes])
    assert alpha.min() >= 0 and alpha.max() < 1 and all(type(box.alpha) is float for box in boxes)
    assert all(near(count, len(boxes), 1 / 10) for count in np.histogram(alpha, bins=10, range=(0, 1))[0])


def test_source_is_uniform_over_the_other_images(drawn):
    others = [other for box, other in drawn if box is not None]
    counts = np.bincount(others, minlength=NUMBER)
    assert counts[INDEX] == 0 and len(counts) == NUMBER
    assert all(near(count, len(others), 1 / (NUMBER - 1)) for count in np.delete(counts, INDEX))


@pytest.mark.parametrize("index, other", [(0, 1), (1, 0)])
def test_of_two_images_the_source_is_the_other(index, other):
    transform = RandBlendPatch(prob=1.0).set_random_state(0)
    sources: list[int] = []
    for _ in range(5):
        transform(torch.zeros(1, 64, 64), index, lambda at: sources.append(at) or torch.ones(1, 64, 64), number=2)
    assert sources == [other] * 5


def test_ranges_scale_with_the_image():
    transform = RandBlendPatch(prob=1.0).set_random_state(0)
    drawn = []
    for _ in range(2000):
        transform.randomize((32, 128, 0, 2))
        drawn.append((transform.box.row, transform.box.column, transform.box.half_width))
    rows, columns, half_widths = zip(*drawn)
    assert (min(rows), max(rows)) == (3, 27)  # of numpy's randint(3.2, 28.8)
    assert (min(columns), max(columns)) == (12, 114)  # of randint(12.8, 115.2)
    assert (min(half_widths), max(half_widths)) == (6, 25)  # of randint(round(6.4), round(25.6))


@pytest.mark.parametrize(
    "box",
    [
        BlendBox(30, 40, 5, 0.3),
        BlendBox(6, 6, 12, 0.7),  # cut above and on the left
        BlendBox(56, 56, 12, 0.999),  # cut below and on the right
        BlendBox(6, 56, 12, 1e-6),  # hardly to be seen, masked all the same
    ],
)
def test_blending_equals_a_loop_over_pixels(box):
    image, source = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = image.clone()
    blended, mask = BlendPatch(box)(image, source)
    assert torch.equal(image, before)
    for row in range(64):
        for column in range(64):
            inside = abs(row - box.row + 0.5) < box.half_width and abs(column - box.column + 0.5) < box.half_width
            assert mask[row, column] == inside
            share = box.alpha if inside else 0.0
            expected = (1 - share) * image[:, row, column] + share * source[:, row, column]
            assert torch.equal(blended[:, row, column], expected if inside else image[:, row, column])


def test_an_alpha_of_zero_has_an_empty_mask():
    image = torch.rand(1, 64, 64)
    blended, mask = BlendPatch(BlendBox(30, 30, 5, 0.0))(image, torch.ones(1, 64, 64))
    assert torch.equal(blended, image) and mask.sum() == 0


def test_the_drawn_box_is_what_is_blended():
    image, source = torch.rand(1, 64, 64), torch.rand(1, 64, 64)
    transform = RandBlendPatch(prob=1.0).set_random_state(0)
    blended, mask = transform(image, 0, lambda _: source, number=3)
    expected, expected_mask = BlendPatch(transform.box)(image, source)
    assert torch.equal(blended, expected) and torch.equal(mask, expected_mask) and mask.any()


def test_an_unchanged_image_has_an_empty_mask():
    image = torch.rand(1, 64, 64)
    blended, mask = RandBlendPatch(prob=0.0)(image, 0, lambda _: torch.ones(1, 64, 64), number=3)
    assert torch.equal(blended, image) and mask.shape == (64, 64) and mask.sum() == 0


def test_the_last_draw_can_be_replayed():
    images = torch.rand(5, 1, 64, 64)
    transform = RandBlendPatch(prob=1.0).set_random_state(0)
    blended, mask = transform(images[1], 1, images.__getitem__, number=5)
    again, same_mask = transform(images[1], 1, images.__getitem__, number=5, randomize=False)
    assert torch.equal(blended, again) and torch.equal(mask, same_mask)
    assert not torch.equal(transform(images[1], 1, images.__getitem__, number=5)[1], mask)


@pytest.mark.parametrize("seed, same", [(3, True), (4, False)])
def test_the_seed_fixes_the_draws(seed, same):
    draws = []
    for value in (3, seed):
        transform = RandBlendPatch().set_random_state(value)
        draws.append([])
        for _ in range(20):
            transform.randomize((64, 64, 0, 9))
            draws[-1].append((transform.box, transform.box and transform.other))
    assert (draws[0] == draws[1]) == same
