"""Work and weights are shared among the processes of ``torchrun``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ignite.distributed as idist
import torch

__all__ = ["assign", "broadcast", "from_first", "gather"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def assign(costs: Sequence[int], ranks: int) -> list[int]:
    """Share out pieces of work, the largest first, each to the rank with the least so far.

    Args:
        costs: of each piece.
        ranks: processes.

    Returns:
        the rank of each piece.

    Example:
        >>> assign([1, 1, 1, 2, 2, 2], ranks=2)
        [1, 1, 0, 0, 1, 0]
    """
    loads = [0] * ranks
    found = [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        found[piece] = loads.index(min(loads))
        loads[found[piece]] += costs[piece]
    return found


def from_first(make: Callable[[], Made]) -> Made:
    """Return what the first process makes, which is not None; the others end where it fails, which it alone reports."""
    if idist.get_world_size() == 1:
        return make()
    found: list[Any] = [None]
    try:
        if idist.get_rank() == 0:
            found = [make()]
    finally:
        torch.distributed.broadcast_object_list(found, src=0)
    if found[0] is None:
        raise SystemExit(1)
    return found[0]


@torch.no_grad()
def broadcast(tensors: Iterable[torch.Tensor], rank: int) -> None:
    """Give tensors the values that they have in one process; all processes have to call."""
    if idist.get_world_size() == 1:
        return
    for tensor in tensors:
        dense = tensor.contiguous()
        torch.distributed.broadcast(dense, src=rank)
        tensor.copy_(dense)


def gather(items: list[Item]) -> list[Item]:
    """Return the items of all processes in the first one, and none in the others; all have to call.

    Items are plain values and tensors; those of other processes come in the CPU's memory.
    """
    if idist.get_world_size() == 1:
        return items
    content = io.BytesIO()
    torch.save(items, content)
    found: list[Any] | None = [None] * idist.get_world_size() if idist.get_rank() == 0 else None
    torch.distributed.gather_object(content.getvalue(), found)
    contents = (io.BytesIO(part) for part in found or [])
    return [item for part in contents for item in torch.load(part, "cpu", weights_only=True)]  # noqa: TID251 no file
