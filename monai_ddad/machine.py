"""What the machine offers to this process."""

from __future__ import annotations

import os

import ignite.distributed as idist

__all__ = ["available_cores"]


def available_cores() -> int:
    """Return how many cores this process may use: those that it is not barred from, shared among a node's ranks.

    Example:
        >>> available_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // idist.get_nproc_per_node())
