"""Labels as the apps make them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from fastapi import HTTPException
from PIL import Image

from monai_ddad.decision.heat import HeatMap
from monai_ddad.io.writing import atomic_file

__all__ = ["asked_percentile", "label_suffix", "write_label"]


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


def label_suffix(heat: HeatMap, grid: np.ndarray) -> str:
    """Return the format of a label that nobody has chosen: PNG where that can hold its place, else NIfTI.

    Args:
        heat: the map of the image.
        grid: (4, 4) affine of the label.
    """
    spacing = np.abs(np.diag(grid)[:2])
    unplaced = np.allclose(grid, np.diag([-spacing[0], -spacing[1], grid[2, 2], 1.0]))
    return ".png" if heat.affine is None and unplaced else ".nii.gz"


def write_label(heat: HeatMap, values: np.ndarray, path: Path, grid: np.ndarray) -> None:
    """Write values on the grid of a map: as a picture of grey levels (``.png``), as NIfTI (``.nii.gz``) or as NRRD.

    Args:
        heat: the map.
        values: of the map's shape.
        path: the file; a volume cannot be a picture.
        grid: (4, 4) affine, RAS+ millimetres; a picture holds its spacing alone, where ITK keeps it.
    """
    with atomic_file(path) as file:
        if path.suffix == ".png":
            Image.fromarray(values.astype(np.uint8)).save(plain := BytesIO(), "PNG")
            file.write(_with_spacing(plain.getvalue(), *np.linalg.norm(grid[:3, :2], axis=0)))
        elif path.suffix == ".nrrd":
            affine = np.diag([-1, -1, 1, 1]) @ grid
            header = {"space": "left-posterior-superior", "space directions": affine[:3, :3].T}
            header |= {"space origin": affine[:3, 3], "encoding": "raw"}
            nrrd.write(file, heat.voxels(values), header)
        else:
            file.write(gzip.compress(heat.nifti(values, grid).to_bytes(), compresslevel=6, mtime=0))


def _with_spacing(png: bytes, columns: float, rows: float) -> bytes:
    """Add the distance of columns and rows to a PNG file, in the chunk in which ITK keeps it."""
    chunk = b"sCAL" + f"\1{columns:.10g}\0{rows:.10g}".encode()
    first = 33  # bytes of the signature and the header chunk
    length, checksum = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[:first] + length + chunk + checksum + png[first:]
