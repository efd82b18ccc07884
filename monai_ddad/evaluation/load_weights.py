"""Handler that loads a model's weights when a run starts."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from torch import nn

from monai_ddad.io.checkpoints import load_weights

__all__ = ["LoadWeights"]


class LoadWeights:
    """Load checked weights into a network at the start of an evaluation.

    Takes the place of MONAI's ``CheckpointLoader``, which does not tell which setting differs and takes weights that
    are not finite.

    Args:
        network: the module to fill.
        path: a file holding its state dict.

    Raises:
        CheckpointError: on start, see :func:`monai_ddad.io.checkpoints.load_weights`.
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        self.network = network
        self.path = path

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Load the weights."""
        load_weights(self.network, self.path)
