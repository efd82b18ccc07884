"""Weights and the log to download, the viewer's pages, and the DICOMweb server behind the app for them to read."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import requests
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from monailabel import endpoints
from monailabel.config import settings

from monai_ddad.label.routes.access import Admin, App, InPath, Reader
from monai_ddad.label.schemas import describe

__all__ = ["router"]

OHIF = Path(endpoints.__file__).parent / "static" / "ohif"
TIMEOUT = 60  # seconds
RESOURCE = re.compile(r"[\w.,\-]+(/[\w.,\-]+)*", re.ASCII)  # of DICOMweb
ATTRIBUTE = re.compile(r"[\w.]{1,64}", re.ASCII)  # a keyword, a tag, or a path of them
LONGEST = 2000  # characters of a value

router = APIRouter()


@router.get("/model/info/{model}", tags=["Model"], summary="The weights' checksum")
async def model_info(app: App, user: Admin, model: InPath) -> dict[str, Any]:
    """Return what is known of the served weights."""
    _weights(app, model)
    return app.model_info(model)


@router.get("/model/{model}", tags=["Model"], summary="The weights", response_class=FileResponse)
async def download_model(app: App, user: Admin, model: InPath) -> FileResponse:
    """Return the served weights."""
    path = _weights(app, model)
    return FileResponse(path, media_type="application/octet-stream", filename=f"{model}{path.suffix}")


def _weights(app: App, model: str) -> Path:
    path = app.model_file(model) if model in app.info()["models"] else None
    if path is None:
        raise HTTPException(status_code=404, detail="there is no such model.")
    return Path(path)


@router.get("/logs/", tags=["Others"], summary="The last lines of the log", response_class=PlainTextResponse)
async def logs(user: Admin, lines: Annotated[int, Query(ge=1, le=100_000)] = 300) -> PlainTextResponse:
    """Return them as plain text."""
    path = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
    if not path.is_file():
        raise HTTPException(status_code=404, detail="there is no log.")
    with path.open(encoding="utf-8", errors="replace") as file:
        return PlainTextResponse("".join(deque(file, lines)))


@router.get("/ohif/{path:path}", tags=["Others"], summary="A viewer", response_class=FileResponse)
async def ohif(user: Reader, path: str) -> FileResponse:
    """Return a file of the viewer; any other path is one of its pages."""
    return FileResponse(_files_of_ohif().get(path, OHIF / "index.html"))


def _files_of_ohif() -> dict[str, Path]:
    return {file.name: file for file in OHIF.iterdir() if file.is_file()}


@router.get("/proxy/dicom/{path:path}", tags=["Others"], summary="Read from DICOMweb", response_class=Response)
def proxy(user: Reader, request: Request, path: str) -> Response:
    """Read from the DICOMweb server below its address; writing is closed."""
    service, _, rest = path.partition("/")
    prefixes = {"qido": settings.MONAI_LABEL_QIDO_PREFIX, "wado": settings.MONAI_LABEL_WADO_PREFIX}
    if service in prefixes:
        prefix = prefixes["wado" if rest.endswith("metadata") else service]  # OHIF asks either for metadata
        path = f"{prefix}/{rest}" if prefix else rest
    server = settings.MONAI_LABEL_STUDIES.rstrip("/")
    if not server.startswith(("http://", "https://")) or not RESOURCE.fullmatch(path) or ".." in path.split("/"):
        raise HTTPException(status_code=404, detail="there is no such resource.")
    query = request.query_params.multi_items()
    for name, value in query:
        if not ATTRIBUTE.fullmatch(name) or not value.isprintable() or len(value) > LONGEST:
            raise HTTPException(
                status_code=422, detail=describe([{"loc": (name,), "type": "", "msg": "is not DICOMweb"}])
            )
    login = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    answer = requests.get(f"{server}/{path}", params=query, auth=login if all(login) else None, timeout=TIMEOUT)
    kind = answer.headers.get("content-type", "application/octet-stream")
    return Response(content=answer.content, status_code=answer.status_code, headers={"content-type": kind})
