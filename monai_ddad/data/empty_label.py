"""Whether an annotation marks anything."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
from PIL import Image

__all__ = ["is_empty_label"]


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
            import nrrd  # comes with MONAI Label

            return not nrrd.read(str(path))[0].any()
        if str(path).endswith((".nii", ".nii.gz")):
            return not np.asarray(nib.Nifti1Image.from_filename(path).dataobj).any()
        with Image.open(path) as picture:
            return not np.asarray(picture.convert("L")).any()
    except Exception:  # a damaged file ends in almost any error
        return False
