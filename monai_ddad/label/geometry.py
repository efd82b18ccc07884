"""Where ITK puts an image, which is where 3D Slicer shows it and where a label has to lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from monai_ddad.files import LeftOut, find_files
from monai_ddad.outputs import HeatMap

__all__ = ["grid_of"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's millimetres to RAS+ and back

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # its warnings hold paths


def grid_of(heat: HeatMap, source: Any) -> np.ndarray:
    """Return the affine of a label of an image: ITK's, as clients place images by what it reads of their files.

    ITK's spacing is that of the file's kind: ImagerPixelSpacing of a DICOM film, the resolution of a JPEG or TIFF file.
    A NIfTI file may have two places, of which ITK and nibabel choose by rules of their own.

    Args:
        heat: a map of the image.
        source: what was read: the path of a file, or the list of those of a series.

    Returns:
        (4, 4), RAS+ millimetres; the map's own of DICOM volumes and where ITK cannot read the file.
    """
    read_as = heat.picture.meta["photometry"]["source"]  # type: ignore[attr-defined]
    if isinstance(source, str) and Path(source).is_dir():
        source = [str(path) for path in find_files(source, LeftOut())]
    if isinstance(source, (list, tuple)) and len(source) == 1:
        source = source[0]
    if not isinstance(source, str) or (read_as == "dicom" and heat.affine is not None):
        return heat.grid
    size, grid = _by_itk(source)
    return grid if grid is not None and size == heat.voxels().shape else heat.grid


def _by_itk(path: str) -> tuple[tuple[int, ...], np.ndarray | None]:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return (), None
    sides = min(reader.GetDimension(), 3)
    grid, size = np.eye(4), [1, 1, 1]
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:sides, :sides]
    grid[:sides, :sides] = direction * reader.GetSpacing()[:sides]
    grid[:sides, 3] = reader.GetOrigin()[:sides]
    size[:sides] = reader.GetSize()[:sides]
    return tuple(size), LPS @ grid
