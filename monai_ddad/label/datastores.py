"""MONAI Label's datastores, kept within their folder and able to hold films and DICOM series."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from monai_ddad.label.labels import is_empty_label
from monai_ddad.transforms.formats.dicom_file import looks_like_dicom

__all__ = ["FILES", "DicomWebStore", "FolderStore", "normal_images"]

FILES = ("*.nii.gz", "*.nii", "*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp", "*.dcm")
NAME = re.compile(r"[\w@%+=:,.()\- ]+")  # of an image or a tag: nothing that leads out of a folder
NORMAL = "ddad_normal"  # key of a label's info


def check_name(name: str, kind: str) -> None:
    """Refuse a name that could lead out of the datastore."""
    if not NAME.fullmatch(name) or name.strip(". ") == "":
        raise HTTPException(status_code=400, detail=f"{kind} must be a plain name without folders.")


def normal_images(datastore: LocalDatastore) -> list[str]:
    """Return the images that an annotator has submitted as normal: those whose final label is empty."""
    final = DefaultLabelTag.FINAL.value
    return [image for image in datastore.get_labeled_images() if datastore.get_label_info(image, final).get(NORMAL)]


class _Guard(LocalDatastore):
    """Checks names, and notes with each final label whether it is empty."""

    def get_image_uri(self, image_id: str) -> str:
        if image_id not in self.list_images():
            raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
        return super().get_image_uri(image_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        check_name(image_id or Path(image_filename).name, "the image id")
        return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        check_name(image_id, "the image id")
        check_name(label_tag, "the label tag")
        if image_id not in self.list_images():
            raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
        info = dict(label_info or {})
        if label_tag == DefaultLabelTag.FINAL.value:
            info[NORMAL] = is_empty_label(label_filename)
        return super().save_label(image_id, label_filename, label_tag, info)


class FolderStore(_Guard):
    """A folder of pictures, volumes, films and, as subfolders, DICOM series.

    Args:
        folder: the datastore's folder; labels go to ``labels/`` in it.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(folder, extensions=FILES, **settings)

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found = super()._list_files(path, patterns)
        if os.path.realpath(path) != os.path.realpath(self._datastore.image_path()):
            return found
        for entry in os.scandir(path):
            if entry.is_dir() and entry.name != "labels" and _is_series(Path(entry.path)):
                found[entry.name] = entry.name
        return found

    def _to_id(self, file: str) -> tuple[str, str]:
        if (Path(self._datastore.image_path()) / file).is_dir():
            return file, ""  # a name may hold dots, as a series UID does
        for pattern in FILES:
            if file.endswith(pattern[1:]):
                return file.removesuffix(pattern[1:]), pattern[1:]
        return super()._to_id(file)


def _is_series(folder: Path) -> bool:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        return False
    with files[0].open("rb") as file:
        return looks_like_dicom(file.read(132))


class DicomWebStore(_Guard, DICOMWebDatastore):
    """Series of a DICOMweb server, scored from the DICOM files themselves.

    Takes the place of MONAI Label's conversion to NIfTI, which leaves out the photometry of films.
    """
