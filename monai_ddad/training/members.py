"""One network of an ensemble in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from monai_ddad.networks import AE
from monai_ddad.networks.cpu_layers import CPULayers
from monai_ddad.training.graphed import GraphedStep
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["AllOptimizers", "MakeOptimizer", "Member"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Context = Callable[[], AbstractContextManager]


class Member:
    """One network with an optimizer of its own.

    Args:
        network: the network.
        optimizer: makes an optimizer from its parameters.
        images: (N, C, H, W) uint8 training images, on the network's device.
        autocast: opens the context of the precision.
        graph: on a GPU, record the step as a CUDA graph, which runs beside those of other members.

    Source: MedIA 2023, section 3.2 (members are independent).
    """

    def __init__(
        self, network: AE, optimizer: MakeOptimizer, images: torch.Tensor, autocast: Context, graph: bool = False
    ) -> None:
        self.network = network
        self.optimizer = optimizer(network.parameters())
        self.images = images
        self.autocast = autocast
        self.graphed = GraphedStep(self._step, lambda: network.state_dict().values(), self.optimizer, graph)

    def step(self, positions: torch.Tensor) -> torch.Tensor:
        """Train on (B,) positions of images; return the () loss."""
        return self.graphed(positions)

    def _step(self, positions: torch.Tensor) -> torch.Tensor:
        images = normalise(self.images[positions])
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast(), CPULayers():
            loss = self.network.training_loss(images)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer."""
        return self.graphed.optimizer_state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`state` returned."""
        self.graphed.load_optimizer_state(state)


class AllOptimizers(torch.optim.Optimizer):
    """The optimizers of all members as one, for what sets their rate, such as PyTorch's schedules.

    Args:
        optimizers: those of the members.

    Example:
        >>> layers = [nn.Linear(2, 2) for _ in range(3)]
        >>> each = [torch.optim.Adam(layer.parameters(), lr=0.1) for layer in layers]
        >>> schedule = torch.optim.lr_scheduler.ExponentialLR(AllOptimizers(each), gamma=0.5)
        >>> _ = schedule.optimizer.step()
        >>> schedule.step()
        >>> [one.param_groups[0]["lr"] for one in each]
        [0.05, 0.05, 0.05]
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)  # whose groups are others after a checkpoint was loaded
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters of all, with their rates."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Any = None) -> None:
        """Step with all; the trainer itself steps with each."""
        for optimizer in self.optimizers:
            optimizer.step(closure)
