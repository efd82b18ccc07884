"""What trains the members of the ensembles: which process, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ignite.distributed as idist
import torch

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.io.errors import DataError
from monai_ddad.networks import AE, DDADNet
from monai_ddad.ranks import assign
from monai_ddad.seeding import epoch_order
from monai_ddad.training.members import Member

__all__ = ["MODULES", "Entry", "Unit", "list_entries", "make_units", "plan_turns", "require_both_kinds"]

MODULES = ("ndm", "udm")


@dataclass(frozen=True)
class Entry:
    """A member of a module: where it stands and what it costs."""

    module: str
    index: int
    network: AE
    steps: int  # an epoch
    rank: int  # of the process that trains it

    @property
    def name(self) -> str:
        """Name of the member in checkpoints and messages."""
        return f"{self.module}[{self.index}]"


@dataclass
class Unit:
    """A member that this process trains."""

    entry: Entry
    member: Member
    positions: torch.Tensor  # in the data set, of the module's images
    order: torch.Tensor = field(
        default_factory=lambda: torch.zeros(0, dtype=torch.long)
    )  # (steps, batch) of this epoch


def list_entries(
    network: DDADNet, positions: dict[str, torch.Tensor], batch_size: int, modules: Sequence[str]
) -> list[Entry]:
    """Return all members, those that are to be trained spread evenly over the processes.

    Args:
        network: the model.
        positions: of each module's images.
        batch_size: images a step.
        modules: those to train.
    """
    found = [
        (module, index, member, len(epoch_order(len(positions[module]), batch_size, seed=0)))
        for module in MODULES
        for index, member in enumerate(getattr(network, module).members)
    ]
    ranks = assign([steps if module in modules else 0 for module, *_, steps in found], idist.get_world_size())
    return [Entry(*entry, rank=rank) for entry, rank in zip(found, ranks)]


def make_units(
    entries: Sequence[Entry],
    positions: dict[str, torch.Tensor],
    modules: Sequence[str],
    make: Callable[[AE], Member],
) -> list[Unit]:
    """Return what this process trains.

    Args:
        entries: all members.
        positions: of each module's images.
        modules: those to train.
        make: makes what steps from a network.
    """
    return [
        Unit(entry, make(entry.network), positions[entry.module])
        for entry in entries
        if entry.rank == idist.get_rank() and entry.module in modules
    ]


def plan_turns(steps: Sequence[int], side_by_side: int) -> list[list[tuple[int, int]]]:
    """Return the turns of an epoch: which units step side by side, and which of its steps each takes.

    Those with the most steps left go first, so that all cores have work until the end.

    Args:
        steps: of each unit.
        side_by_side: units that step at once.

    Example:
        >>> plan_turns([1, 2], side_by_side=1)
        [[(1, 0)], [(0, 0)], [(1, 1)]]
    """
    left = list(steps)
    turns = []
    while any(left):
        chosen = sorted((i for i, number in enumerate(left) if number), key=lambda i: -left[i])[:side_by_side]
        turns.append([(i, steps[i] - left[i]) for i in chosen])
        for i in chosen:
            left[i] -= 1
    return turns


def require_both_kinds(dataset: ResidentDataset, in_channels: int, least: int = 2) -> None:
    """Refuse images that NDM and UDM cannot be trained on.

    Args:
        dataset: known normal (label 0) and unlabelled (None) images.
        in_channels: of the network.
        least: images of each kind.

    Raises:
        DataError: fewer of a kind, or images of other channels.
    """
    normal = dataset.labels.count(0)
    if min(normal, len(dataset) - normal) < least:
        raise DataError(
            f"training needs at least {least} known normal and {least} unlabelled images, got {normal} and "
            f"{len(dataset) - normal}."
        )
    if len(dataset) and dataset.images.shape[1] != in_channels:
        raise DataError(
            f"the prepared images have {dataset.images.shape[1]} channels and the network expects {in_channels}: set "
            "in_channels to the former."
        )
