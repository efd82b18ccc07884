"""What the machine offers to this process."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta

import ignite.distributed as idist

__all__ = ["PATIENCE", "available_cores", "keep_freed_memory"]

PATIENCE = timedelta(days=30)  # that processes wait for each other; torchrun ends them all when one dies

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # of mallopt, see <malloc.h>


def available_cores() -> int:
    """Return how many cores this process may use: those that it is not barred from, shared among a node's ranks.

    Example:
        >>> available_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // idist.get_nproc_per_node())


def keep_freed_memory() -> None:
    """Let this process keep the memory that it has freed, where it runs on glibc, from now on.

    Each step of a training on CPUs takes and frees the same large pieces. By default they go back to the system, which
    clears them again page by page; that can take a fifth of a step. The price is that the process stays as large as it
    once was.

    Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(TOP_PAD, 64 * 2**20)
    mallopt(ARENA_MAX, 1)
