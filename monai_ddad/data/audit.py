"""Checks of a data set before anything is trained or scored on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from monai_ddad.data.copies import BLOCK, NEAR_COPY, standardise
from monai_ddad.data.resident import ResidentDataset, keys_of
from monai_ddad.io.errors import DataError

__all__ = ["Audit", "audit", "check_scored"]

logger = logging.getLogger(__name__)

SHOWN = 10  # positions named in a warning
LISTED = 50  # unreadable files of a set named one by one in an error


@dataclass
class Audit:
    """What the checks found.

    Attributes:
        warnings: sentences with counts.
        duplicate: for each test image, whether its content is also among the training images.
        near_copy: for each test image, whether a training image correlates with it above the threshold; includes
            duplicates.
    """

    warnings: list[str] = field(default_factory=list)
    duplicate: list[bool] = field(default_factory=list)
    near_copy: list[bool] = field(default_factory=list)


def audit(
    training: ResidentDataset | None = None,
    test: ResidentDataset | None = None,
    calibration: ResidentDataset | None = None,
    test_required: bool = False,
    trained_on: str | None = None,
    skip_unreadable: bool = False,
    near_copy: float = NEAR_COPY,
    least: int = 2,
) -> Audit:
    """Check the training and test images and log what only makes results optimistic.

    Args:
        training: known normal (label 0) and unlabelled (None) images; None where nothing is trained.
        test: images to score; None where nothing is scored.
        calibration: known normals set aside from the training images; a copy of one counts like one of those.
        test_required: an empty test set is an error.
        trained_on: ``sha256`` of the training images that the model to be evaluated has seen.
        skip_unreadable: files that cannot be read are a counted warning, as long as there are others.
        near_copy: correlation with a training image above which a test image is a near copy, in (0, 1).
        least: training images of each kind that are needed.

    Returns:
        warnings and duplicate flags.

    Raises:
        ValueError: ``near_copy`` is not in (0, 1).
        DataError: a run would be meaningless: unreadable files, no known normal or unlabelled images, the same file
            listed for training and test, or as normal and abnormal, no test images. One message lists all problems,
            by position in the list.

    Example:
        >>> audit(ResidentDataset([], dict))
        Traceback (most recent call last):
            ...
        monai_ddad.io.errors.DataError: the data cannot be used:
        - training has 0 known normal images, at least 2 are needed
        - training has 0 unlabelled images, at least 2 are needed
    """
    if not 0 < near_copy < 1:
        raise ValueError(f"near_copy must be in (0, 1), got {near_copy}.")
    names = ("training", "input" if training is None else "test")
    sets = {name: data for name, data in zip(names, (training, test)) if data is not None}
    skipped = skip_unreadable and all(len(data) for data in sets.values() if data.data)
    errors = [error for name, data in sets.items() for error in _check_files(name, data, skipped)]
    if training is not None:
        errors += _check_counts(training, least)
    if training is not None and test is not None:
        errors += _check_names(training, test)
    if test_required and not test:
        errors.append("there are no test images to evaluate on")
    if errors:
        raise DataError("the data cannot be used:\n" + "\n".join(f"- {error}" for error in errors))

    result = Audit()
    for name, data in sets.items():
        constant = [data.positions[i] for i, image in enumerate(data.images) if int(image.max()) == int(image.min())]
        result.warnings += _say_unreadable(name, data.errors, len(data.data))
        result.warnings += _say_content(name, constant, keys_of(data.images))
    if training is not None and trained_on not in (None, training.sha256):
        result.warnings.append("These are not the training images of the model: copies of those go unnoticed.")
    if test is not None:
        counts = [test.labels.count(label) for label in (0, 1)]
        if any(counts) and not all(counts):
            result.warnings.append(f"{counts[0]} normal and {counts[1]} abnormal test images: no AUROC can be given.")
        _find_copies(result, [data.images for data in (training, calibration) if data], test, near_copy)
    for warning in result.warnings:
        logger.warning(warning)
    return result


def check_scored(
    items: int, errors: Mapping[int, str], constant: Sequence[int], digests: Sequence[Hashable]
) -> list[str]:
    """Check what was scored, where there is no training to compare it with.

    Args:
        items: how many were asked for.
        errors: position of an item -> why it cannot be read.
        constant: positions of images that have one value alone.
        digests: hash of each image.

    Returns:
        warnings.

    Raises:
        DataError: nothing could be read; the message lists the reasons.
    """
    if errors and not digests:
        problems = _listed("input", errors, items)
        raise DataError("the data cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))
    return [*_say_unreadable("input", errors, items), *_say_content("input", constant, digests)]


def _check_files(name: str, data: ResidentDataset, skip_unreadable: bool) -> list[str]:
    errors = [] if skip_unreadable else _listed(name, data.errors, len(data.data))
    lost = [i for i, item in enumerate(data.data) if "mask" in item and not os.path.isfile(item["mask"])]
    errors += [f"the masks of {len(lost)} {name} items are missing (positions {lost[:SHOWN]})"] if lost else []
    labels: dict[str, set[int | None]] = {}
    for item in data.data:
        for file in _files(item):
            labels.setdefault(file, set()).add(item.get("label"))
    contradictory = sum({0, 1} <= found for found in labels.values())
    if contradictory:
        errors.append(f"{contradictory} files are listed as normal and as abnormal in the {name} data")
    return errors


def _files(item: dict[str, Any]) -> list[str]:
    """Return the files of an item, without links."""
    image = item["image"]
    return [os.path.realpath(path) for path in (image if isinstance(image, (list, tuple)) else [image])]


def _check_counts(training: ResidentDataset, least: int) -> list[str]:
    counts = {"known normal": training.labels.count(0), "unlabelled": training.labels.count(None)}
    return [f"training has {n} {kind} images, at least {least} are needed" for kind, n in counts.items() if n < least]


def _check_names(training: ResidentDataset, test: ResidentDataset) -> list[str]:
    places = {file: position for position, item in enumerate(training.data) for file in _files(item)}
    found = [(i, places[file]) for i, item in enumerate(test.data) for file in _files(item) if file in places]
    return [f"test item {i} is the same file as training item {j}" for i, j in dict(found).items()]


def _listed(name: str, errors: Mapping[int, str], number: int) -> list[str]:
    found = [f"{name} item {position}: {reason}" for position, reason in sorted(errors.items())]
    if len(found) > LISTED:
        found[LISTED:] = [f"{len(found) - LISTED} more of the {number} {name} items cannot be read"]
    return found


def _say_unreadable(name: str, errors: Mapping[int, str], number: int) -> list[str]:
    return [f"{len(errors)} of {number} {name} items cannot be read, and are left out."] if errors else []


def _say_content(name: str, constant: Sequence[int], contents: Sequence[Hashable]) -> list[str]:
    warnings = []
    if constant:
        warnings.append(f"{len(constant)} {name} images are constant (positions {list(constant[:SHOWN])}).")
    if repeats := len(contents) - len(set(contents)):
        warnings.append(f"{repeats} {name} images repeat the content of another {name} image.")
    return warnings


def _find_copies(result: Audit, sets: Sequence[torch.Tensor], test: ResidentDataset, near_copy: float) -> None:
    result.duplicate = result.near_copy = [False] * len(test)
    if not sets or len(test) == 0:
        return
    seen = {key for images in sets for key in keys_of(images)}
    result.duplicate = [key in seen for key in keys_of(test.images)]
    tests = standardise(test.images)
    parts = [part for images in sets for part in images.split(BLOCK)]
    closest = [(tests @ standardise(part).T).amax(dim=1) for part in parts]
    near = torch.stack(closest).amax(dim=0) > near_copy
    result.near_copy = [duplicate or bool(close) for duplicate, close in zip(result.duplicate, near)]
    for found, what in ((result.duplicate, "the content of"), (result.near_copy, "a near copy of")):
        if any(found):
            result.warnings.append(
                f"{sum(found)} of {len(test)} test images have {what} a training image: figures on all test images "
                "are optimistic, see those without them."
            )
