"""Numeric precision of training and scoring."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch

__all__ = ["autocast"]


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager]:
    """Return what opens the autocast context of a precision.

    Args:
        device: where the computation runs.
        precision: ``"float32"`` (no autocast) or ``"bfloat16"``.

    Raises:
        ValueError: another precision.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16")():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}.")
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
