"""Device, memory layout and numeric precision of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

__all__ = ["PRECISIONS", "autocast", "choose_precision", "place"]

PRECISIONS = ("float32", "tf32", "bfloat16")

Module = TypeVar("Module", bound=nn.Module)


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
        precision: ``"float32"``, ``"tf32"`` (float32 with TensorFloat-32 products on GPUs that have them) or
            ``"bfloat16"`` (autocast).

    Raises:
        ValueError: another precision.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16")():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got {precision!r}.")
    if precision == "tf32":
        return _tf32
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def _tf32() -> Iterator[None]:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


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
