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
    """A training step that, on request, is recorded at its first call and replayed at the next ones.

    The numbers are those of the plain step. It is recorded and replayed on a stream of its own, beside others; what
    follows on the current stream waits for it by :meth:`wait`. It is recorded anew when the learning rate or the place
    of a tensor in memory has changed. Where it cannot be recorded (no GPU, another optimizer than Adam and AdamW, a
    driver that refuses), it is computed plainly each time.

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
        enabled: bool = False,
    ) -> None:
        self.step = step
        self.tensors = tensors
        self.optimizer = optimizer
        self.device = next(iter(tensors())).device
        known = isinstance(optimizer, torch.optim.Adam)  # or AdamW; their state begins with zeros, as _restore takes it
        self.enabled = enabled and self.device.type == "cuda" and known
        self._stream = torch.cuda.Stream(self.device) if self.enabled else None
        self._graph: Any = None
        self._recorded_with: object = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Make one step."""
        if self.enabled and self._recorded_with != self._fixed():
            self._try_to_record(inputs)
        if self._graph is None:
            return self.step(*inputs)
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for place, value in zip(self._inputs, inputs):
                place.copy_(value, non_blocking=True)
            self._graph.replay()
            torch.autograd.graph.increment_version(list(self.tensors()))  # which a replay does not
            return self._losses.clone()

    def wait(self) -> None:
        """Let what follows on the current stream wait for the step."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's ``state_dict`` as any other device and step can go on with it."""
        state = self.optimizer.state_dict()
        groups = [group | {"capturable": False} if "capturable" in group else group for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`optimizer_state` returned; the step is recorded anew at the next call."""
        groups = [group | {"capturable": True} if self.enabled else group for group in state["param_groups"]]
        self.optimizer.load_state_dict(state | {"param_groups": groups})
        self._graph = self._recorded_with = None

    def _fixed(self) -> object:
        """Return what a recorded step holds for good."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return rates, [tensor.data_ptr() for tensor in self.tensors()]

    def _try_to_record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self._graph = None
        with torch.no_grad():
            before = [tensor.clone() for tensor in self.tensors()]
        state = copy.deepcopy(self.optimizer.state_dict()["state"])
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream):  # left also by a failed capture
                self._record(inputs)
        except RuntimeError as error:
            logger.warning(f"The training step cannot be recorded as a CUDA graph ({type(error).__name__}).")
            self.enabled, self._stream = False, None
        torch.cuda.synchronize(self.device)
        self._restore(before, state)
        self._recorded_with = self._fixed()

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """Record on the current stream."""
        assert self._stream is not None
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        torch.cuda.synchronize(self.device)
        self._inputs = [value.clone() for value in inputs]
        for _ in range(WARM_UP):
            self.step(*self._inputs)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
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
