"""The server that has loaded the app, made to answer with the app's own routes and to those alone who may ask."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Any

import jwt
import requests
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from starlette.middleware import Middleware

from monai_ddad.label.origins import OwnOrigin
from monai_ddad.label.routes import make_router
from monai_ddad.label.schemas import describe

__all__ = ["guard_server", "verify_signatures"]

logger = logging.getLogger(__name__)

ALGORITHMS = ["RS256", "ES256", "PS256"]  # signed with a private key; what needs none is never accepted
KEPT = ("/", "/docs", "/favicon.ico", "/openapi.json")  # MONAI Label's own pages on the routes
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Decoder:
    """Stands for the module ``jwt`` there, which asks for the algorithms that MONAI Label does not name."""

    @staticmethod
    def decode(token: str, key: str, options: dict[str, Any]) -> dict[str, Any]:
        payload = jwt.decode(token, key, algorithms=ALGORITHMS, options=options)
        roles: Any = payload
        for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
            roles = roles.get(name) if isinstance(roles, dict) else None
        if not isinstance(roles, list) or not isinstance(payload.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME), str):
            raise jwt.InvalidTokenError("the token names no user or no roles")
        return payload


def verify_signatures() -> None:
    """Let MONAI Label check tokens: as it is, it refuses the right ones, too, with every PyJWT since 2.0."""
    auth.jwt = _Decoder


def guard_server(server: FastAPI, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
    """Give MONAI Label's server the app's routes, and close it to other sites' pages.

    Args:
        server: MONAI Label's, which may have started.
        hosts: its names beside those of the loopback.
        origins: of pages that may call it.
    """
    server.router.routes[:] = [route for route in server.router.routes if getattr(route, "path", None) in KEPT]
    server.include_router(make_router())
    server.openapi_schema = None
    server.user_middleware[:] = [Middleware(OwnOrigin, hosts=hosts, origins=origins)]
    if origins:
        allow = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        server.user_middleware.append(allow)
    server.exception_handlers |= {
        RequestValidationError: _invalid,
        ImageNotFoundException: _not_found,
        LabelNotFoundException: _not_found,
        requests.RequestException: _no_answer,
        OSError: _not_written,
        Exception: _failed,
    }
    server.middleware_stack = None  # it is made anew for the next request


def _say(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return _say(422, describe(list(error.errors())))


def _not_found(request: Request, error: Exception) -> JSONResponse:
    return _say(404, "there is no such image or label in the datastore.")


def _no_answer(request: Request, error: Exception) -> JSONResponse:
    return _say(502, "the DICOMweb server or the identity provider does not answer, or refuses.")


def _not_written(request: Request, error: OSError) -> JSONResponse:
    if error.errno == errno.ENAMETOOLONG:
        return _say(422, "a name is too long for a file.")
    if error.errno in FULL:
        return _say(507, "the disk is full: make room and try again.")
    if error.errno in CLOSED:
        return _say(507, "a file or folder of the datastore cannot be read or written: change its permissions.")
    return _failed(request, error)


def _failed(request: Request, error: Exception) -> JSONResponse:
    logger.exception("a request has failed", exc_info=error)
    return _say(500, f"the server has failed ({type(error).__name__}); its log says where.")
