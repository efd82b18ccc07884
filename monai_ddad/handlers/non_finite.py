"""Handler that stops a training whose loss is NaN or infinite."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events

__all__ = ["StopOnNonFinite"]


class StopOnNonFinite:
    """Raise at the step in which a network's loss is NaN or infinite, before anything is saved.

    Reads ``state.output["losses"]``, losses by network name.

    Raises:
        FloatingPointError: naming the network, epoch and step.
    """

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Check the losses of the step."""
        bad = [name for name, loss in engine.state.output["losses"].items() if not torch.isfinite(loss)]
        if bad:
            step = (engine.state.iteration - 1) % engine.state.epoch_length + 1
            raise FloatingPointError(
                f"the loss of {', '.join(bad)} is not finite at epoch {engine.state.epoch}, step {step}. Nothing of "
                "this epoch was saved; lower the learning rate, or look for extreme values in the training images."
            )
