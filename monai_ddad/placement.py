"""Device, memory layout and numeric precision of a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

__all__ = ["PRECISIONS", "autocast", "choose_precision", "place", "resolve_device", "set_tf32"]

PRECISIONS = ("float32", "tf32", "bfloat16")

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(device: torch.device | str) -> torch.device:
    """Return a device with its number, which ``"cuda"`` leaves open: it is the current one.

    Example:
        >>> resolve_device("cpu"), resolve_device("cuda:1")
        (device(type='cpu'), device(type='cuda', index=1))
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose_precision(precision: str, device: torch.device | str) -> str:
    """Return the precision to train with.

    Args:
        precision: one of :data:`PRECISIONS`, or ``"auto"`` for ``"bfloat16"`` where the device has instructions for it
            and ``"float32"`` elsewhere.
        device: where the computation runs.

    Example:
        >>> choose_precision("float32", "cpu")
        'float32'
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager]:
    """Return what opens the context that a precision is computed in.

    Args:
        device: where the computation runs.
        precision: ``"float32"``, ``"tf32"`` (float32, see :func:`set_tf32`) or ``"bfloat16"`` (autocast).

    Raises:
        ValueError: another precision.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16")():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got {precision!r}.")
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def set_tf32(device: torch.device, precision: str) -> None:
    """Let a GPU compute float32 products in TensorFloat-32 if the precision is ``"tf32"``, and exactly if not.

    PyTorch has one switch for a whole process, and lets convolutions use TensorFloat-32 unless told otherwise. On CPUs
    nothing is done.

    Args:
        device: where the computation that follows runs.
        precision: see :func:`autocast`.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


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
