"""Handler that saves a run at the end of epochs and goes on from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
from ignite.engine import Events

from monai_ddad.io.checkpoints import CheckpointError, load_file, save_file

__all__ = ["ResumeCheckpoint"]

logger = logging.getLogger(__name__)

LONGEST = 10**9  # epochs


class ResumeCheckpoint:
    """Save a trainer's whole state every few epochs and load it when a run starts again.

    Works on trainers with ``epochs``, ``fingerprint``, ``training_state()`` and ``load_training_state()``. One file is
    replaced atomically, so the last good state always survives.

    Args:
        path: the checkpoint file.
        interval: epochs between saves; the last epoch is always saved.
        on_mismatch: what to do when the file is of a run with other settings or data: ``"raise"``, or ``"restart"``
            from the beginning.

    Raises:
        CheckpointError: on start, the file is damaged, of other settings or data, or trained longer than asked.
    """

    every_process = True

    def __init__(self, path: str, interval: int = 1, on_mismatch: Literal["raise", "restart"] = "raise") -> None:
        if on_mismatch not in ("raise", "restart"):
            raise ValueError(f"on_mismatch must be raise or restart, got {on_mismatch!r}.")
        self.path = Path(path)
        self.interval = interval
        self.on_mismatch = on_mismatch
        self._fingerprint: dict[str, Any] = {}
        self._saved: dict[str, int] = {}

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Any) -> None:
        """Save the trainer's state, unless the file holds this epoch already."""
        if engine.epochs != self._saved:
            state = engine.training_state()
            if idist.get_rank() == 0:
                save_file({"fingerprint": self._fingerprint, "state": state}, self.path)
            self._saved = dict(engine.epochs)

    def resume(self, engine: Any) -> None:
        """Load the state that an earlier run left, if there is one."""
        self._fingerprint = engine.fingerprint
        self._saved = dict(engine.epochs)
        if not self.path.is_file():
            return
        try:
            content = load_file(self.path)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path.name}: {error} Delete it to start that phase anew.") from None
        try:
            found, state = dict(content["fingerprint"]), content["state"]
            done = max(state["epochs"].values())
            if any(type(epochs) is not int or not 0 <= epochs < LONGEST for epochs in state["epochs"].values()):
                raise ValueError
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.path.name} is no checkpoint of a training run.") from None
        expected = self._fingerprint
        different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        shorter = done > engine.state.max_epochs > 0
        if (different or shorter) and self.on_mismatch == "restart":
            if engine.state.max_epochs > 0:
                what = f"of a run with other {', '.join(different)}" if different else f"trained for {done} epochs"
                logger.warning(f"{self.path.name} is {what}: training starts anew.")
            return
        if different:
            raise CheckpointError(
                f"{self.path.name} is of a run with other {', '.join(different)}: give another --output_dir, repeat "
                "the earlier settings to go on with that run, or delete the file to start anew."
            )
        if done > engine.state.max_epochs > 0:
            raise CheckpointError(
                f"{self.path.name} is trained for {done} epochs, {engine.state.max_epochs} were asked for: ask for at "
                "least as many, or give another --output_dir."
            )
        try:
            engine.load_training_state(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path.name} is incomplete or damaged ({type(error).__name__}).") from None
        self._saved = dict(engine.epochs)
        if engine.state.max_epochs > 0:
            logger.info(f"Going on after epoch {engine.state.epoch} of {engine.state.max_epochs}.")
