"""Handler that shows how far a training is."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from ignite.handlers.tqdm_logger import ProgressBar

__all__ = ["EpochProgress"]


class EpochProgress:
    """Show one progress bar over a trainer's epochs, with its metrics and the time left.

    Args:
        description: what is being trained.
    """

    def __init__(self, description: str) -> None:
        bar_format = f"{description}: {{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} epochs "
        self.bar = ProgressBar(persist=True, bar_format=bar_format + "[{elapsed}, {remaining} left{postfix}]")

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        self.bar.attach(
            engine,
            metric_names="all",
            event_name=Events.EPOCH_COMPLETED,
            closing_event_name=Events.COMPLETED,
        )
