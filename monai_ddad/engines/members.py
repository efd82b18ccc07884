"""Networks of an ensemble in training: one at a time, or all of a module as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from monai_ddad.data.resident import normalise
from monai_ddad.engines.graphed import GraphedStep
from monai_ddad.networks import AE
from monai_ddad.networks.cpu_layers import CPULayers

__all__ = ["FusedMembers", "MakeOptimizer", "Member"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Context = Callable[[], AbstractContextManager]


class Member:
    """One network with an optimizer of its own.

    Args:
        network: the network.
        optimizer: makes an optimizer from its parameters.
        images: (N, C, H, W) uint8 training images, on the network's device.
        autocast: opens the context of the precision.
    """

    def __init__(self, network: AE, optimizer: MakeOptimizer, images: torch.Tensor, autocast: Context) -> None:
        self.network = network
        self.optimizer = optimizer(network.parameters())
        self.images = images
        self.autocast = autocast

    def step(self, positions: torch.Tensor) -> torch.Tensor:
        """Train on (1, B) positions of images; return the (1,) loss."""
        images = normalise(self.images[positions[0]])
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast(), CPULayers():
            loss = self.network.training_loss(images)
        loss.backward()
        self.optimizer.step()
        return loss.detach()[None]

    def states(self) -> list[dict[str, Any]]:
        """Return the state of the optimizer, as a list of one."""
        return [self.optimizer.state_dict()]

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on with what :meth:`states` returned."""
        self.optimizer.load_state_dict(states[0])


class FusedMembers:
    """The members of one module as one network: grouped convolutions, batched linear layers, one optimizer.

    The numbers are those of the members trained one by one: losses are summed, so no member's gradient holds another's,
    and the optimizer's arithmetic is by element, as that of Adam is. The members' own parameters become views of the
    stacked ones. On a GPU the step is recorded as a CUDA graph and runs on a stream of its own.

    Args:
        networks: K members of equal shape.
        optimizer: makes an optimizer from parameters.
        images: (N, C, H, W) uint8 training images, on the networks' device.
        autocast: opens the context of the precision.
        graph: record a CUDA graph, where there is a GPU.

    Source: MedIA 2023, section 3.2 (members are independent).
    """

    def __init__(
        self,
        networks: Sequence[AE],
        optimizer: MakeOptimizer,
        images: torch.Tensor,
        autocast: Context,
        graph: bool = True,
    ) -> None:
        self.networks = networks
        self.images = images
        self.autocast = autocast
        self.parameters, self.buffers = stack_module_state([_Loss(network) for network in networks])
        self.bind()
        self.template = _Loss(copy.deepcopy(networks[0])).to("meta").train()
        self.optimizer = optimizer(self.parameters.values())
        self.graphed = GraphedStep(self._step, self._tensors, self.optimizer, graph)
        self.stream = torch.cuda.Stream() if images.device.type == "cuda" else None

    @torch.no_grad()
    def bind(self) -> None:
        """Take up the members' weights as they are now and let them share memory with the stacked ones.

        What moves a network or changes its memory layout cuts that tie, so this has to follow it.
        """
        self._views = []
        for k, network in enumerate(self.networks):
            for name, value in [*network.named_parameters(), *network.named_buffers()]:
                self._views.append(value)
                stacked = self.parameters.get(f"network.{name}", self.buffers.get(f"network.{name}"))
                assert stacked is not None
                stacked[k].copy_(value)
                value.data = stacked.data[k]

    def step(self, positions: torch.Tensor) -> torch.Tensor:
        """Train on (K, B) positions of images; return the (K,) losses."""
        torch.autograd.graph.increment_version(self._views)  # which the stacked tensors do not tell
        if self.stream is None:
            return self.graphed(positions)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            return self.graphed(positions)

    def wait(self) -> None:
        """Let what follows on the current stream wait for the step."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _step(self, positions: torch.Tensor) -> torch.Tensor:
        images = normalise(self.images[positions])
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses = vmap(self._loss)(self.parameters, self.buffers, images)
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()

    def _loss(
        self, parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        return functional_call(self.template, (parameters, buffers), (images,))

    def _tensors(self) -> list[torch.Tensor]:
        return [*self.parameters.values(), *self.buffers.values()]

    def states(self) -> list[dict[str, Any]]:
        """Return the state that the optimizer of each member would have, K of them."""
        state = self.graphed.optimizer_state()
        number = len(self.networks)
        return [
            {
                "state": {
                    i: {name: _part(name, value, k) for name, value in parameter.items()}
                    for i, parameter in state["state"].items()
                },
                "param_groups": state["param_groups"],
            }
            for k in range(number)
        ]

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on with what :meth:`states` returned, or each of the members' :meth:`Member.states`."""
        first = states[0]
        stacked = {
            i: {
                name: value.clone() if name == "step" else torch.stack([state["state"][i][name] for state in states])
                for name, value in parameter.items()
            }
            for i, parameter in first["state"].items()
        }
        self.graphed.load_optimizer_state({"state": stacked, "param_groups": first["param_groups"]})


def _part(name: str, value: Any, k: int) -> Any:
    """Return the part of a stacked optimizer's value that is one member's; the number of steps is common to all."""
    if not isinstance(value, torch.Tensor):
        return value
    return (value if name == "step" else value[k]).clone()


class _Loss(nn.Module):
    """The training loss as ``forward``, which ``functional_call`` calls."""

    def __init__(self, network: AE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.training_loss(image)
