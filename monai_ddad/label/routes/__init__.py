"""The routes that the app serves in the place of MONAI Label's own, with the same paths and replies.

What is left out has no use here, or cannot be made safe: whole-slide images, scoring methods, weights that are sent to
the server or deleted, archives, writing to the PACS, the state of the GPU and the call that drops the app.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends
from monailabel.config import settings
from monailabel.endpoints import login

from monai_ddad.label.routes import datastore, pages, sessions, tasks
from monai_ddad.label.routes.access import Refusal, refuse_unknown

__all__ = ["make_router"]


def make_router() -> APIRouter:
    """Return all routes; each refuses a parameter that it does not name."""
    router = APIRouter(
        prefix=settings.MONAI_LABEL_API_STR,
        dependencies=[Depends(refuse_unknown)],
        responses={422: {"model": Refusal}},
    )
    parts = [tasks.router, datastore.router, sessions.router, pages.router]
    for part in [login.router, *parts] if settings.MONAI_LABEL_AUTH_ENABLE else parts:
        router.include_router(part)
    return router
