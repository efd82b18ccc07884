"""Streams and orders that depend on their seed and keys alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from monai_ddad.seeding import derive_seed, epoch_order


def test_a_derived_seed_depends_on_the_seed_and_its_keys_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    first = derive_seed(7, 1, 2, 3)
    torch.rand(1), np.random.rand()
    assert derive_seed(7, 1, 2, 3) == first and 0 <= first < 2**32


def test_streams_of_a_run_do_not_collide():
    keys = [(), *product(range(3), range(4)), *product(range(3), range(4), range(100))]
    seeds = [derive_seed(seed, *key) for seed in range(3) for key in keys]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("length, batch_size, batches, size", [(10, 4, 2, 4), (8, 4, 2, 4), (3, 4, 1, 3), (9, 1, 9, 1)])
def test_an_epoch_visits_each_image_at_most_once_in_full_batches(length, batch_size, batches, size):
    order = epoch_order(length, batch_size, seed=0)
    assert order.shape == (batches, size)
    assert len(set(order.flatten().tolist())) == batches * size and set(order.flatten().tolist()) <= set(range(length))


def test_the_images_left_out_change_with_the_seed():
    left_out = {frozenset(range(10)) - frozenset(epoch_order(10, 4, seed).flatten().tolist()) for seed in range(40)}
    assert len(left_out) > 10


def test_the_order_is_fixed_by_its_seed_and_uniform_over_seeds():
    assert torch.equal(epoch_order(20, 4, seed=3), epoch_order(20, 4, seed=3))
    first = torch.stack([epoch_order(5, 1, seed)[0, 0] for seed in range(2000)]).bincount(minlength=5)
    assert ((first - 400).abs() < 4.5 * (2000 * 0.2 * 0.8) ** 0.5).all()


def test_drawing_an_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch_order(20, 4, seed=3)
    assert torch.equal(before, torch.get_rng_state())
