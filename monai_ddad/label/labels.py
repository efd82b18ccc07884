"""Labels as the apps make them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from fastapi import HTTPException
from PIL import Image

from monai_ddad.checkpoints import atomic_file
from monai_ddad.outputs import HeatMap

__all__ = ["asked_percentile", "write_label"]


def asked_percentile(request: Mapping[Any, Any], default: float) -> float:
    """Return the ``"percentile"`` of normal pixels that a request asks for.

    Raises:
        HTTPException: 400, it is no number in [0, 100).
    """
    asked = request.get("percentile", default)
    try:
        percentile = float(asked)
    except (TypeError, ValueError):
        percentile = -1.0
    if not 0 <= percentile < 100:
        raise HTTPException(status_code=400, detail="percentile must be a number in [0, 100).")
    return percentile


def write_label(heat: HeatMap, values: np.ndarray, path: Path) -> None:
    """Write values on the grid of a map: as a picture of grey levels (``.png``), as NIfTI (``.nii.gz``) or as NRRD.

    Args:
        heat: the map.
        values: of the map's shape.
        path: the file; a volume cannot be a picture.
    """
    with atomic_file(path) as file:
        if path.suffix == ".png":
            Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
        elif path.suffix == ".nrrd":
            grid = heat.nifti(values)
            affine = np.diag([-1, -1, 1, 1]) @ grid.affine
            header = {"space": "left-posterior-superior", "space directions": affine[:3, :3].T}
            header |= {"space origin": affine[:3, 3], "encoding": "raw"}
            nrrd.write(file, np.asarray(grid.dataobj), header)
        else:
            file.write(gzip.compress(heat.nifti(values).to_bytes(), compresslevel=6, mtime=0))
