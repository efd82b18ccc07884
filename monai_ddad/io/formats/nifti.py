"""NIfTI volumes."""

from __future__ import annotations

from math import prod
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from monai_ddad.io.formats.decoded import DecodedImage, ImageReadError, check_size, record
from monai_ddad.io.formats.photometry import stretch

__all__ = ["NIFTI_HEAD", "looks_like_nifti", "read_nifti"]

NIFTI_HEAD = 540  # bytes of the longer header
MAX_OFFSET = 2**24  # bytes before the voxels: header and extensions
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
MAGIC_1, MAGIC_2 = b"n+1\0", b"n+2\0\r\n\x1a\n"


def looks_like_nifti(head: bytes) -> bool:
    """Say whether a file's first bytes are a NIfTI header with the voxels in the same file.

    Example:
        >>> looks_like_nifti(bytes(344) + b"n+1" + bytes(200)), looks_like_nifti(bytes(540))
        (True, False)
    """
    return head[344:348] == MAGIC_1 or head[4:12] == MAGIC_2


def read_nifti(file: BinaryIO) -> DecodedImage:
    """Read a volume.

    Of a single slice, which viewers send films as, 8-bit values are kept as those of a picture, and colours are taken.

    Args:
        file: a NIfTI-1 or NIfTI-2 file, unpacked, open for reading at its start; no more is read than its header
            claims.

    Raises:
        ImageReadError: the volume is truncated, damaged, too large, has several time points, complex numbers, values
            that are not finite, or several slices in colours.

    Example:
        >>> from io import BytesIO
        >>> voxels = np.arange(8 * 8 * 3, dtype=np.int16).reshape(8, 8, 3)
        >>> volume = read_nifti(BytesIO(nib.Nifti1Image(voxels, np.diag([2.0, 2, 5, 1])).to_bytes()))
        >>> volume.values.shape, float(volume.values.max()), volume.affine.diagonal().tolist()
        ((1, 8, 8, 3), 1.0, [2.0, 2.0, 5.0, 1.0])
    """
    head = file.read(NIFTI_HEAD)
    kind = nib.Nifti2Image if head[4:12] == MAGIC_2 else nib.Nifti1Image
    try:
        header = kind.header_class(head[: 540 if kind is nib.Nifti2Image else 348])
        sides, colours = _sides(header)
        size = header.get_data_offset() + prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        content = head + file.read(max(size - len(head), 0))
        if len(content) < size:
            raise ImageReadError("the NIfTI file is truncated")
        image = kind.from_bytes(content)
        affine = np.asarray(image.affine, dtype=np.float64)
        if colours:
            bytes_ = (
                np.ascontiguousarray(cast(ArrayProxy, image.dataobj).get_unscaled()).view(np.uint8).reshape(*sides, 3)
            )
            values = np.moveaxis(bytes_, -1, 0)
        else:
            values = np.array(image.get_fdata(dtype=np.float32, caching="unchanged")).reshape(sides)
    except HeaderDataError:
        raise ImageReadError("the header of the NIfTI file is damaged") from None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ImageReadError("the affine of the NIfTI file has no inverse")
    if colours:
        return DecodedImage(values, record("nifti", "eight bits"), affine)
    if 1 in sides and header.get_data_dtype() == np.uint8 and header.get_slope_inter() in ((None, None), (1.0, 0.0)):
        return DecodedImage(values[None] / np.float32(255), record("nifti", "eight bits"), affine)
    scaled, how = stretch(values, _limits(header))
    return DecodedImage(scaled[None], record("nifti", how), affine)


def _sides(header: nib.Nifti1Header) -> tuple[tuple[int, int, int], bool]:
    """Return the three sides, and whether there are colours, which a single slice may have."""
    shape = header.get_data_shape()
    if len(shape) < 2 or min(shape, default=0) < 1:
        raise ImageReadError("the NIfTI file has fewer than 2 dimensions")
    sides = (int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) > 2 else 1)
    dtype = header.get_data_dtype()
    vector = 1 in sides and shape[3:] == (1, 3) and dtype == np.uint8
    if any(side != 1 for side in shape[3:]) and not vector:
        raise ImageReadError("the NIfTI file holds several volumes, one is expected: split it")
    colours = vector or (1 in sides and dtype == RGB)
    check_size(sides, 3 if colours else 1)
    if dtype.kind not in "iuf" and not colours:
        raise ImageReadError("the NIfTI file holds colours or complex numbers, grey values are expected")
    if not 0 <= header.get_data_offset() <= MAX_OFFSET:
        raise ImageReadError("the header of the NIfTI file is damaged")
    return sides, colours


def _limits(header: nib.Nifti1Header) -> tuple[float, float] | None:
    """Return the range of the stored type after its scaling; None for floats."""
    dtype, (slope, intercept) = header.get_data_dtype(), header.get_slope_inter()
    if dtype.kind == "f":
        return None
    ends = (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = sorted(float(end) * (slope or 1.0) + (intercept or 0.0) for end in ends)
    return low, high
