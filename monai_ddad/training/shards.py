"""One training step computed in parts, by threads and by processes, with the numbers of one computed at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["SHARDS", "Shards", "apply_sharded"]

SHARDS = 4  # parts of a batch on CPUs, whatever the number of cores and processes, which so do not change the rounding

Result = TypeVar("Result")


class Shards:
    """The parts that batches are cut into, each with a thread of its own in one of the processes.

    Parts wait for each other where they need the sum of something over the whole batch. Each thread computes on one
    core, so nothing spins while it waits. Sums are made in the order of the parts: on CPUs the result is the same bit
    by bit however many cores or (up to the number of parts) processes there are.

    Args:
        number: parts of a batch; raised to the number of processes.
        device: where they are computed.

    Attributes:
        local: the parts of this process.

    Example:
        >>> with Shards(2) as shards:
        ...     shards.run(lambda shard: shards.sum(shard, torch.tensor([shard + 1.0])).item())
        [3.0, 3.0]
    """

    def __init__(self, number: int, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        ranks, rank = idist.get_world_size(), idist.get_rank()
        self.number = max(number, ranks)
        owners = torch.arange(self.number).tensor_split(ranks)
        self.local: list[int] = owners[rank].tolist()
        self._owners = [part.tolist() for part in owners]
        self._parts: dict[int, torch.Tensor] = {}
        self._total = torch.zeros(0)
        self._barrier = threading.Barrier(len(self.local), action=self._add)

    def __enter__(self) -> Shards:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(len(self.local), initializer=self._start_thread)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def _start_thread(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        else:
            torch.set_num_threads(1)

    def run(self, function: Callable[[int], Result]) -> list[Result]:
        """Call a function with each part of this process, side by side; return what they return."""

        def guarded(shard: int) -> Result:
            try:
                return function(shard)
            except BaseException:
                self._barrier.abort()  # or the others would wait for this one
                raise

        futures = [self._pool.submit(guarded, shard) for shard in self.local]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            self._barrier.reset()
            raise error
        return [future.result() for future in futures]

    def cut(self, batch: torch.Tensor, shard: int) -> torch.Tensor:
        """Return one part of a batch, cut along its first dimension."""
        return batch.tensor_split(self.number)[shard]

    def sum(self, shard: int, part: torch.Tensor) -> torch.Tensor:
        """Return the sum of one tensor of each part; all of them have to call."""
        self._parts[shard] = part
        self._barrier.wait()
        total = self._total
        self._barrier.wait()  # until all have taken it
        return total

    def _add(self) -> None:
        """Sum what the parts have brought; at the second wait there is nothing to do."""
        if not self._parts:
            return
        parts = torch.stack([self._parts[shard] for shard in self.local])
        self._parts = {}
        if len(self._owners) > 1:
            longest = max(map(len, self._owners))
            padded = F.pad(parts.flatten(1), (0, 0, 0, longest - len(parts)))
            every = cast(torch.Tensor, idist.all_gather(padded))
            gathered = every.view(len(self._owners), longest, *parts.shape[1:])
            parts = torch.cat([gathered[rank, : len(owned)] for rank, owned in enumerate(self._owners)])
        self._total = parts.sum(dim=0)


def apply_sharded(layers: nn.Sequential, part: torch.Tensor, shards: Shards, shard: int) -> torch.Tensor:
    """Apply layers to one part of a batch, with the batch normalisations of the whole batch.

    Args:
        layers: in training mode.
        part: (b, C, H, W).
        shards: the parts.
        shard: which of them this is.

    Returns:
        (b, C', H, W), the rows of ``layers(batch)`` that are this part's.
    """
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            part = _BatchNorm.apply(part, layer.weight, layer.bias, layer, shards, shard)
        else:
            part = layer(part)
    return part


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation whose mean and variance are those of all parts.

    ``nn.SyncBatchNorm`` does this on GPUs only, and between processes only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        layer: nn.BatchNorm2d,
        shards: Shards,
        shard: int,
    ) -> torch.Tensor:
        pixels = image.numel() // image.shape[1]
        kept = torch.zeros_like(weight), torch.ones_like(weight)  # in float32, which the statistics then are too
        mean, variance = (value.double() for value in torch.batch_norm_update_stats(image, *kept, momentum=0.0))
        square = variance + mean.square()
        first, second, number = shards.sum(shard, torch.stack([mean, square, torch.ones_like(mean)]) * pixels)
        variance = (second / number - (first / number).square()).clamp(min=0).to(weight.dtype)
        mean, number = (first / number).to(weight.dtype), number.to(weight.dtype)
        if shard == shards.local[0]:
            _update(layer, mean, variance, number)
        ctx.save_for_backward(image, weight, mean, variance, number)
        ctx.eps, ctx.shards, ctx.shard = layer.eps, shards, shard
        return F.batch_norm(image, mean, variance, weight, bias, False, 0.0, layer.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, weight, mean, variance, number = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        # with mean and variance held fixed; what they depend on the image by is subtracted below
        gradient, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], image, weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True]
        )
        of_weights, of_biases = ctx.shards.sum(ctx.shard, torch.stack([of_weight, of_bias])) / number
        slope = weight * inverse.square() * of_weights
        offset = weight * inverse * of_biases - slope * mean
        shape = (1, -1, 1, 1)
        gradient.sub_(offset.view(shape).to(gradient.dtype))
        gradient.addcmul_(image, slope.view(shape).to(gradient.dtype), value=-1)
        return gradient, of_weight, of_bias, None, None, None


@torch.no_grad()
def _update(layer: nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor, number: torch.Tensor) -> None:
    """Move the running statistics, as the layer itself would."""
    assert layer.running_mean is not None and layer.running_var is not None and layer.momentum is not None
    assert layer.num_batches_tracked is not None
    layer.running_mean.lerp_(mean, layer.momentum)
    layer.running_var.lerp_(variance * number / (number - 1), layer.momentum)
    layer.num_batches_tracked.add_(1)
