"""The audit of a whole data set: what is in it, what repeats, and what tells the classes apart besides disease."""

from __future__ import annotations

import logging
from itertools import product
from typing import Any

import numpy as np
import torch

from monai_ddad.data.copies import NEAR_COPY, Copies, find_copies, worst_pairs
from monai_ddad.evaluation.survey.differences import compare_classes
from monai_ddad.evaluation.survey.page import draw_pairs, write_page
from monai_ddad.evaluation.survey.survey import TEST, TRAINING, Survey, describe_splits, survey_dataset
from monai_ddad.evaluation.tables import write_json
from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import Staging

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

NORMAL, ABNORMAL = ("known_normal", "unlabelled_normal", "test_normal"), ("unlabelled_abnormal", "test_abnormal")
PAIRS = 8  # pairs drawn of each kind


def write_report(
    dataset_dir: str,
    output_dir: str,
    image_size: int = 64,
    near_copy: float = NEAR_COPY,
    file_names: bool = False,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Examine a data set, log what stands out and write ``audit.json``, ``audit.md`` and ``worst_pairs.png``.

    Args:
        dataset_dir: see :func:`monai_ddad.data.load_datalist`, as are its errors.
        output_dir: folder to write to; it is made where missing.
        image_size: side in pixels at which images are compared.
        near_copy: correlation above which an image is a near copy, in (0, 1).
        file_names: list the files by position in ``audit.json``; otherwise no file name is written.
        num_workers: decoding threads; None takes one a core.

    Returns:
        the content of ``audit.json``. Images are named by their position in the training or the test list.

    Raises:
        DataError: a number is outside its range, or the data set lists no image.

    Example:
        >>> import os, tempfile
        >>> from monai_ddad.data.phantom import write_phantom_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = write_phantom_dataset(f"{folder}/data", normal=3, unlabeled=2, test=2, side=32)
        ...     report = write_report(str(data), f"{folder}/audit")
        ...     sorted(os.listdir(f"{folder}/audit")), report["copies_across_splits"]
        (['audit.json', 'audit.md', 'worst_pairs.png'], 0)
    """
    if image_size < 8 or not 0 < near_copy < 1:
        raise DataError(f"image_size must be 8 or more and near_copy in (0, 1), got {image_size} and {near_copy}.")
    survey = survey_dataset(dataset_dir, image_size, num_workers)
    thumbnails = np.array([image.thumbnail for image in survey.images], dtype=np.uint8)
    thumbnails = thumbnails.reshape(-1, image_size, image_size)
    splits = np.array([survey.splits.index(place["split"]) for place in survey.places], dtype=int)
    files, contents = [image.file for image in survey.images], [image.content for image in survey.images]
    copies = find_copies(torch.from_numpy(thumbnails), splits, len(survey.splits), files, contents)
    pairs = {
        kind: [((pair.first, pair.second), pair.correlation) for pair in chosen]
        for kind, chosen in worst_pairs(copies, splits, PAIRS, near_copy).items()
    }
    test_copies = _test_copies(copies, survey, near_copy)
    report: dict[str, Any] = {
        "image_size": image_size,
        "near_copy": near_copy,
        "splits": describe_splits(survey),
        "left_out": dict(survey.left_out),
        "copies": _matrices(copies, splits, survey.splits, near_copy),
        "copies_across_splits": len(test_copies),
        "test_copies": test_copies,
        "worst_pairs": {
            kind: [{"images": [survey.places[i] for i in two], "correlation": r} for two, r in chosen]
            for kind, chosen in pairs.items()
        },
        "differences": _differences(survey),
    }
    report["warnings"] = _warnings(report)
    for warning in report["warnings"]:
        logger.warning(warning)
    if file_names:
        report["files"] = survey.files
    pictures = {kind: [thumbnails[list(two)] for two, _ in chosen] for kind, chosen in pairs.items()}
    with Staging(output_dir, {"": r"audit\.(json|md)|worst_pairs\.png"}) as folder:
        write_json(report, folder / "audit.json")
        write_page(report, folder / "audit.md")
        draw_pairs(report["worst_pairs"], pictures, folder / "worst_pairs.png")
    return report


def _matrices(
    copies: Copies, splits: np.ndarray, names: list[str], near_copy: float
) -> dict[str, dict[str, dict[str, int]]]:
    """Count, by kind of copy, the images of each split (row) that have another one in each split (column)."""
    kinds = {
        "same_file": copies.same_file >= 0,
        "same_content": copies.same_content >= 0,
        "near_copy": copies.near(near_copy),
    }
    return {
        kind: {
            row: {column: int(found[splits == r, c].sum()) for c, column in enumerate(names)}
            for r, row in enumerate(names)
        }
        for kind, found in kinds.items()
    }


def _test_copies(copies: Copies, survey: Survey, near_copy: float) -> list[dict[str, Any]]:
    """List the test images that have a copy in the training data, with the closest one."""
    training = [column for column, split in enumerate(survey.splits) if split in TRAINING]
    found = []
    for i, place in enumerate(survey.places):
        pair = copies.worst(i, training) if place["list"] == "test" else None
        if pair is not None and (pair.same or pair.correlation > near_copy):
            positions = {"test": place["position"], "training": survey.places[pair.second]["position"]}
            found.append(positions | {"correlation": pair.correlation, "same": pair.same})
    return found


def _differences(survey: Survey) -> dict[str, dict[str, Any]]:
    measures: dict[str, list[dict[str, float]]] = {split: [] for split in (*TRAINING, *TEST)}
    for place, image in zip(survey.places, survey.images):
        measures[place["split"]].append(image.measures)
    unlabelled = [image for split in TRAINING[1:] for image in measures[split]]
    return {
        "test_normal_against_test_abnormal": compare_classes(measures["test_normal"], measures["test_abnormal"]),
        "known_normal_against_unlabelled": compare_classes(measures["known_normal"], unlabelled),
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    splits, warnings = report["splits"], []
    unreadable = sum(len(split["unreadable"]) for split in splits.values())
    if unreadable:
        warnings.append(f"{unreadable} of {sum(split['images'] for split in splits.values())} images cannot be read.")
    tests = sum(splits[split]["images"] for split in TEST if split in splits)
    same = sum(pair["same"] != "" for pair in report["test_copies"])
    if same:
        warnings.append(
            f"{same} of {tests} test images have the content of a training image: figures on all test images are "
            "optimistic."
        )
    if len(report["test_copies"]) > same:
        warnings.append(
            f"{len(report['test_copies']) - same} of {tests} test images are near copies of a training image "
            f"(correlation above {report['near_copy']}): see worst_pairs.png, pictures of one layout can be as alike "
            "without being of one patient."
        )
    for normal, abnormal in product(NORMAL, ABNORMAL):
        count = report["copies"]["same_content"].get(normal, {}).get(abnormal, 0)
        if count:
            warnings.append(f"{count} images of {normal} are in {abnormal} too: one of their labels is wrong.")
    for comparison, measures in report["differences"].items():
        notable = {name: found["auroc"] for name, found in measures.items() if found["notable"]}
        if notable:
            listed = ", ".join(f"{name} (AUROC {max(area, 1 - area):.3f})" for name, area in notable.items())
            warnings.append(
                f"{comparison}: they differ in {listed}. A detector could score this well without looking at the "
                "disease."
            )
    return warnings
