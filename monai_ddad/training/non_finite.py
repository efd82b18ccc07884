"""Handler that stops a training whose loss or weights are NaN or infinite."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from ignite.engine import Events

__all__ = ["StopOnNonFinite"]


class StopOnNonFinite:
    """Raise when a network's loss is NaN or infinite, before anything is saved.

    Reads ``state.output[0]["losses"]``, losses by network name, after each step, and the weights of ``engine.network``
    after each epoch, since the last step may have destroyed them. Goes before the handler that saves checkpoints.
    Losses on a GPU are looked at when the epoch ends, as waiting for each would slow the training down.

    Raises:
        FloatingPointError: naming the network and epoch.
    """

    every_process = True

    def __init__(self) -> None:
        self._waiting: list[dict[str, torch.Tensor]] = []

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._waiting.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.check_losses)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check_weights)

    def check_losses(self, engine: Any) -> None:
        """Check the losses of the step."""
        losses = engine.state.output[0]["losses"]
        self._waiting.append(losses)
        last = engine.state.iteration % engine.state.epoch_length == 0
        if last or not any(loss.is_cuda for loss in losses.values()):
            self._check(engine.state.epoch)

    def _check(self, epoch: int) -> None:
        steps, self._waiting = [losses for losses in self._waiting if losses], []
        finite = torch.cat([torch.stack([*losses.values()]) for losses in steps] or [torch.ones(0)]).isfinite().tolist()
        for losses in steps:
            good, finite = finite[: len(losses)], finite[len(losses) :]
            if not all(good):
                names = ", ".join(name for name, is_finite in zip(losses, good) if not is_finite)
                self._stop(f"the loss of {names} is not finite at epoch {epoch}")

    def check_weights(self, engine: Any) -> None:
        """Check the weights at the end of the epoch."""
        weights = {name: value for name, value in engine.network.state_dict().items() if value.is_floating_point()}
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        for name, good in zip(weights, finite):
            if not good:
                self._stop(f"the weight {name} is not finite at the end of epoch {engine.state.epoch}")

    def _stop(self, finding: str) -> NoReturn:
        raise FloatingPointError(
            f"{finding}. Nothing of this epoch was saved; lower the learning rate, or look for extreme values in the "
            "training images."
        )
