"""A MONAI datalist is built from what a user has, checked and written."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from monai_ddad.data.datalist import Item, list_images, load_datalist
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import can_be_path, open_regular
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.series import read_headers
from monai_ddad.io.writing import atomic_file
from monai_ddad.machine import available_cores
from monai_ddad.transforms import ImageReadError, ReadImage

__all__ = ["build_datalist", "check_datalist", "find_unreadable", "write_datalist"]

logger = logging.getLogger(__name__)

COLUMNS = {"image": "image", "split": "split", "label": "label", "group": "group"}
SPLITS = {"normal": 0, "unlabeled": None}  # split of a CSV's training row -> label of its item
LISTED = 50  # problems named one by one in an error

Datalist = Mapping[str, list[Item]]


def build_datalist(source: str | os.PathLike[str], columns: dict[str, str] | None = None) -> Datalist:
    r"""List the images of a data set in any layout that is known.

    Args:
        source: a folder or JSON file as :func:`monai_ddad.data.load_datalist` takes it, or a CSV file with a header and
            a row an image: its path (relative to the file; a folder stands for the one DICOM series in it), the split
            ``normal``, ``unlabeled`` or ``test``, the label 0 or 1 of a test image, and optionally a group, such as
            the patient, of which no two images may stand on both sides of training and test.
        columns: names of the CSV's columns where they are not ``image``, ``split``, ``label`` and ``group``.

    Returns:
        ``{"training": items, "test": items}`` with absolute or relative paths. Items of one group, or of one PatientID
        where DICOM headers have several and there are no groups, share a number as their ``"group"``.

    Raises:
        DataError: the source is none of these; or rows of the CSV are incomplete or contradictory, or groups are in
            both training and test: one message lists all rows, counted from 1 below the header.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv").write_text("image,split,label\na.png,normal,\nb.png,test,1\n")
        ...     lists = build_datalist(f"{folder}/a.csv")
        >>> {name: [item["label"] for item in items] for name, items in lists.items()}
        {'training': [0], 'test': [1]}
    """
    path = Path(os.path.expanduser(source))
    if path.suffix.lower() == ".csv" and path.is_file():
        lists: Datalist = _from_csv(path, COLUMNS | (columns or {}))
    else:
        lists = load_datalist(path)
    items = [item for items in lists.values() for item in items]
    names = [str(item.get("group", "")) for item in items]
    if not any(names):
        patients = _patients(items)
        names = patients if len(set(patients) - {""}) > 1 else names  # one name for all is that of nobody
    numbers: dict[str, int] = {}
    for item, name in zip(items, names):
        if name:  # a number does not say whose the image is
            item["group"] = numbers.setdefault(name, len(numbers))
    return lists


def check_datalist(lists: Datalist) -> None:
    """Check the files of a datalist without reading their pixels, and log how many images of each kind it has.

    File names that are both in training and test, and patients of whom DICOM headers say so, are counted in warnings:
    names and anonymous patients repeat. :func:`monai_ddad.data.audit` compares the images themselves.

    Args:
        lists: ``{"training": items, "test": items}``.

    Raises:
        DataError: there are no images, files are missing, or a file is listed more than once; by position in the list.

    Example:
        >>> check_datalist({"training": [{"image": "absent.png", "label": 0}], "test": []})
        Traceback (most recent call last):
            ...
        monai_ddad.io.errors.DataError: the data list cannot be used:
        - training item 0: no such file
    """
    errors = [] if any(lists.values()) else ["it holds no image"]
    places: dict[str, str] = {}
    for name, items in lists.items():
        for position, item in enumerate(items):
            place = f"{name} item {position}"
            files = _files(item)
            if not all(os.path.isfile(file) for file in files):
                errors.append(f"{place}: no such file")
            first = places.setdefault(os.path.realpath(files[0]), place)
            if first != place:
                errors.append(f"{place} is the same file as {first}")
    _raise("the data list cannot be used", errors)
    for what, values in (("file names", _names), ("patients (PatientID)", _patients)):
        common = len(set(values(lists["training"])) & set(values(lists["test"])) - {""})
        if common:
            logger.warning(
                f"{common} {what} are both in training and test: if they are the same, figures are optimistic."
            )
    logger.info(_table(lists))


def write_datalist(lists: Datalist, output: str | os.PathLike[str]) -> None:
    """Write a datalist atomically, with paths relative to the file wherever that is possible.

    Args:
        lists: ``{"training": items, "test": items}``.
        output: the JSON file to write, in the form that :func:`monai_ddad.data.load_datalist` reads.
    """
    start = os.path.realpath(Path(os.path.expanduser(output)).parent)

    def relative(path: str) -> str:
        try:
            return Path(os.path.relpath(path, start)).as_posix()
        except ValueError:  # on another drive
            return os.path.abspath(path)

    def entry(item: Item) -> dict[str, Any]:
        files = [relative(path) for path in _files(item)]
        label = {} if item["label"] is None else {"label": item["label"]}
        group = {"group": item["group"]} if "group" in item else {}
        mask = {"mask": relative(item["mask"])} if "mask" in item else {}
        return {"image": files if isinstance(item["image"], list) else files[0], **label, **group, **mask}

    content = {name: [entry(item) for item in items] for name, items in lists.items()}
    with atomic_file(Path(os.path.expanduser(output))) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def find_unreadable(items: Sequence[Item], num_workers: int | None = None) -> dict[int, str]:
    """Decode every image and tell which cannot be read.

    Args:
        items: items ``{"image": path or list of paths}``.
        num_workers: decoding threads; None takes one a core.

    Returns:
        position in the list -> what is wrong.

    Example:
        >>> find_unreadable([{"image": "absent.png", "label": 0}])
        {0: 'no such file'}
    """
    read = ReadImage(in_channels=1)

    def reason(item: Item) -> str | None:
        try:
            read(item["image"])
        except ImageReadError as error:
            return str(error)
        return None

    with quiet, ThreadPoolExecutor(num_workers or available_cores()) as pool:
        reasons = list(tqdm(pool.map(reason, items), total=len(items), desc="reading", unit="image", disable=None))
    return {position: found for position, found in enumerate(reasons) if found is not None}


def _from_csv(path: Path, columns: dict[str, str]) -> Datalist:
    rows = _read_csv(path, columns)
    lists: Datalist = {"training": [], "test": []}
    errors = []
    for number, row in enumerate(rows, start=1):
        image, split, label, group = (row.get(name) or "" for name in columns.values())
        image, split, label, group = image.strip(" \t\r\n"), split.strip(), label.strip(), group.strip()
        try:
            place, found = _place(split.lower(), label)
            lists[place].append(
                {"image": _image(path.parent, image), "label": found} | ({"group": group} if group else {})
            )
        except DataError as error:
            errors.append(f"row {number}: {error}")
    groups = [{item["group"] for item in items if "group" in item} for items in lists.values()]
    shared = len(groups[0] & groups[1])
    if shared:
        errors.append(
            f"{shared} groups have images both in training and test: figures would be wrong. Put each group on one "
            "side, or leave the column out if it does not name patients"
        )
    _raise("the CSV file cannot be used", errors)
    lists["training"].sort(key=lambda item: item["label"] is None)  # the order in which it is loaded again
    return lists


def _read_csv(path: Path, columns: dict[str, str]) -> list[dict[str, str]]:
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"the CSV file cannot be read as UTF-8 text ({type(error).__name__}).") from None
    header = text.partition("\n")[0]
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        missing = [columns[name] for name in ("image", "split") if columns[name] not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"the CSV file has no column {' and no column '.join(missing)}: say what it is called.")
        return list(reader)
    except csv.Error:
        raise DataError("the CSV file is damaged: its fields cannot be told apart.") from None


def _place(split: str, label: str) -> tuple[str, int | None]:
    if split == "test" and label in ("0", "1"):
        return "test", int(label)
    if split == "test":
        raise DataError("a test image needs the label 0 (normal) or 1 (abnormal)")
    if split not in SPLITS:
        raise DataError("the split is none of normal, unlabeled and test")
    if split == "normal" and label not in ("", "0"):
        raise DataError("a known normal image has a label other than 0")
    return "training", SPLITS[split]


def _image(folder: Path, image: str) -> str | list[str]:
    if not image:
        raise DataError("no image is named")
    if not can_be_path(image):
        raise DataError("the image's name holds characters that no path can have")
    path = folder / image
    if not os.path.isdir(path):  # which a name that is too long ends in no error
        return str(path)
    found = list_images(path)
    if len(found) != 1:
        raise DataError(f"the folder holds {len(found)} images, expected one DICOM series")
    return found[0]["image"]


def _files(item: Item) -> list[str]:
    return item["image"] if isinstance(item["image"], list) else [item["image"]]


def _names(items: Sequence[Item]) -> list[str]:
    return [os.path.basename(_files(item)[0]) for item in items]


def _patients(items: Sequence[Item]) -> list[str]:
    headers = read_headers([_files(item)[0] for item in items], ["PatientID"])
    return ["" if header is None else str(header.get("PatientID") or "") for header in headers]


def _raise(summary: str, errors: list[str]) -> None:
    if len(errors) > LISTED:
        errors = [*errors[:LISTED], f"{len(errors) - LISTED} more problems"]
    if errors:
        raise DataError(f"{summary}:\n" + "\n".join(f"- {error}" for error in errors))


def _table(lists: Datalist) -> str:
    kinds = {"training": ((0, "normal"), (None, "unlabeled")), "test": ((0, "normal"), (1, "abnormal"))}
    rows = [("list", "images", "number")]
    rows += [
        (name, kind, str(sum(item["label"] == label for item in lists[name])))
        for name, pairs in kinds.items()
        for label, kind in pairs
    ]
    return "\n".join(f"{a:10} {b:10} {c:>8}" for a, b, c in rows)
