"""Device, memory layout and numeric precision of a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

__all__ = ["autocast", "place"]

Module = TypeVar("Module", bound=nn.Module)


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


def place(network: Module, device: torch.device | str) -> Module:
    """Move a network to a device, in the memory layout that its convolutions run fastest in (channels last).

    Args:
        network: the network, changed in place.
        device: where it is to run.

    Example:
        >>> place(nn.Conv2d(2, 2, 3), torch.device("cpu")).weight.is_contiguous(memory_format=torch.channels_last)
        True
    """
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
