"""Handler that shows how far a training is."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from tqdm.auto import tqdm

__all__ = ["EpochProgress"]


class EpochProgress:
    """Show one progress bar over a trainer's epochs, or over the batches of a single one, with the time left.

    Epochs of an earlier run count as done but not towards the speed (Ignite's own bar mixes the two). Of several
    processes the first one shows it.

    Args:
        description: what is being trained.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None
        self._single = False

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._advance)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance_within)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Any) -> None:
        if self.bar is None:
            self._single = engine.state.max_epochs == 1
            unit = "batches" if self._single else "epochs"
            bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} " + unit
            self.bar = tqdm(
                desc=self.description,
                total=engine.state.epoch_length if self._single else engine.state.max_epochs,
                initial=engine.state.epoch - 1,
                disable=idist.get_rank() > 0,
                bar_format=bar_format + " [{elapsed}, {remaining} left{postfix}]",
            )

    def _advance(self, engine: Any) -> None:
        assert self.bar is not None
        self.bar.set_postfix(engine.state.metrics, refresh=self._single)
        if not self._single:
            self.bar.update()

    def _advance_within(self, engine: Any) -> None:
        if self.bar is not None and self._single:
            self.bar.update()

    def _close(self, engine: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
