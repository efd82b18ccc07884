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

__all__ = ["MakeOptimizer", "Member"]

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
