"""Handler that stops a training whose loss or weights are NaN or infinite."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from ignite.engine import Events

__all__ = ["StopOnNonFinite"]


class StopOnNonFinite:
    """Raise at the step in which a network's loss is NaN or infinite, before anything is saved.

    Reads ``state.output[0]["losses"]``, losses by network name, after each step, and the weights of ``engine.network``
    after each epoch, since the last step may have destroyed them. Goes before the handler that saves checkpoints.

    Raises:
        FloatingPointError: naming the network, epoch and step.
    """

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.check_losses)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check_weights)

    def check_losses(self, engine: Any) -> None:
        """Check the losses of the step."""
        bad = [name for name, loss in engine.state.output[0]["losses"].items() if not torch.isfinite(loss)]
        if bad:
            step = (engine.state.iteration - 1) % engine.state.epoch_length + 1
            self._stop(f"the loss of {', '.join(bad)} is not finite at epoch {engine.state.epoch}, step {step}")

    def check_weights(self, engine: Any) -> None:
        """Check the weights at the end of the epoch."""
        for name, value in engine.network.state_dict().items():
            if not torch.isfinite(value).all():
                self._stop(f"the weight {name} is not finite at the end of epoch {engine.state.epoch}")

    def _stop(self, finding: str) -> NoReturn:
        raise FloatingPointError(
            f"{finding}. Nothing of this epoch was saved; lower the learning rate, or look for extreme values in the "
            "training images."
        )
