"""Training steps recorded once as a CUDA graph, since launching their many small kernels takes longer than they do."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["GraphedStep"]

logger = logging.getLogger(__name__)

WARM_UP = 3  # steps before recording, as PyTorch's notes on CUDA graphs advise


class GraphedStep:
    """A training step that is recorded at its first call and replayed at the next ones.

    The numbers are those of the plain step. Where it cannot be recorded (no GPU, another optimizer than Adam and AdamW,
    a driver that refuses), it is computed plainly each time.

    Args:
        step: takes tensors of fixed shapes, makes one step of training, returns its losses.
        tensors: returns the parameters and buffers that the step changes, always the same ones.
        optimizer: the optimizer that the step calls; its parameters are among the tensors.
        enabled: False never records.
    """

    def __init__(
        self,
        step: Callable[..., torch.Tensor],
        tensors: Callable[[], Iterable[torch.Tensor]],
        optimizer: torch.optim.Optimizer,
        enabled: bool = True,
    ) -> None:
        self.step = step
        self.tensors = tensors
        self.optimizer = optimizer
        device = next(iter(tensors())).device
        known = isinstance(optimizer, torch.optim.Adam)  # or AdamW; their state begins with zeros, as _restore takes it
        self.enabled = enabled and device.type == "cuda" and known
        self._graph: Any = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Make one step."""
        if self.enabled and self._graph is None:
            self._try_to_record(inputs)
        if self._graph is None:
            return self.step(*inputs)
        for place, value in zip(self._inputs, inputs):
            place.copy_(value, non_blocking=True)
        self._graph.replay()
        torch.autograd.graph.increment_version(list(self.tensors()))  # which a replay does not
        return self._losses.clone()

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's ``state_dict`` as any other device and step can go on with it."""
        state = self.optimizer.state_dict()
        groups = [group | {"capturable": False} if "capturable" in group else group for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`optimizer_state` returned; the step is recorded anew at the next call."""
        groups = [group | {"capturable": True} if self.enabled else group for group in state["param_groups"]]
        self.optimizer.load_state_dict(state | {"param_groups": groups})
        self._graph = None

    def _try_to_record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        with torch.no_grad():
            before = [tensor.clone() for tensor in self.tensors()]
        state = copy.deepcopy(self.optimizer.state_dict()["state"])
        try:
            self._record(inputs)
        except RuntimeError as error:
            logger.warning(f"The training step cannot be recorded as a CUDA graph ({type(error).__name__}).")
            self._graph, self.enabled = None, False
            torch.cuda.synchronize()
        self._restore(before, state)

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        self._inputs = [value.clone() for value in inputs]
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.step(*self._inputs)
        current.wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._losses = self.step(*self._inputs)
        self._graph = graph

    @torch.no_grad()
    def _restore(self, before: list[torch.Tensor], state: dict[int, dict[str, Any]]) -> None:
        """Undo the steps of the warm-up, in the tensors that the graph was recorded with."""
        for tensor, value in zip(self.tensors(), before):
            tensor.copy_(value)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            for name, value in self.optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    value.copy_(state[number][name]) if number in state else value.zero_()
