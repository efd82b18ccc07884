"""Layers that are computed in float32 on CPUs whatever the precision, linear ones by oneDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Float32Layers"]

PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
FEW = 4  # channels of an image, at most


class Float32Layers(TorchFunctionMode):
    """Context in which linear layers, and a decoder's last layer, are computed in float32 on CPUs, also under autocast.

    All of an image passes through these layers in few numbers, each of which bfloat16 would round to 8 bits. Layers
    whose weights are not float32 are left alone.

    Linear layers of matrices are computed by oneDNN, forward and backward. PyTorch leaves them to MKL, which on
    processors of other makers than its own uses half of their vector units. The operator is the one that
    ``torch.compile`` takes; where PyTorch has none, its own is used. Each thread enters its own context.

    Example:
        >>> layer, image = torch.nn.Linear(8, 4), torch.rand(3, 8)
        >>> with torch.autocast("cpu", torch.bfloat16), Float32Layers():
        ...     found = layer(image)
        >>> found.dtype, torch.allclose(found, layer(image), atol=1e-6)
        (torch.float32, True)
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and _is_float32(args[1]):
            image, *layer = args
            if PRODUCT is not None and image.dim() == 2 and not kwargs:
                return _Linear.apply(image.float(), *layer, *[None] * (2 - len(layer)))
        elif not (function is F.conv_transpose2d and _is_float32(args[1]) and args[1].shape[1] <= FEW):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return function(args[0].float(), *args[1:], **kwargs)


def _is_float32(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(image, weight)
        return _product(image, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        return (
            _product(gradient, weight.T) if ctx.needs_input_grad[0] else None,
            _product(gradient.T, image.T) if ctx.needs_input_grad[1] else None,
            gradient.sum(dim=0) if ctx.needs_input_grad[2] else None,
        )


def _product(rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``rows @ columns.T + bias``."""
    assert PRODUCT is not None
    return PRODUCT(rows, columns, bias, "none", [], "")
