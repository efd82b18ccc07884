"""What all routes share: who may call them, and that they take the parameters alone that they name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request
from fastapi.params import Form
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel

from monai_ddad.label.schemas import Text, describe

__all__ = ["Admin", "Annotator", "App", "InPath", "Reader", "Refusal", "refuse_unknown"]

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

Reader = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Admin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]
App = Annotated[MONAILabelApp, Depends(lambda: app_instance())]
InPath = Annotated[Text, Path()]


class Refusal(BaseModel):
    """Why a request is refused."""

    detail: str


async def refuse_unknown(request: Request) -> None:
    """Refuse parameters in the address or a form that the route does not name, and what is no form where one belongs.

    Raises:
        HTTPException: 422, a parameter is unknown; 415, the body is no form.
    """
    route = request.scope["route"]
    if route.path.endswith("{path:path}"):
        return  # pages of the viewer read the address themselves, and DICOMweb has parameters of its own
    named = route.dependant
    unknown = set(request.query_params) - {field.alias for field in named.query_params}
    if any(isinstance(field.field_info, Form) for field in named.body_params):
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in FORMS:
            unknown |= set(await request.form()) - {field.alias for field in named.body_params}
        elif await request.body():
            raise HTTPException(status_code=415, detail=f"the body must be one of {', '.join(FORMS)}.")
    if unknown:
        errors = [{"loc": (name,), "type": "extra_forbidden"} for name in sorted(unknown)]
        raise HTTPException(status_code=422, detail=describe(errors))
