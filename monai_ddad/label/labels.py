"""Labels as annotators submit them, and as the app saves them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
from PIL import Image

from monai_ddad.checkpoints import atomic_file
from monai_ddad.outputs import HeatMap

__all__ = ["is_empty_label", "write_label"]


def is_empty_label(path: str | os.PathLike[str]) -> bool:
    """Tell whether a label marks nothing at all, by which an annotator says that an image is normal.

    Args:
        path: a NIfTI or NRRD file, a picture, or the plain voxels (``.bin``) that OHIF sends; nothing else counts as
            empty.
    """
    try:
        if str(path).endswith(".bin"):
            return not np.fromfile(path, dtype=np.uint8).any()
        if str(path).endswith(".nrrd"):
            return not nrrd.read(str(path))[0].any()
        if str(path).endswith((".nii", ".nii.gz")):
            return not np.asarray(nib.Nifti1Image.from_filename(path).dataobj).any()
        with Image.open(path) as picture:
            return not np.asarray(picture.convert("L")).any()
    except Exception:  # a damaged file ends in almost any error
        return False


def write_label(heat: HeatMap, values: np.ndarray, path: Path) -> None:
    """Write values on the grid of a map: as a picture of grey levels (``.png``), or as NIfTI (``.nii.gz``).

    Args:
        heat: the map.
        values: of the map's shape.
        path: the file; a volume cannot be a picture.
    """
    with atomic_file(path) as file:
        if path.suffix == ".png":
            Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
        else:
            file.write(gzip.compress(heat.nifti(values).to_bytes(), compresslevel=6, mtime=0))
