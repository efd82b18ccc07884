"""MONAI Label's datastore, kept within its folder and able to hold films and DICOM series."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import DefaultLabelTag

from monai_ddad.data.empty_label import is_empty_label
from monai_ddad.io.files import LeftOut, file_hash, find_files, image_suffix, log_left_out, walk
from monai_ddad.io.writing import atomic_file, printable, remove_leftovers
from monai_ddad.label.schemas import PLAIN, plain_name
from monai_ddad.transforms import ImageReadError

__all__ = ["DOWNLOAD", "FILES", "FolderStore", "GuardedStore", "normal_images"]

logger = logging.getLogger(__name__)

FILES = ("*.nii.gz", "*.nii", "*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp", "*.dcm")
ESCAPED = re.compile("%[0-9A-Fa-f]{2}")
NORMAL = "ddad_normal"  # key of a label's info
DIGEST = "ddad_digest"  # of the file that it was said of: a killed server may leave another one
DOWNLOAD = ".ddad-download-"  # a series that is not whole yet
ABANDONED = 3600.0  # seconds in which a download has ended


def check_name(name: str, kind: str) -> None:
    """Refuse a name that could lead out of the datastore."""
    try:
        plain_name(name)
    except ValueError as error:
        raise HTTPException(status_code=422, detail=f"{kind}: {error}.") from None


def normal_images(datastore: LocalDatastore) -> list[str]:
    """Return the images that an annotator has submitted as normal: those whose final label is empty."""
    final = DefaultLabelTag.FINAL.value
    found = []
    for image in datastore.get_labeled_images():
        info = datastore.get_label_info(image, final)
        with contextlib.suppress(OSError):  # it has just gone
            if info.get(NORMAL) and info.get(DIGEST) == file_hash(datastore.get_label_uri(image, final)):
                found.append(image)
    return found


class GuardedStore(LocalDatastore):
    """Checks names, notes with each final label whether it is empty, and keeps files and their list whole."""

    _config_ts: object  # tells the list that is known from a later one

    def get_image_uri(self, image_id: str) -> str:
        """Return the file or folder of an image.

        Raises:
            HTTPException: 404, there is no such image.
        """
        if image_id not in self.list_images():
            raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
        return super().get_image_uri(image_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Keep an image under a plain name; what is there under that name is replaced, if it is a file.

        Raises:
            HTTPException: 422, the name is none; 409, it is that of a folder or a link.
        """
        check_name(image_id, "image")
        if image_id.startswith(".") or ESCAPED.search(image_id):
            raise HTTPException(
                status_code=422, detail="image: a name begins with no dot and holds no % with two digits."
            )
        suffix = self._to_id(Path(image_filename).name)[1]
        known = self._datastore.objects.get(image_id)
        if known is not None and known.image.ext != suffix:  # its labels are not the new one's
            raise HTTPException(status_code=409, detail="image: the name is taken by an image of another kind.")
        place = Path(self._datastore.image_path(), image_id + suffix)
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise HTTPException(status_code=409, detail="image: the name is taken by a folder or a link.")
        info = {**(image_info or {}), "ts": int(time.time()), "name": place.name}
        entry = ImageLabelModel(image=DataModel(info=info, ext=suffix))
        with self._alone:
            self._init_from_datastore_file()
            before = self._datastore.objects.get(image_id)
            self._put(image_id, image_filename, place, lambda before: entry)
            for tag, label in before.labels.items() if before else ():  # or they would be taken for the new one's
                Path(self._datastore.label_path(tag), self._filename(image_id, label.ext)).unlink(missing_ok=True)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; of a link that alone, and never what it leads to.

        Raises:
            HTTPException: 404, there is no such image.
        """
        with self._alone:
            self._init_from_datastore_file()
            known = self._datastore.objects.get(image_id)
            if known is None:
                raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
            place = Path(self._datastore.image_path(), self._filename(image_id, known.image.ext))
            if place.is_symlink():
                place.unlink()
            super().remove_image(image_id)
            self._datastore.objects.pop(image_id, None)  # or it is known until the folder's watch has noticed
            self._update_datastore_file()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label."""
        with self._alone:
            self._init_from_datastore_file()
            super().remove_label(label_id, label_tag)
            if label_id in self._datastore.objects:
                self._datastore.objects[label_id].labels.pop(label_tag, None)
                self._update_datastore_file()

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is noted of an image."""
        with self._alone:
            self._init_from_datastore_file()
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is noted of a label."""
        with self._alone:
            self._init_from_datastore_file()
            super().update_label_info(label_id, label_tag, info)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return what is noted of an image, and its path as far as it can be printed."""
        return _printable(super().get_image_info(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return what is noted of a label, and its path as far as it can be printed."""
        return _printable(super().get_label_info(label_id, label_tag))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Pack the images with a final label, and their labels, into a ZIP file; those that have gone are left out."""
        file, name = tempfile.mkstemp(suffix=".zip")
        try:
            with os.fdopen(file, "wb") as target, zipfile.ZipFile(target, "w") as archive:
                for item in self.datalist()[:limit_cases]:
                    try:
                        for kind, path in item.items():
                            parts = find_files(path, LeftOut()) if os.path.isdir(path) else [Path(path)]
                            for part in parts:
                                inside = os.path.relpath(part, os.path.dirname(path))
                                archive.write(part, f"{kind}/{printable(inside)}")
                    except FileNotFoundError:
                        logger.warning("an image or label of the ZIP file has gone: it is left out.")
                archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))
        except BaseException:
            os.unlink(name)
            raise
        return name

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label in place of an earlier one."""
        info = self._checked(image_id, label_filename, label_tag, label_info)
        suffix = self._to_id(Path(label_filename).name)[1]
        place = Path(self._datastore.label_path(label_tag), self._filename(image_id, suffix))
        label = DataModel(info=info | {"ts": int(time.time()), "name": image_id + suffix}, ext=suffix)
        return self._put(
            image_id,
            label_filename,
            place,
            lambda before: before.model_copy(update={"labels": before.labels | {label_tag: label}}),
        )

    def _put(self, image_id: str, source: str, place: Path, change: Callable[[Any], ImageLabelModel]) -> str:
        """Put a copy of a file in its place and change its image's entry in the list, or leave both as they were."""
        with self._alone:
            self._init_from_datastore_file()
            objects = self._datastore.objects
            before = objects.get(image_id)
            try:
                with atomic_file(place) as file, open(source, "rb") as content:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())  # a full disk shows here, before the list is written
                    objects[image_id] = change(before)
                    self._update_datastore_file()
            except BaseException:
                if before is None:
                    objects.pop(image_id, None)
                else:
                    objects[image_id] = before
                with contextlib.suppress(OSError):
                    self._update_datastore_file()
                raise
        return image_id

    def _remove_leftovers(self) -> None:
        """Remove what a killed server was writing."""
        with self._alone:
            labels = Path(self._datastore.label_path(None))
            remove_leftovers(self._datastore.image_path(), self._datastore_path, *labels.glob("*/"))
            for download in Path(self._datastore.image_path()).glob(f"{DOWNLOAD}*/"):
                with contextlib.suppress(OSError):
                    if time.time() - download.stat().st_mtime > ABANDONED:
                        shutil.rmtree(download)

    @cached_property
    def _alone(self) -> FileLock:
        """What one thread of one server holds at a time; it may take it again."""
        return FileLock(self._lock_file)

    def _reconcile_datastore(self) -> None:
        with self._alone:  # or it takes a label for gone that is just being put in place
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the list anew if another server has written it."""
        try:
            with self._alone:
                written = self._written()
                if written != self._config_ts:
                    content = Path(self._datastore_config_path).read_text(encoding="utf-8")
                    self._datastore = LocalDatastoreModel.model_validate_json(content)
                    self._datastore.base_path = self._datastore_path
                    self._config_ts = written
        except FileNotFoundError:  # there is none yet
            pass
        except ValueError:
            if throw_exception:
                raise
            logger.error("the list of the datastore's images is damaged: it is written anew.")

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the list of images and labels, or leave the earlier one as it was."""
        with self._alone:
            with atomic_file(self._datastore_config_path) as file:
                content = self._datastore.model_dump(exclude={"base_path"})
                text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
                file.write(text.encode(errors="replace"))  # a name that is not UTF-8 could not be read again
            self._config_ts = self._written()

    def _written(self) -> tuple[int, int]:
        state = os.stat(self._datastore_config_path)
        return state.st_ino, state.st_mtime_ns

    def _checked(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> dict[str, Any]:
        """Check the names of a label and, if it is final, its file, and return what is known of it."""
        check_name(label_tag, "tag")
        if image_id not in self.list_images():
            raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
        info = dict(label_info or {})
        if label_tag == DefaultLabelTag.FINAL.value:
            try:
                info |= {NORMAL: is_empty_label(label_filename), DIGEST: file_hash(label_filename)}
            except ImageReadError as error:
                raise HTTPException(status_code=422, detail=f"label: {error}.") from None
        return info


def _printable(info: dict[str, Any]) -> dict[str, Any]:
    return info | {"path": printable(info["path"])} if "path" in info else info


class FolderStore(GuardedStore):
    """A folder of pictures, volumes, films and subfolders, of which each that holds images is one, such as a series.

    An image has its file's name without suffix as id, or with it where another one has that name; what a name holds
    that an id must not, such as a line end, becomes ``%0A``.

    Args:
        folder: the datastore's folder; labels go to ``labels/`` in it.

    Attributes:
        left_out: entries of the folder that are no images, by reason.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        self._files: dict[str, str] = {}  # id and suffix of each image, joined -> its file or folder
        self._named: dict[str, tuple[str, str]] = {}  # file of each image -> id and suffix
        self._ids: dict[str, tuple[str, str]] = {}  # the same behind a slash, which no label's file has -> apart
        self.left_out = LeftOut()
        super().__init__(folder, extensions=FILES, **settings)
        self._remove_leftovers()
        if self._auto_reload:
            self._handler.on_moved = self._notice_move

    def _notice_move(self, event: Any) -> None:
        """Take note of a file that has got its name at last, as files do that are written whole or not at all."""
        if event.dest_path == self._datastore_config_path:
            self._init_from_datastore_file()
        else:
            self.refresh()

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        """List labels as MONAI Label does, and images as :func:`monai_ddad.io.files.walk` does: folder by folder."""
        if os.path.realpath(path) != os.path.realpath(self._datastore.image_path()):
            return super()._list_files(path, patterns)
        left_out = LeftOut()
        own = (os.path.join(path, self._datastore.labels_dir), self._datastore_config_path, self._lock_file)
        found = walk(path, left_out, skip=[os.path.join(path, os.path.basename(file)) for file in own])
        names = sorted({Path(os.path.relpath(file, path)).parts[0] for (file,) in found})
        known = {(image, entry.image.ext) for image, entry in self._datastore.objects.items()}
        ids: dict[str, tuple[str, str]] = {}
        files: dict[str, str] = {}
        used = {image for image, _ in known}
        for file in names:
            name = _as_id(file)
            suffix = "" if os.path.isdir(os.path.join(path, file)) else image_suffix(name)
            possible = [(name.removesuffix(suffix), suffix), (name, ""), (f"{name} (2)", ""), (f"{name} (3)", "")]
            had = [one for one in possible if one in known]
            image, ext = had[0] if had else next(one for one in possible if one[0] not in used)
            known.discard((image, ext))
            used.add(image)
            ids[f"/{image}{ext}"], files[image + ext] = (image, ext), file
        self.left_out, self._ids, self._files = left_out, ids, files
        self._named = {file: ids[f"/{name}"] for name, file in files.items()}
        return dict.fromkeys(ids, "")

    def _to_id(self, file: str) -> tuple[str, str]:
        if file in self._ids:
            return self._ids[file]
        if file in self._named:  # a label has the name of its image's file
            return self._named[file]
        suffix = image_suffix(file)
        return (file.removesuffix(suffix), suffix) if suffix else super()._to_id(file)

    def _filename(self, id: str, ext: str) -> str:
        """Return the file of an image, whose name may hold what no id may."""
        return self._files.get(id + ext, id + ext)

    def _add_non_existing_images(self) -> int:
        added = super()._add_non_existing_images()
        for image, entry in self._datastore.objects.items():
            entry.image.info["name"] = image + entry.image.ext  # a file's name may be none that JSON can hold
        return added

    def _reconcile_datastore(self) -> None:
        self._list_files(self._datastore.image_path(), FILES)  # which names the files that are looked for first
        super()._reconcile_datastore()
        log_left_out(self.left_out)


def _as_id(name: str) -> str:
    """Return a name that may be an id: what else it holds becomes ``%`` and two digits a byte."""
    if PLAIN.fullmatch(name) and not ESCAPED.search(name):
        return name
    return "".join(one if PLAIN.fullmatch(one) and one != "%" else quote(os.fsencode(one), safe="") for one in name)
