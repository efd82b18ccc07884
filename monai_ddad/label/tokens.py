"""Tokens of clients, where MONAI Label's authentication is switched on."""

from __future__ import annotations

from typing import Any

import jwt
from monailabel.endpoints.user import auth

__all__ = ["verify_signatures"]

ALGORITHMS = ["RS256", "ES256", "PS256"]  # signed with a private key; what needs none is never accepted


class _Decoder:
    """Stands for the module ``jwt`` there, which asks for the algorithms that MONAI Label does not name."""

    @staticmethod
    def decode(token: str, key: str, options: dict[str, Any]) -> dict[str, Any]:
        return jwt.decode(token, key, algorithms=ALGORITHMS, options=options)


def verify_signatures() -> None:
    """Let MONAI Label check tokens: as it is, it refuses the right ones, too, with every PyJWT since 2.0."""
    auth.jwt = _Decoder
