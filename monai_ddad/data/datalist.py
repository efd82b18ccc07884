"""Data folders and lists in, MONAI datalists out."""

from __future__ import annotations

import json
import logging
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from monai_ddad.data.phantom import PhantomKind, write_phantom_dataset
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import (
    IMAGE_SUFFIXES,
    LeftOut,
    can_be_path,
    describe,
    find_files,
    log_left_out,
    open_regular,
)
from monai_ddad.io.series import group_series

__all__ = [
    "GROUPS",
    "Images",
    "dataset_or_phantom",
    "list_images",
    "listed_in",
    "load_datalist",
    "no_image",
    "read_split",
]

logger = logging.getLogger(__name__)

GROUPS = ("train normal", "unlabeled normal", "unlabeled abnormal", "test normal", "test abnormal")  # of data.json
LAYOUTS = (
    "data.json beside images/ (the authors' structure), the folders normal/, unlabeled/, test/normal/ and "
    "test/abnormal/, or a MONAI datalist (datalist.json)"
)

MAX_LINE = 2**16  # bytes of a path in a list

Item = dict[str, Any]


class Images(list[Item]):
    """Items of a folder or list, and how many entries of the folder are left out.

    Attributes:
        left_out: by reason.
    """

    def __init__(self, items: Iterable[Item] = (), left_out: LeftOut | None = None) -> None:
        super().__init__(items)
        self.left_out = LeftOut() if left_out is None else left_out


def load_datalist(
    dataset_dir: str | os.PathLike[str], unlabeled_size: int | None = None, abnormal_rate: float | None = None
) -> dict[str, Images]:
    """Load the known normal, unlabelled and test images of a data set.

    Three layouts are taken: the authors' ``data.json`` beside ``images/``; folders ``normal/``, ``unlabeled/``,
    ``test/normal/`` and ``test/abnormal/``; or a MONAI datalist, ``datalist.json`` in the folder or a JSON file given
    itself, with ``training`` (label 0: known normal; no label: unlabelled) and ``test`` (label 0 or 1) items, paths
    relative to the file.

    Args:
        dataset_dir: folder or JSON file of the data set.
        unlabeled_size: images to take from the unlabelled pool, the first ones of the list; None takes all.
        abnormal_rate: share of abnormal images among them, for pools whose make-up is known (``data.json``); None
            takes them as they come. Ignored for other layouts, which do not say it.

    Returns:
        ``{"training": items, "test": items}``, an item being ``{"image": path, "label": 0 | 1 | None}`` and None
        meaning unlabelled; with a ``"group"`` (a patient) where a MONAI datalist gives one, and the ``"mask"`` of a
        test image's lesions where it does or where ``masks/`` beside ``images/`` has a file of that name. The DICOM
        files of one MR, CT or PET series are one item, whose path is the list of them. Entries of folders that are
        left out are counted in ``left_out`` of the items, and logged.

    Raises:
        DataError: the folder is missing, empty or of none of the layouts, the JSON file is damaged, or a number is
            outside its range.

    Source: method.md section 1 (the pool is a prefix of the list, ``int(size * rate)`` of it abnormal).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("normal/a.png", "unlabeled/b.png"):
        ...         Path(folder, name).parent.mkdir()
        ...         Path(folder, name).touch()
        ...     [item["label"] for item in load_datalist(folder)["training"]]
        [0, None]
    """
    if not isinstance(dataset_dir, (str, os.PathLike)):
        raise DataError("dataset_dir must be one folder or JSON file.")
    if unlabeled_size is not None and unlabeled_size < 0:
        raise DataError(f"unlabeled_size must not be negative, got {unlabeled_size}.")
    if abnormal_rate is not None and not 0 <= abnormal_rate <= 1:
        raise DataError(f"abnormal_rate must be in [0, 1], got {abnormal_rate}.")
    root = Path(os.path.expanduser(dataset_dir))
    if not root.exists():
        raise DataError(f"dataset_dir does not exist. Expected a folder with {LAYOUTS}.")
    if root.is_file():
        return _from_monai(root, unlabeled_size, abnormal_rate)
    if (root / "data.json").is_file():
        return _from_authors(root, unlabeled_size, abnormal_rate)
    if (root / "datalist.json").is_file():
        return _from_monai(root / "datalist.json", unlabeled_size, abnormal_rate)
    if (root / "normal").is_dir() or (root / "test").is_dir():
        return _from_folders(root, unlabeled_size, abnormal_rate)
    raise DataError(f"dataset_dir holds none of the known layouts. Expected {LAYOUTS}.")


def dataset_or_phantom(
    dataset_dir: str | list[str] | None, phantom_dir: str, kind: PhantomKind = "brain"
) -> str | list[str]:
    """Return the user's data, or draw the built-in synthetic data set where none is given.

    Args:
        dataset_dir: what the user gave: a folder, a file, a list of files, or None.
        phantom_dir: folder to draw the synthetic images in.
        kind: what to draw: ``"brain"``, ``"chest"`` or ``"fundus"``.

    Raises:
        DataError: an empty name or list.
        ValueError: another kind.
    """
    if dataset_dir is None:
        with idist.one_rank_first():
            return str(write_phantom_dataset(phantom_dir, kind))
    if not dataset_dir:
        raise DataError("dataset_dir is empty: give a folder, or leave it out to use the built-in synthetic images.")
    return [str(path) for path in dataset_dir] if isinstance(dataset_dir, (list, tuple)) else str(dataset_dir)


def list_images(source: str | os.PathLike[str] | list[str]) -> Images:
    """List the images to score: a folder (with its subfolders, sorted), one file, or a list of files.

    Of a folder in the authors' structure, the images are listed and not the masks beside them. The DICOM files of one
    MR, CT or PET series are one item, whose path is the list of them; see :func:`monai_ddad.io.series.group_series`.
    What else a folder holds is counted by reason, see :func:`monai_ddad.io.files.walk`, and logged without a name.

    Args:
        source: folder, image file, ``.txt`` file with a path a line, or list of paths.

    Returns:
        items ``{"image": path or list of paths, "label": None}``, and what is left out.

    Raises:
        DataError: nothing is there, or a list cannot be read.

    Example:
        >>> list_images(["a.png"])
        [{'image': 'a.png', 'label': None}]
    """
    left_out = LeftOut()
    if isinstance(source, (list, tuple)):
        paths = [Path(os.path.expanduser(path)) for path in map(_as_path, source)]
    else:
        root = Path(os.path.expanduser(_as_path(source)))
        if not os.path.exists(root):
            raise DataError("the input folder or file does not exist.")
        if os.path.isdir(root):
            authors = (root / "data.json").is_file() and (root / "images").is_dir()
            paths = find_files(root / "images" if authors else root, left_out)
        else:
            paths = [*map(Path, listed_in(root))] if root.suffix.lower() == ".txt" else [root]
    log_left_out(left_out)
    if not paths:
        raise DataError(no_image("input folder holds", left_out))
    return Images(_items(group_series(paths), None), left_out)


def no_image(what: str, left_out: LeftOut) -> str:
    """Say that there is no image where some were expected, and what is there instead."""
    seen = f"; {describe(left_out)}" if left_out else ""
    return f"the {what} no image (files ending in {', '.join(IMAGE_SUFFIXES)}, or DICOM){seen}."


def listed_in(file: Path) -> Iterator[str]:
    r"""Give the paths of a list, a line each; lines end with ``\n`` or ``\r\n`` and nothing else.

    Args:
        file: a text file in UTF-8, with or without a byte-order mark; its paths are relative to it.

    Raises:
        DataError: it cannot be read as such, or a line cannot be a path.
    """
    try:
        with open_regular(file) as lines:
            for number in count(1):
                line = lines.readline(MAX_LINE)
                if not line:
                    return
                name = (line.removeprefix(BOM_UTF8) if number == 1 else line).decode().removesuffix("\n")
                if len(line) == MAX_LINE or not can_be_path(name):
                    raise DataError(f"line {number} of the list of images cannot be a path.")
                if name.strip(" \t\r"):
                    yield str(file.parent / name.removesuffix("\r"))
    except UnicodeDecodeError:
        raise DataError("the list of images is not a text file in UTF-8.") from None
    except OSError as error:
        raise DataError(f"the list of images cannot be read ({error.strerror}).") from None


def _as_path(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not can_be_path(os.fspath(name)):
        raise DataError("a path holds characters that no path can have.")
    return name


def _items(images: Iterable[Path | str | list[str]], label: int | None) -> list[Item]:
    return [{"image": image if isinstance(image, list) else str(image), "label": label} for image in images]


def _read_json(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"the data set's {path.suffix[1:]} file cannot be read ({type(error).__name__}).") from None


def read_split(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read the authors' ``data.json``: the names of the images of each group, in their order.

    Args:
        path: a JSON file ``{"train": {"0": [], "unlabeled": {"0": [], "1": []}}, "test": {"0": [], "1": []}}``; 0 is
            normal, 1 abnormal. Test lists may be absent.

    Returns:
        names by group, one of :data:`GROUPS`.

    Raises:
        DataError: the file cannot be read or has another structure.

    Source: method.md section 1 (data.json).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = '{"train": {"0": ["a.png"], "unlabeled": {"0": [], "1": ["b.png"]}}}'
        ...     _ = Path(folder, "data.json").write_text(text)
        ...     read_split(f"{folder}/data.json")["unlabeled abnormal"]
        ['b.png']
    """
    lists = _read_json(Path(path))
    try:
        train, test = lists["train"], lists.get("test", {})
        groups = [train["0"], train["unlabeled"]["0"], train["unlabeled"]["1"], test.get("0", []), test.get("1", [])]
        if not all(isinstance(group, list) and all(map(_is_name, group)) for group in groups):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        expected = '{"train": {"0": [], "unlabeled": {"0": [], "1": []}}, "test": {"0": [], "1": []}}'
        raise DataError(f"data.json does not have the structure {expected}.") from None
    return dict(zip(GROUPS, groups))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and can_be_path(name)


def _from_authors(root: Path, size: int | None, rate: float | None) -> dict[str, Images]:
    split = read_split(root / "data.json")
    normal, pool_normal, pool_abnormal, test_normal, test_abnormal = (
        [root / "images" / name for name in split[group]] for group in GROUPS
    )
    if size is not None and rate is not None:
        abnormal = int(size * rate)
        parts = []
        for kind, pool, asked in (("normal", pool_normal, size - abnormal), ("abnormal", pool_abnormal, abnormal)):
            parts.append(_prefix(pool, asked, f"{kind} "))
        unlabeled = parts[0] + parts[1]
    else:
        unlabeled = _prefix(pool_normal + pool_abnormal, size)
    test = _items(test_normal, 0) + _items(test_abnormal, 1)
    for item in test:
        mask = root / "masks" / Path(item["image"]).name
        if os.path.isfile(mask):
            item["mask"] = str(mask)
    return {"training": Images(_items(normal, 0) + _items(unlabeled, None)), "test": Images(test)}


def _from_folders(root: Path, size: int | None, rate: float | None) -> dict[str, Images]:
    _warn_rate(rate)
    left_out = {"training": LeftOut(), "test": LeftOut()}

    def find(folder: str, name: str) -> list[str | list[str]]:
        return group_series(find_files(root / folder, left_out[name]) if (root / folder).is_dir() else [])

    training = _items(find("normal", "training"), 0)
    training += _items(_prefix(find("unlabeled", "training"), size), None)
    test = _items(find("test/normal", "test"), 0) + _items(find("test/abnormal", "test"), 1)
    log_left_out(left_out["training"] + left_out["test"])
    return {"training": Images(training, left_out["training"]), "test": Images(test, left_out["test"])}


def _from_monai(path: Path, size: int | None, rate: float | None) -> dict[str, Images]:
    _warn_rate(rate)
    lists = _read_json(path)
    try:
        training, test = (
            [_monai_item(path.parent, item) for item in lists.get(key, [])] for key in ("training", "test")
        )
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            'a MONAI datalist has the structure {"training": [{"image": path, "label": 0}], "test": []}; label 0 is a '
            "known normal image, no label an unlabelled one, and a group is a number or a name."
        ) from None
    normal = [item for item in training if item["label"] == 0]
    unlabeled = [item for item in training if item["label"] is None]
    wrong = [i for i, item in enumerate(training) if item["label"] not in (0, None)]
    wrong_test = [i for i, item in enumerate(test) if item["label"] not in (0, 1)]
    if wrong or wrong_test:
        raise DataError(
            f"training items are known normal (label 0) or unlabelled (none) and test items 0 or 1; "
            f"wrong at training positions {wrong[:10]} and test positions {wrong_test[:10]}."
        )
    return {"training": Images(normal + _prefix(unlabeled, size)), "test": Images(test)}


def _monai_item(folder: Path, item: Item) -> Item:
    group = {"group": item["group"]} if item.get("group") not in (None, "") else {}
    if not isinstance(item.get("group", ""), (int, str, type(None))):
        raise TypeError
    mask = {"mask": _below(folder, item["mask"])} if item.get("mask") is not None else {}
    return {"image": _below(folder, item["image"]), "label": item.get("label"), **group, **mask}


def _below(folder: Path, image: str | list[str]) -> str | list[str]:
    if not all(map(_is_name, image if isinstance(image, list) and image else [image])):
        raise TypeError
    return [str(folder / path) for path in image] if isinstance(image, list) else str(folder / image)


def _prefix(pool: list[Any], size: int | None, kind: str = "") -> list[Any]:
    if size is not None and len(pool) < size:
        logger.warning(f"The unlabelled pool has {len(pool)} {kind}images, {size} were asked for.")
    elif size is not None and len(pool) > size:
        logger.warning(f"The unlabelled pool has {len(pool)} {kind}images, the first {size} are used (unlabeled_size).")
    return pool[:size]


def _warn_rate(rate: float | None) -> None:
    if rate is not None:
        logger.info("abnormal_rate is ignored: this data set does not say which unlabelled images are abnormal.")
