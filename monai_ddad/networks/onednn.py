"""Linear layers computed by oneDNN, as PyTorch computes convolutions on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["OneDNNLinear"]

PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class OneDNNLinear(TorchFunctionMode):
    """Context in which linear layers of float32 matrices are computed by oneDNN on CPUs, forward and backward.

    PyTorch leaves them to MKL, which on processors of other makers than its own uses half of their vector units. The
    operator is the one that ``torch.compile`` takes; where PyTorch has none, nothing changes. Each thread enters its
    own.

    Example:
        >>> layer, image = torch.nn.Linear(8, 4), torch.rand(3, 8)
        >>> with OneDNNLinear():
        ...     found = layer(image)
        >>> torch.allclose(found, layer(image), atol=1e-6)
        True
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is F.linear and PRODUCT is not None and not kwargs and _is_plain(*args[:2]):
            return _Linear.apply(*args, *[None] * (3 - len(args)))
        return function(*args, **(kwargs or {}))


def _is_plain(image: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        image.dim() == 2
        and image.device.type == "cpu"
        and image.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


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
