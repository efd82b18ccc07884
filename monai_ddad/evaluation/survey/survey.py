"""All images of a data set, measured, and what each split holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ddad.data.datalist import Item, load_datalist, read_split
from monai_ddad.evaluation.survey.properties import ImageProperties, read_properties
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import LeftOut
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.writing import printable
from monai_ddad.machine import available_cores
from monai_ddad.transforms import ImageReadError

__all__ = ["TEST", "TRAINING", "Survey", "describe_splits", "survey_dataset"]

TRAINING = ("known_normal", "unlabelled", "unlabelled_normal", "unlabelled_abnormal")
TEST = ("test_normal", "test_abnormal")
SPREAD = ("width", "height", "aspect", "file_size", "jpeg_quality")

Place = dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """The images of a data set.

    Attributes:
        splits: names of the splits that list images, training first.
        places: for each image that could be read ``list`` (``"training"`` or ``"test"``), ``position`` and ``split``.
        images: their properties.
        unreadable: the same of the others, with the ``reason``.
        files: names of the files by list, relative to the data set.
        left_out: entries of the folders that are no images, by reason.
    """

    splits: list[str]
    places: list[Place]
    images: list[ImageProperties]
    unreadable: list[Place]
    files: dict[str, list[Any]]
    left_out: LeftOut


def survey_dataset(dataset_dir: str, image_size: int, num_workers: int | None = None) -> Survey:
    """Read and measure all images of a data set; one that cannot be read does not stop the others.

    Args:
        dataset_dir: see :func:`monai_ddad.data.load_datalist`, as are its errors.
        image_size: side of the thumbnails in pixels.
        num_workers: decoding threads; None takes one a core.

    Raises:
        DataError: the data set lists no image.
    """
    lists = load_datalist(dataset_dir)
    items = lists["training"] + lists["test"]
    if not items:
        raise DataError("the data set lists no image: there is nothing to examine.")
    root = Path(os.path.expanduser(dataset_dir))
    places = _places(lists, root / "data.json")

    def examine(item: Item) -> ImageProperties | str:
        try:
            return read_properties(item["image"], image_size)
        except ImageReadError as error:
            return str(error)

    with quiet, ThreadPoolExecutor(num_workers or available_cores()) as pool:
        found = list(zip(places, pool.map(examine, items)))
    listed = {place["split"] for place in places}
    return Survey(
        [split for split in (*TRAINING, *TEST) if split in listed],
        [place for place, image in found if not isinstance(image, str)],
        [image for _, image in found if not isinstance(image, str)],
        [place | {"reason": reason} for place, reason in found if isinstance(reason, str)],
        {name: [_relative(item["image"], root) for item in lists[name]] for name in lists},
        lists["training"].left_out + lists["test"].left_out,
    )


def describe_splits(survey: Survey) -> dict[str, dict[str, Any]]:
    """Count, split by split, what the files are.

    Args:
        survey: see :func:`survey_dataset`.

    Returns:
        by split: number of ``images``; the ``unreadable`` ones (position and reason); counts of ``formats``,
        ``modes``, ``bits`` and, for DICOM, coded values; number of ``sizes`` (width and height); smallest, median and
        largest ``width``, ``height``, ``aspect``, ``file_size`` and ``jpeg_quality`` with the number of distinct ones.
    """
    descriptions = {}
    for split in survey.splits:
        images = [image for place, image in zip(survey.places, survey.images) if place["split"] == split]
        unreadable = [place for place in survey.unreadable if place["split"] == split]
        spreads = {name: [image.measures[name] for image in images if name in image.measures] for name in SPREAD}
        coded = {name for image in images for name in image.coded}
        descriptions[split] = {
            "images": len(images) + len(unreadable),
            "unreadable": [{"position": place["position"], "reason": place["reason"]} for place in unreadable],
            "formats": _count([image.format for image in images]),
            "modes": _count([image.mode for image in images]),
            "bits": _count(["not given" if image.bits is None else str(image.bits) for image in images]),
            "sizes": len({(image.measures["width"], image.measures["height"]) for image in images}),
            **{name: _spread(values) for name, values in spreads.items() if values},
            **{name: _count([image.coded[name] for image in images if image.coded]) for name in sorted(coded)},
        }
    return descriptions


def _places(lists: Mapping[str, list[Item]], authors: Path) -> list[Place]:
    """Name each item; the authors' structure says which of the unlabelled ones are normal: they come first."""
    known = sum(item["label"] == 0 for item in lists["training"])
    normal = known + len(read_split(authors)["unlabeled normal"]) if authors.is_file() else None
    places: list[Place] = []
    for position, item in enumerate(lists["training"]):
        split = "known_normal" if item["label"] == 0 else "unlabelled"
        if split == "unlabelled" and normal is not None:
            split += "_normal" if position < normal else "_abnormal"
        places.append({"list": "training", "position": position, "split": split})
    for position, item in enumerate(lists["test"]):
        places.append({"list": "test", "position": position, "split": TEST[item["label"]]})
    return places


def _relative(source: str | Sequence[str], root: Path) -> str | list[str]:
    folder = root if root.is_dir() else root.parent
    if isinstance(source, str):
        return printable(os.path.relpath(source, folder))
    return [printable(os.path.relpath(path, folder)) for path in source]


def _count(values: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    return {name: round(value, 4) for name, value in spread.items()} | {"distinct": len(set(values))}
