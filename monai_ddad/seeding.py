"""Independent random streams from one seed."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["derive_seed", "epoch_order"]


def derive_seed(seed: int, *keys: int) -> int:
    """Derive an independent 32-bit seed for the stream named by ``keys``.

    Streams depend on their keys alone, never on what was drawn before, so a run that is resumed, or whose members are
    trained in another order, draws the same numbers.

    Args:
        seed: the run's seed, a non-negative integer.
        keys: non-negative integers naming the stream, for example ``(module, member, epoch)``.

    Returns:
        an integer in [0, 2**32).

    Raises:
        ValueError: the seed is negative.

    Example:
        >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2), derive_seed(0, 1, 2) == derive_seed(0, 2, 1)
        (True, False)
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1)[0])


def epoch_order(length: int, batch_size: int, seed: int) -> torch.Tensor:
    """Draw one epoch's shuffled batches, dropping the last incomplete one.

    Fewer images than a batch give one batch with all of them.

    Args:
        length: number of images, at least 1.
        batch_size: images a batch, at least 1.
        seed: seed of the shuffle.

    Returns:
        (batches, images) int64 indices, ``batches = max(length // batch_size, 1)``.

    Example:
        >>> epoch_order(10, 4, seed=0).shape, epoch_order(3, 4, seed=0).shape
        (torch.Size([2, 4]), torch.Size([1, 3]))
    """
    size = min(batch_size, length)
    batches = length // size
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    return order[: batches * size].view(batches, size)
