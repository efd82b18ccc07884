"""Known normals set aside for calibration."""

from __future__ import annotations

import logging

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from monai_ddad.data.resident import ResidentDataset, keys_of
from monai_ddad.io.errors import DataError
from monai_ddad.networks.calibration import groups_to_flag
from monai_ddad.networks.plus import MIN_GROUPS

__all__ = ["find_groups", "hold_out"]

logger = logging.getLogger(__name__)

USUAL = 30  # items set aside for calibration
USUAL_ALPHA = 0.05


def hold_out(
    dataset: ResidentDataset,
    share: float = 0.1,
    at_least: int | None = USUAL,
    seed: int = 0,
    alpha: float = 0.05,
) -> tuple[ResidentDataset, ResidentDataset]:
    """Set known normals aside that no network is to see.

    What belongs together stays on one side: the slices of a volume, items of one ``"group"`` (a patient), and pictures
    of equal content. Groups are taken in a random order, whatever their size, until there are enough images, so that
    the last may bring more than was asked for; but at most half of the known normals are set aside. Groups with
    unlabelled images stay in training.

    With few known normals learning comes first: where ``at_least`` is None, :data:`~monai_ddad.networks.MIN_GROUPS`
    groups stay in training, which is what it takes to learn all scores, and at least as many groups are set aside as it
    takes to flag anything at ``alpha``; where there are not even enough of them for a rate of .05, none are.

    Args:
        dataset: known normal (label 0) and unlabelled (None) images.
        share: part of the known normals to set aside, in [0, 1); 0 sets none aside.
        at_least: items to set aside where ``share`` is not 0; None for :data:`USUAL` or, of few, none.
        seed: seed of the choice.
        alpha: false-positive rate at which an image is to be flagged, in [0, 1].

    Returns:
        the images to train on, and those that are set aside.

    Raises:
        DataError: ``share`` or ``at_least`` is outside its range.

    Example:
        >>> import torch
        >>> items = [{"image": value, "label": 0 if value < 40 else None} for value in range(50)]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 8, 8), item["image"] / 50)})
        >>> training, calibration = hold_out(data, at_least=10)
        >>> len(training), len(calibration), set(calibration.labels)
        (40, 10, {0})
    """
    if not 0 <= share < 1 or (at_least is not None and at_least < 0):
        raise DataError(
            f"calibration_share must be in [0, 1) and calibration_minimum at least 0, got {share} and {at_least}."
        )
    if share == 0:
        return dataset, dataset.subset([])
    number = len({position for position, own in zip(dataset.positions, dataset.labels) if own == 0})
    automatic = at_least is None
    wanted = max(USUAL if at_least is None else at_least, round(share * number))
    if wanted > number // 2:
        wanted = number // 2
        if number and not automatic:
            logger.warning(f"Only {wanted} of the {number} known normals are set aside for calibration, half of them.")
    groups = find_groups(dataset)
    others = {group for group, own in zip(groups, dataset.labels) if own != 0}
    members: dict[int, set[int]] = {}  # positions of the items of each group
    for group, position in zip(groups, dataset.positions):
        if group not in others:
            members.setdefault(group, set()).add(position)
    spare = len({group for group, own in zip(groups, dataset.labels) if own == 0}) - MIN_GROUPS * automatic
    least, target = (groups_to_flag(max(alpha, USUAL_ALPHA)), groups_to_flag(alpha)) if automatic else (0, 0)
    target = target if target <= min(spare, number // 2) else least
    chosen: set[int] = set()
    held = 0
    for group in np.random.default_rng(seed).permutation(list(members)).tolist():
        enough = held >= wanted and len(chosen) >= target
        if enough or held + len(members[group]) > number // 2 or len(chosen) >= spare:
            break
        chosen.add(group)
        held += len(members[group])
    if len(chosen) < least:
        chosen = set()
        logger.warning(
            f"None of the {number} known normals are set aside for calibration, so images are scored but not flagged: "
            f"it takes {MIN_GROUPS + least} of them, each patient or volume counted once, {MIN_GROUPS} to learn from "
            f"and {least} to flag by."
        )
    elif held < wanted:
        logger.warning(
            f"{held} instead of {wanted} known normals are set aside for calibration: groups are kept together, and "
            "those with both known normals and unlabelled images stay in training."
        )
    sides: tuple[list[int], list[int]] = ([], [])
    for index, group in enumerate(groups):
        sides[group in chosen].append(index)
    return dataset.subset(sides[0]), dataset.subset(sides[1])


def find_groups(dataset: ResidentDataset) -> list[int]:
    """Find the images that belong together: slices of a volume, a patient's images, equal pictures.

    Args:
        dataset: the images; an item's ``"group"`` names its patient.

    Returns:
        (N,) a number an image, equal for those that belong together.

    Example:
        >>> import torch
        >>> items = [{"image": 0.1, "group": "a"}, {"image": 0.2}, {"image": 0.3, "group": "a"}]
        >>> data = ResidentDataset(items, lambda item: {"image": torch.full((1, 8, 8), item["image"])})
        >>> find_groups(data)
        [0, 1, 0]
    """
    first: dict[object, int] = {}
    links = []
    for index, position in enumerate(dataset.positions):
        group = dataset.data[position].get("group")
        keys: list[tuple[str, object]] = [("item", position)]
        keys += [("content", keys_of(dataset.images[index : index + 1])[0])] if dataset.slices[index] is None else []
        keys += [] if group is None else [("group", group)]
        links += [(index, first.setdefault(key, index)) for key in keys]
    rows, columns = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(dataset), len(dataset)))
    return connected_components(graph, directed=False)[1].tolist()
