"""What the objects of a finding say of themselves: who made them, and by which UIDs they are known."""

from __future__ import annotations

from typing import Any

from pydicom.uid import generate_uid

from monai_ddad.deploy.findings import ImageFinding, Model

__all__ = ["MAKER", "NOTICE", "equipment", "object_uids"]

MAKER = "monai_ddad"
NOTICE = "RESEARCH USE, NOT A DIAGNOSIS"


def object_uids(finding: ImageFinding, model: Model, series_number: int) -> dict[str, Any]:
    """Return UIDs that are the same whenever the same model finds the same of the same images, so nothing doubles."""
    known = [str(dataset.SOPInstanceUID) for dataset in finding.image.datasets]
    known += [model.name, model.version, finding.result.score, f"{model.percentile:g} {model.alpha:g} {series_number}"]
    return {
        "series_instance_uid": generate_uid(entropy_srcs=["series", *known]),
        "series_number": series_number,
        "sop_instance_uid": generate_uid(entropy_srcs=["instance", *known]),
        "instance_number": 1,
    }


def equipment(model: Model) -> dict[str, Any]:
    """Return the elements of the equipment module."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": model.name,
        "software_versions": model.software,
        "device_serial_number": model.version,
    }
