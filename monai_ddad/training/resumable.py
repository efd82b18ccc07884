"""What the trainers share: epochs that can be left and taken up again."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Trainer

from monai_ddad.machine import keep_freed_memory
from monai_ddad.networks import DDADNet
from monai_ddad.placement import set_tf32

__all__ = ["ResumableTrainer"]


class ResumableTrainer(Trainer):
    """Trainer whose draws depend on the seed and the epoch's number alone, so it can go on after any epoch.

    A subclass's ``_iteration`` takes the step's number in the epoch and returns ``[{"loss": scalar, "losses":
    {name: scalar}}]``, a list of one as MONAI's handlers expect; names up to a bracket are averaged to
    ``state.metrics["<name>_loss"]`` at the end of the epoch.

    Args:
        device: where to train.
        max_epochs: epochs to train.
        steps: steps an epoch.
        handlers: handlers to attach; of the processes of ``torchrun`` all but the first attach those alone that have an
            attribute ``every_process``, which is true. What ends or alters the training needs it.
        train: False only loads what an earlier run left.

    Attributes:
        device, precision: where and how it is computed.
        epochs: epochs done, by part of the model.
        trained: the parts that this run trains.
        target: epochs that each part is to have in the end.
        seconds: time spent in epochs so far, earlier runs included.
    """

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        steps: int,
        handlers: Sequence[Any] | None = None,
        train: bool = True,
    ) -> None:
        if not isinstance(max_epochs, int) or max_epochs < 1:
            raise ValueError(f"epochs and refine_epochs must be integers of at least 1, got {max_epochs!r}.")
        self.target = max_epochs
        self.device = device
        self.epochs: dict[str, int] = {}
        self.trained: list[str] = []
        self.seconds = 0.0
        self._losses: dict[str, list[torch.Tensor]] = {}
        self.precision: str
        self.network: DDADNet
        super().__init__(
            device=device,
            max_epochs=max_epochs if train else 0,
            data_loader=range(steps),
            handlers=[own for own in handlers or [] if idist.get_rank() == 0 or getattr(own, "every_process", False)],
            decollate=False,
        )
        self.add_event_handler(Events.EPOCH_STARTED, ResumableTrainer._begin)
        self.add_event_handler(Events.ITERATION_COMPLETED, ResumableTrainer._collect)

    def run(self) -> None:
        """Train to ``max_epochs``, from where the checkpoint handler found an earlier run."""
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.state.max_epochs == 0:
            self.fire_event(Events.STARTED)
        else:
            super().run()

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of another run to be continued by this one."""

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Draw all that is random in the epoch."""

    @abstractmethod
    def training_state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on after this epoch."""

    @abstractmethod
    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`training_state` returned."""

    @property
    def unfinished(self) -> dict[str, str]:
        """The parts that are not trained to the end, with what is done: ``{"udm": "10 of 250 epochs"}``."""
        return {part: f"{done} of {self.target} epochs" for part, done in self.epochs.items() if done < self.target}

    def continue_after(self, epoch: int) -> None:
        """Let the next epoch be ``epoch + 1``."""
        self.state.epoch = epoch
        self.state.iteration = epoch * self.state.epoch_length

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._losses = {}
        set_tf32(self.device, self.precision)  # anew, as a validation in another precision may have come between
        self.network.mark_loaded()  # or will be at the end of the epoch, when others look
        self.start_epoch(self.state.epoch)

    def _collect(self) -> None:
        for name, loss in self.state.output[0]["losses"].items():
            self._losses.setdefault(f"{name.split('[')[0]}_loss", []).append(loss)
        if self.state.iteration % self.state.epoch_length == 0:
            self.state.metrics.update(self._means())
            for part in self.trained:
                self.epochs[part] = max(self.epochs[part], self.state.epoch)
            self.seconds += time.perf_counter() - self._started

    def _means(self) -> dict[str, float]:
        """Return the mean losses of the epoch, over all processes."""
        means = {name: (float(torch.stack(losses).mean()), len(losses)) for name, losses in self._losses.items()}
        found: list[dict[str, tuple[float, int]]] = [means]
        if idist.get_world_size() > 1:
            found = cast(list[Any], idist.all_gather(means))
        joined: dict[str, tuple[float, int]] = {}
        for name, (mean, number) in (item for part in found for item in part.items()):
            total, count = joined.get(name, (0.0, 0))
            joined[name] = total + mean * number, count + number
        return {name: total / count for name, (total, count) in sorted(joined.items())}


def hyperparameters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's name and settings as plain values."""
    return {"name": type(optimizer).__name__} | {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in optimizer.defaults.items()
        if isinstance(value, (int, float, bool, tuple, list, str))
    }
