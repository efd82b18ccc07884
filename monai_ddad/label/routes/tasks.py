"""Inference, training and active learning."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.endpoints import activelearning
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.others.generic import get_mime_type, remove_file
from pydantic import Json
from requests_toolbelt import MultipartEncoder

from monai_ddad.io.writing import printable
from monai_ddad.label.routes.access import Admin, App, InPath, Reader
from monai_ddad.label.routes.sessions import find_session
from monai_ddad.label.schemas import BatchParams, InferParams, SampleParams, Text, TrainAllParams, TrainParams
from monai_ddad.label.uploads import IMAGES, receive

__all__ = ["router"]

NO_PARAMS = InferParams()

router = APIRouter()


@router.get("/info/", tags=["App"], summary="What the app offers")
async def info(app: App, user: Reader) -> dict[str, Any]:
    """Return models, trainings, strategies and the state of the datastore."""
    return app.info()


@router.post("/infer/{model}", tags=["Infer"], summary="Score an image")
async def infer(
    app: App,
    user: Reader,
    background: BackgroundTasks,
    model: InPath,
    image: Text = "",
    session_id: UUID | None = None,
    output: Literal["image", "json", "all"] | None = None,
    params: Annotated[Json[InferParams], Form()] = NO_PARAMS,
    file: Annotated[UploadFile | None, File()] = None,
) -> Any:
    """Score an image of the datastore or a session, or one that is sent; return what is found, its file, or both."""
    request = {"model": model, **params.given()}
    with tempfile.TemporaryDirectory() as folder:
        if session_id is not None:
            request["file"] = find_session(app, session_id).image
        elif file is not None:
            request["file"] = receive(file, Path(folder), IMAGES, "file")
        elif image:
            request["image"] = image
        else:
            raise HTTPException(status_code=422, detail="image: name an image or a session, or send a file.")
        result = app.infer(request)
    path, found = result["file"], result["params"]
    background.add_task(remove_file, path)
    if output == "json":
        return found
    if output == "image":
        return FileResponse(path, media_type=get_mime_type(path), filename=os.path.basename(path))
    return _both(path, found)


def _both(path: str, found: dict[str, Any]) -> Response:
    with open(path, "rb") as file:
        fields = {
            "params": (None, json.dumps(found), "application/json"),
            "image": (os.path.basename(path), file, get_mime_type(path)),
        }
        message = MultipartEncoder(fields=fields)
        return Response(content=message.to_string(), media_type=message.content_type)


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The image to look at next")
async def sample(app: App, user: Reader, strategy: InPath, params: SampleParams | None = None) -> dict[str, Any]:
    """Return the id of the next image, and what is found of it."""
    given = {} if params is None else params.model_dump(include={"client_id"}, exclude_none=True)
    found = activelearning.sample(strategy, given, user.username)
    return found | {"path": printable(found["path"])} if "path" in found else found


def _status(method: str, every: bool, check_if_running: bool) -> Any:
    state, reason = AsyncTask.status(method, every, check_if_running)
    if state is None:
        raise HTTPException(status_code=404, detail=reason)
    return state


def _start(method: str, request: dict[str, Any]) -> dict[str, Any]:
    state, reason = AsyncTask.run(method, request=request)
    if state is None:
        raise HTTPException(status_code=429, detail=reason)
    return state


def _train(app: MONAILabelApp, model: str, params: TrainParams) -> dict[str, Any]:
    app.check_training(model, params)
    return _start("train", {"model": model, **params.given()})


@router.get("/train/", tags=["Train"], summary="How far the training is")
async def train_status(user: Reader, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the state of the last training, of all, or of the one that is running."""
    return _status("train", all, check_if_running)


@router.post("/train/", tags=["Train"], summary="Train the model")
async def train_all(app: App, user: Admin, params: TrainAllParams | None = None) -> dict[str, Any]:
    """Start the one training that there is, with parameters by its name."""
    (model,) = app.info()["trainers"]
    given = (params or TrainAllParams()).of(model)
    return {model: {"result": _train(app, model, given), "detail": None}}


@router.post("/train/{model}", tags=["Train"], summary="Train a model")
async def train(
    app: App, user: Admin, model: InPath, params: TrainParams | None = None, enqueue: bool = False
) -> dict[str, Any]:
    """Start a training; ``enqueue`` is taken and has no effect, as there is one training at a time."""
    if model not in app.info()["trainers"]:
        raise HTTPException(status_code=404, detail="there is no such training.")
    return _train(app, model, params or TrainParams())


@router.delete("/train/", tags=["Train"], summary="Stop the training")
async def stop_training(user: Admin) -> dict[str, Any] | None:
    """Stop it; nothing happens where there is none."""
    return AsyncTask.stop("train")


@router.get("/batch/infer", tags=["Infer"], summary="How far the batch inference is")
async def batch_status(user: Reader, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the state of the last batch inference, of all, or of the one that is running."""
    return _status("batch_infer", all, check_if_running)


@router.post("/batch/infer/{model}", tags=["Infer"], summary="Score many images")
async def batch_infer(
    app: App,
    user: Admin,
    model: InPath,
    images: Literal["all", "labeled", "unlabeled"] = "all",
    params: BatchParams | None = None,
) -> dict[str, Any]:
    """Start a batch inference."""
    if model not in app.info()["models"]:
        raise HTTPException(status_code=404, detail="there is no such model.")
    given = {} if params is None else params.given()
    return _start("batch_infer", {"model": model, "images": images, **given})


@router.delete("/batch/infer", tags=["Infer"], summary="Stop the batch inference")
async def stop_batch(user: Admin) -> dict[str, Any] | None:
    """Stop it; nothing happens where there is none."""
    return AsyncTask.stop("batch_infer")
