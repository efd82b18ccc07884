"""Handler that shows how far a training is."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from tqdm.auto import tqdm

__all__ = ["EpochProgress"]


class EpochProgress:
    """Show one progress bar over a trainer's epochs, with its metrics and the time left.

    Epochs of an earlier run count as done but not towards the speed (Ignite's own bar mixes the two). Of several
    processes the first one shows it.

    Args:
        description: what is being trained.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Any) -> None:
        if self.bar is None:
            bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs "
            self.bar = tqdm(
                desc=self.description,
                total=engine.state.max_epochs,
                initial=engine.state.epoch - 1,
                disable=idist.get_rank() > 0,
                bar_format=bar_format + "[{elapsed}, {remaining} left{postfix}]",
            )

    def _advance(self, engine: Any) -> None:
        assert self.bar is not None
        self.bar.set_postfix(engine.state.metrics, refresh=False)
        self.bar.update()

    def _close(self, engine: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
