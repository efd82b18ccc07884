"""Layers that PyTorch computes slowly on CPUs, computed in faster ways with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["CPULayers"]

PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
THIN = 4  # channels; PyTorch fills up those of a convolution's output to the width of a vector

# A transposed convolution of 4 x 4 with stride 2: row 2 y + p of the output sums row y + d of the input times row
# p + 1 - 2 d of the weight, for d = -1, 0, 1; row 4 is one of zeros.
PHASES = torch.tensor([[3, 1, 4], [4, 2, 0]])


class CPULayers(TorchFunctionMode):
    """Context in which some layers are computed otherwise on CPUs, forward and backward.

    - Linear layers of float32 matrices by oneDNN, as PyTorch computes convolutions. It leaves them to MKL, which on
      processors of other makers than its own uses half of their vector units. The operator is the one that
      ``torch.compile`` takes; where PyTorch has none, nothing changes.
    - The last convolutions of ASR-Net and of the autoencoders, which have few channels: the 3 x 3 one as nine products
      for each pixel that are then added at their places, the transposed 4 x 4 one of stride 2 as a 3 x 3 one to the
      four pixels that stand for one.

    All other layers are PyTorch's. Each thread enters its own.

    Example:
        >>> layer, image = torch.nn.Linear(8, 4), torch.rand(3, 8)
        >>> with CPULayers():
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
        layer = LAYERS.get(function)
        if layer is not None and not kwargs and args[0].device.type == "cpu":
            takes, compute = layer
            if takes(*args):
                return compute(*args[:3], *[None] * (3 - len(args)))
        return function(*args, **(kwargs or {}))


def _takes_linear(image: torch.Tensor, weight: torch.Tensor, *_: Any) -> bool:
    return (
        PRODUCT is not None
        and image.dim() == 2
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


def _takes_convolution(image: torch.Tensor, weight: torch.Tensor, *rest: Any) -> bool:
    return (
        image.dim() == 4
        and weight.shape[0] <= THIN
        and weight.shape[2:] == (3, 3)
        and weight.shape[1] >= 9 * weight.shape[0]  # or the products take more memory than the image
        and rest[1:] == ((1, 1), (1, 1), (1, 1), 1)
    )


def _convolution(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    batch, channels, height, width = image.shape
    leave = weight.flip(2, 3).transpose(0, 1).flatten(1)  # (C, 9 outputs)
    products = image.permute(0, 2, 3, 1).reshape(-1, channels) @ leave
    placed = products.float() if products.dtype == torch.bfloat16 else products  # nine of them are added
    result = F.fold(placed.view(batch, height * width, -1).transpose(1, 2), (height, width), 3, padding=1)
    return (result if bias is None else result + bias.view(-1, 1, 1)).to(products.dtype)


def _takes_transposed(image: torch.Tensor, weight: torch.Tensor, *rest: Any) -> bool:
    return (
        image.dim() == 4
        and weight.shape[1] <= THIN
        and weight.shape[2:] == (4, 4)
        and rest[1:] == ((2, 2), (1, 1), (0, 0), 1, (1, 1))
    )


def _transposed(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        precision = torch.get_autocast_dtype("cpu")
        image, weight = image.to(precision), weight.to(precision)
        bias = None if bias is None else bias.to(precision)
    return _Transposed.apply(image, weight, bias)


class _Transposed(torch.autograd.Function):
    """Only the forward pass is slow in PyTorch, so the backward pass is its own."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(image, weight)
        by_phase = F.pad(weight, [0, 1, 0, 1])[:, :, PHASES][..., PHASES]  # (C, outputs, 2, 3, 2, 3)
        filters = by_phase.permute(1, 2, 4, 0, 3, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        biases = None if bias is None else bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(image, filters, biases, padding=1), 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        needed, sizes = list(ctx.needs_input_grad), [weight.shape[1]] if ctx.needs_input_grad[2] else None
        of_all: tuple[torch.Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient, image, weight, sizes, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, needed
        )
        return of_all


LAYERS: dict[Any, tuple[Callable[..., bool], Callable[..., torch.Tensor]]] = {
    F.linear: (_takes_linear, _Linear.apply),
    F.conv2d: (_takes_convolution, _convolution),
    F.conv_transpose2d: (_takes_transposed, _transposed),
}
