"""MONAI Label's datastore of a DICOMweb server."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from requests_toolbelt.multipart.decoder import (
    ImproperBodyPartContentException,
    MultipartDecoder,
    NonMultipartContentTypeException,
)

from monai_ddad.label.datastores import DOWNLOAD, GuardedStore

__all__ = ["DicomWebStore"]

UID = re.compile(r"[0-9][0-9.]{0,63}")
NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "DOC", "ECG", "REG", "FID", "PLAN")
STUDY, SERIES, MODALITY = "0020000D", "0020000E", "00080060"  # tags in DICOM JSON
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
FRESH = 5.0  # seconds for which the list of a server's series is taken to be up to date


def _first_value(item: Any, tag: str) -> str:
    """Return an element of DICOM JSON, the first of several values; empty where there is none."""
    with contextlib.suppress(AttributeError, LookupError, TypeError):
        return str(item[tag]["Value"][0])
    return ""


def _parts(answer: requests.Response) -> list[bytes]:
    """Return the files of an answer; none where it is not one of DICOM files."""
    if answer.headers.get("Content-Type", "").startswith("application/dicom"):
        return [answer.content]  # as some servers send a single file
    try:
        return [part.content for part in MultipartDecoder.from_response(answer).parts]
    except (AttributeError, ImproperBodyPartContentException, LookupError, NonMultipartContentTypeException):
        return []  # the first for want of a boundary


class DicomWebStore(GuardedStore, DICOMWebDatastore):
    """Series of a DICOMweb server, scored from the DICOM files themselves.

    MONAI Label would convert them to NIfTI, without the photometry of films, and ask the server for new series every
    two hours. Labels stay in the app's cache: an empty one, which marks an image as normal, cannot be a DICOM SEG.

    Args:
        client: of the server.
        search_filter: of its series, such as ``{"Modality": "CR"}``; those that hold no image are left out anyway.
        cache_path: folder for downloaded series and for labels.
    """

    def __init__(self, client: Any, search_filter: dict[str, Any], cache_path: str | None = None) -> None:
        self._listed: tuple[float, list[str]] = (-FRESH, [])
        super().__init__(client, search_filter, cache_path, convert_to_nifti=False)
        os.chmod(self._datastore_path, 0o700)
        self._remove_leftovers()

    def list_images(self) -> list[str]:
        """Return the UIDs of the series that hold images."""
        if time.monotonic() - self._listed[0] > FRESH:
            listed = self._search(self._search_filter)
            series = [uid for _, uid, modality in listed if modality not in NO_IMAGES]
            self._listed = time.monotonic(), sorted(filter(UID.fullmatch, series))  # others could lead out of the cache
        return self._listed[1]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Return the files of the images and labels that are in the cache."""
        return LocalDatastore.datalist(self, full_path)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the UIDs of the series with a final label."""
        return LocalDatastore.get_labeled_images(self)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the UIDs of the others."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def get_image_uri(self, image_id: str) -> str:
        """Return the folder with the files of a series, which are downloaded once, whole or not at all."""
        if image_id not in self.list_images():
            raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
        folder = Path(self._datastore.image_path()).resolve() / image_id
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=DOWNLOAD) as part:
                for number, content in enumerate(self._retrieve(image_id)):
                    Path(part, f"{number:05d}.dcm").write_bytes(content)
                with contextlib.suppress(OSError):  # another request was quicker
                    os.rename(part, folder)
                    os.mkdir(part)  # for the end of the block
        return str(folder)

    def _search(self, chosen: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return UID of the study, UID and modality of the series that the server finds."""
        try:
            found = self._client.search_for_series(search_filters=chosen)
        except requests.RequestException:
            raise HTTPException(status_code=502, detail="the DICOMweb server cannot be searched.") from None
        return [(_first_value(item, STUDY), _first_value(item, SERIES), _first_value(item, MODALITY)) for item in found]

    def _retrieve(self, image_id: str) -> list[bytes]:
        """Download the files of a series as they are stored: not every server can decode every compression."""
        studies = [study for study, series, _ in self._search({"SeriesInstanceUID": image_id}) if series == image_id]
        if not studies or not UID.fullmatch(studies[0]):
            raise HTTPException(status_code=404, detail="the DICOMweb server does not have the series any more.")
        prefix = f"/{self._client.wado_url_prefix}" if self._client.wado_url_prefix else ""
        url = f"{self._client.base_url.rstrip('/')}{prefix}/studies/{studies[0]}/series/{image_id}"
        try:
            found = _parts(self._client._http_get(url, headers={"Accept": AS_STORED}))
        except requests.RequestException:
            found = []
        if not found:
            raise HTTPException(status_code=502, detail="the DICOMweb server does not give the series.")
        return found

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label in the cache."""
        self._know(image_id)
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image, such as when it was handed out."""
        self._know(image_id)
        super().update_image_info(image_id, info)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the file of a label."""
        return LocalDatastore.get_label_uri(self, label_id, label_tag)

    def _know(self, image_id: str) -> None:
        """Enter an image into the cache's own list."""
        self.get_image_uri(image_id)
        with self._alone:
            self._init_from_datastore_file()
            if image_id in self._datastore.objects:
                return
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info={"ts": int(time.time())}))
            self._update_datastore_file()
