"""Sessions: images that a client sends to be scored, and that are kept for a while."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, File, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.generic import get_mime_type
from monailabel.utils.sessions import SessionInfo, Sessions
from pydantic import Field

from monai_ddad.label.routes.access import App, Reader
from monai_ddad.label.schemas import Text
from monai_ddad.label.uploads import IMAGES, receive

__all__ = ["find_session", "router"]

MOST = 5000  # files of a session

router = APIRouter(prefix="/session", tags=["Session"])


def _sessions(app: MONAILabelApp) -> Sessions:
    sessions = app.sessions()
    if sessions is None:
        raise HTTPException(status_code=406, detail="sessions are switched off.")
    return sessions


def find_session(app: MONAILabelApp, session_id: UUID, update_ts: bool = True) -> SessionInfo:
    """Return a session.

    Raises:
        HTTPException: 404, there is no such one, or it has expired; 406, there are none.
    """
    found = _sessions(app).get_session(str(session_id), update_ts=update_ts)
    if found is None:
        raise HTTPException(status_code=404, detail="there is no such session.")
    return found


@router.get("/{session_id}", summary="A session")
async def get_session(app: App, user: Reader, session_id: UUID, update_ts: bool = False, image: bool = False) -> Any:
    """Return what is known of a session, or its image."""
    found = find_session(app, session_id, update_ts)
    if not image:
        return found.to_json()
    path = Path(found.image)
    if not path.is_file():
        raise HTTPException(status_code=404, detail="the session holds several files.")
    return FileResponse(path, media_type=get_mime_type(path), filename=path.name)


@router.put("/", summary="Send an image")
async def create_session(
    app: App,
    user: Reader,
    files: Annotated[list[UploadFile], File()],
    client_id: Annotated[Text, Form()] = "",
    uncompress: bool = False,
    expiry: Annotated[int, Field(ge=0, le=10**9)] = 0,
) -> dict[str, Any]:
    """Keep a file, or the files of a series, for some seconds; archives are not taken."""
    sessions = _sessions(app)
    if uncompress:
        raise HTTPException(status_code=422, detail="uncompress: archives are not taken, send the files themselves.")
    if len(files) > MOST:
        raise HTTPException(status_code=422, detail=f"files: at most {MOST} are taken.")
    with tempfile.TemporaryDirectory() as folder:
        series = Path(folder) / "series"
        series.mkdir()
        received = [receive(file, series, IMAGES, "files", number) for number, file in enumerate(files, start=1)]
        image = series if len(received) > 1 else received[0]
        session_id, session = sessions.add_session(str(image), expiry)
    return {"session_id": session_id, "session_info": session.to_json()}


@router.delete("/{session_id}", summary="End a session")
async def remove_session(app: App, user: Reader, session_id: UUID) -> dict[str, Any]:
    """Remove a session and its image."""
    found = find_session(app, session_id)
    _sessions(app).remove_session(str(session_id))
    return found.to_json()
