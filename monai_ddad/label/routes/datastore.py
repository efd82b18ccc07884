"""Images and labels of the datastore."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse
from monailabel.utils.others.generic import file_checksum, get_mime_type, remove_file
from pydantic import Json, StringConstraints

from monai_ddad.io.writing import printable
from monai_ddad.label.routes.access import Admin, Annotator, App, Reader
from monai_ddad.label.schemas import Name, Note, Text
from monai_ddad.label.uploads import IMAGES, LABELS, receive, suffix_of

__all__ = ["router"]

NO_NOTE = Note()
NoteText = Annotated[str, Form(json_schema_extra={"contentMediaType": "application/json"})]  # the one field of a form
Checksum = Annotated[str, StringConstraints(pattern=r"^((SHA256|SHA512|MD5):)?[0-9a-fA-F]{32,128}$")]

router = APIRouter(prefix="/datastore", tags=["Datastore"])


@router.get("/", summary="All images and labels")
async def datastore(app: App, user: Reader, output: Literal["train", "stats", "all"] | None = None) -> Any:
    """Return how many there are, all of them, or those with a final label."""
    store = app.datastore()
    if output == "train":
        return [{kind: printable(path) for kind, path in item.items()} for item in store.datalist()]
    return store.json() if output == "all" else store.status()


@router.put("/", summary="Add an image")  # MONAI Label's client calls it
@router.put("/image", summary="Add an image")
async def add_image(
    app: App,
    user: Annotator,
    file: Annotated[UploadFile, File()],
    image: Text = "",
    params: Annotated[Json[Note], Form()] = NO_NOTE,
) -> dict[str, str]:
    """Add an image, named by ``image`` or by its file."""
    name = PurePosixPath(file.filename or "").name
    with tempfile.TemporaryDirectory() as folder:
        received = receive(file, Path(folder), IMAGES, "file")
        image = image or name[: len(name) - len(suffix_of(name, IMAGES))]
        return {"image": app.datastore().add_image(image, str(received), params.note(user.username))}


@router.delete("/", summary="Remove an image and its labels")
@router.delete("/image", summary="Remove an image and its labels")
async def remove_image(app: App, user: Admin, id: Text) -> dict[str, Any]:
    """Remove an image."""
    app.datastore().remove_image(id)
    return {}


@router.head("/image", summary="Whether there is an image")
async def check_image(app: App, user: Reader, image: Text, check_sum: Checksum | None = None) -> dict[str, Any]:
    """Answer with 404 where there is none, or where it is another one than that with the checksum."""
    path = _image(app, image)
    if check_sum:
        algorithm, _, digest = check_sum.rpartition(":")
        if file_checksum(path, algorithm or "SHA256").rpartition(":")[2] != digest.lower():
            raise HTTPException(status_code=404, detail="the image is another one.")
    return {}


@router.get("/image", summary="An image", response_class=FileResponse)
async def download_image(app: App, user: Reader, image: Text) -> FileResponse:
    """Return the file of an image."""
    return _send(_image(app, image))


def _image(app: App, image: str) -> Path:
    path = Path(app.datastore().get_image_uri(image))
    if not path.is_file():
        raise HTTPException(status_code=404, detail="the image is a folder, or has gone.")
    return path


def _send(path: Path) -> FileResponse:
    return FileResponse(path, media_type=get_mime_type(path), filename=printable(path.name))


@router.get("/image/info", summary="What is known of an image")
async def get_image_info(app: App, user: Reader, image: Text) -> dict[str, Any]:
    """Return what the datastore and clients have noted."""
    app.datastore().get_image_uri(image)
    return app.datastore().get_image_info(image)


@router.put("/image/info", summary="Note something of an image")
async def put_image_info(app: App, user: Annotator, image: Text, info: NoteText = "{}") -> None:
    """Add to what is noted."""
    app.datastore().update_image_info(image, Note.read(info, "info").note(user.username))


@router.put("/label", summary="Submit a label")
async def save_label(
    app: App,
    user: Annotator,
    image: Text,
    label: Annotated[UploadFile, File()],
    tag: Name | Literal[""] = "final",
    params: Annotated[Json[Note], Form()] = NO_NOTE,
) -> dict[str, Any]:
    """Keep a label; an empty one with the tag ``final`` marks the image as normal."""
    with tempfile.TemporaryDirectory() as folder:
        received = receive(label, Path(folder), LABELS, "label")
        kept = app.datastore().save_label(image, str(received), tag or "final", params.note(user.username))
    return {**(app.on_save_label(image, kept) or {}), "image": image, "label": kept}


@router.delete("/label", summary="Remove a label")
async def remove_label(app: App, user: Admin, id: Text, tag: Text) -> dict[str, Any]:
    """Remove a label."""
    _label(app, id, tag)
    app.datastore().remove_label(id, tag)
    return {}


@router.head("/label", summary="Whether there is a label")
async def check_label(app: App, user: Reader, image: Text, tag: Text) -> dict[str, Any]:
    """Answer with 404 where there is none."""
    _label(app, image, tag)
    return {}


@router.get("/label", summary="A label", response_class=FileResponse)
async def download_label(app: App, user: Reader, label: Text, tag: Text) -> FileResponse:
    """Return the file of a label."""
    return _send(_label(app, label, tag))


def _label(app: App, label: str, tag: str) -> Path:
    path = Path(app.datastore().get_label_uri(label, tag))
    if not path.is_file():
        raise HTTPException(status_code=404, detail="there is no such label.")
    return path


@router.get("/label/info", summary="What is known of a label")
async def get_label_info(app: App, user: Reader, label: Text, tag: Text) -> dict[str, Any]:
    """Return what the datastore and clients have noted."""
    _label(app, label, tag)
    return app.datastore().get_label_info(label, tag)


@router.put("/label/info", summary="Note something of a label")
async def put_label_info(app: App, user: Annotator, label: Text, tag: Text, info: NoteText = "{}") -> None:
    """Add to what is noted."""
    app.datastore().update_label_info(label, tag, Note.read(info, "info").note(user.username))


@router.put("/updatelabelinfo", summary="Note something of a label")  # 3D Slicer's reviewer calls it
async def update_label_info(app: App, user: Annotator, label: Text, tag: Text, params: NoteText = "{}") -> None:
    """Add to what is noted."""
    app.datastore().update_label_info(label, tag, Note.read(params, "params").note(user.username))


@router.get("/dataset", summary="All images with a final label, as ZIP", response_class=FileResponse)
async def download_dataset(
    app: App,
    user: Annotator,
    background: BackgroundTasks,
    limit_cases: Annotated[int | None, Query(ge=1, le=10**9)] = None,
) -> FileResponse:
    """Return the images with their labels, and what is noted."""
    if not app.datastore().get_labeled_images():
        raise HTTPException(status_code=404, detail="no image has a final label.")
    path = app.datastore().get_dataset_archive(limit_cases)
    background.add_task(remove_file, path)
    return FileResponse(path, media_type="application/zip", filename="dataset.zip")
