"""What MONAI Label's endpoints let through and should not, and the tokens that it refuses and should not."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import jwt
from fastapi import FastAPI, HTTPException, Request
from monailabel.endpoints import proxy
from monailabel.endpoints.user import auth

__all__ = ["guard_endpoints", "verify_signatures"]

ALGORITHMS = ["RS256", "ES256", "PS256"]  # signed with a private key; what needs none is never accepted


class _Decoder:
    """Stands for the module ``jwt`` there, which asks for the algorithms that MONAI Label does not name."""

    @staticmethod
    def decode(token: str, key: str, options: dict[str, Any]) -> dict[str, Any]:
        return jwt.decode(token, key, algorithms=ALGORITHMS, options=options)


def verify_signatures() -> None:
    """Let MONAI Label check tokens: as it is, it refuses the right ones, too, with every PyJWT since 2.0."""
    auth.jwt = _Decoder


def guard_endpoints(server: FastAPI) -> None:
    """Keep the proxy within the DICOMweb interface, and remove the call that drops the app without asking for a token.

    Args:
        server: MONAI Label's.
    """
    forward = proxy.proxy_dicom

    async def proxy_dicom(request: Request, op: str, path: str) -> Any:
        if ".." in PurePosixPath(unquote(path)).parts:
            raise HTTPException(status_code=404, detail="there is no such resource.")
        return await forward(request, op, path)

    proxy.proxy_dicom = proxy_dicom
    server.router.routes[:] = [route for route in server.router.routes if getattr(route, "path", "") != "/reload"]
