"""Whether an annotation marks anything."""

from __future__ import annotations

import gzip
import os
import re
from bz2 import BZ2File
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from PIL import Image

from monai_ddad.io.formats.decoded import MAX_PIXELS, ImageReadError
from monai_ddad.io.formats.nifti import MAGIC_2, MAX_OFFSET, NIFTI_HEAD, looks_like_nifti
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.picture import FORMATS, check_picture

__all__ = ["is_empty_label"]

CHUNK = 2**20  # values that are looked at at once
NRRD_HEAD = 2**16  # bytes
NRRD_FIELD = re.compile(r"([a-z ]+): (.*)")
NRRD_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
NRRD_NUMBERS = {name: code for code, names in NRRD_TYPES.items() for name in names.split(", ")}
NRRD_PACKED: dict[str, Callable[[BinaryIO], Any]] = {"raw": lambda file: file}
NRRD_PACKED |= dict.fromkeys(("gzip", "gz"), lambda file: gzip.GzipFile(fileobj=file))
NRRD_PACKED |= dict.fromkeys(("bzip2", "bz2"), BZ2File)


def is_empty_label(path: str | os.PathLike[str]) -> bool:
    """Tell whether a label marks nothing at all, by which an annotator says that an image is normal.

    Args:
        path: a NIfTI or NRRD file, a picture, or the plain voxels (``.bin``) that OHIF sends. No more is read of it
            than its header claims, and nothing of any other file.

    Raises:
        ImageReadError: the file is none of these, damaged, without a voxel or too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (30, 40)).save(f"{folder}/label.png")
        ...     is_empty_label(f"{folder}/label.png")
        True
    """
    name = os.fspath(path)
    try:
        with open_image(path) as file:
            if name.endswith(".bin"):
                return _is_zero(file, [os.fstat(file.fileno()).st_size], np.dtype(np.uint8))
            if name.endswith(".nrrd"):
                return _is_empty_nrrd(file)
            if name.endswith(".nii.gz"):
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return _is_empty_nifti(cast(BinaryIO, unpacked))
            return _is_empty_nifti(file) if name.endswith(".nii") else _is_empty_picture(file)
    except ImageReadError:
        raise
    except Exception as error:  # a damaged file ends in almost any error
        raise ImageReadError(f"the file is damaged ({type(error).__name__})") from None


def _is_zero(file: BinaryIO, sides: Sequence[int], dtype: np.dtype, slope: float = 1.0, intercept: float = 0.0) -> bool:
    """Tell whether all values that follow in a file are 0."""
    _check_sides(sides)
    left, zero = prod(sides), True
    while left:
        content = file.read(min(left, CHUNK) * dtype.itemsize)
        if len(content) < min(left, CHUNK) * dtype.itemsize:
            raise ImageReadError("the file is truncated")
        left -= min(left, CHUNK)
        values = np.frombuffer(content, np.dtype(np.uint8) if dtype.fields else dtype)  # the bytes of colours
        zero &= not ((values * slope + intercept) if (slope, intercept) != (1, 0) else values).any()
    return zero


def _check_sides(sides: Sequence[int]) -> None:
    if min(sides, default=0) < 1:
        raise ImageReadError("it has no voxels")
    if prod(sides) > MAX_PIXELS:
        raise ImageReadError(f"the header claims more than {MAX_PIXELS} pixels")


def _is_empty_nifti(file: BinaryIO) -> bool:
    head = file.read(NIFTI_HEAD)
    if not looks_like_nifti(head):
        raise ImageReadError("not a NIfTI volume with its voxels in the same file")
    second = head[4:12] == MAGIC_2
    header = (nib.Nifti2Header if second else nib.Nifti1Header)(head[: 540 if second else 348])
    slope, intercept = header.get_slope_inter()
    if not 0 <= header.get_data_offset() <= MAX_OFFSET:
        raise ImageReadError("the header is damaged")
    file.seek(header.get_data_offset())
    scaling = (1.0 if slope is None else slope, intercept or 0.0)
    return _is_zero(file, header.get_data_shape(), header.get_data_dtype(), *scaling)


def _is_empty_nrrd(file: BinaryIO) -> bool:
    head = file.read(NRRD_HEAD)
    end = re.search(rb"\n\s*?\n", head)
    first, *lines = head[: end.start() if end else 0].decode("ascii", "replace").split("\n")
    if not re.fullmatch(r"NRRD000[1-5]\s*", first) or end is None:
        raise ImageReadError("not an NRRD file of format 1 to 5 with its voxels in the same file")
    found = [match.groups() for match in map(NRRD_FIELD.match, lines) if match]
    fields = {name.replace(" ", ""): value.strip() for name, value in found}
    if len(fields) < len(found):
        raise ImageReadError("a field of the header is there twice")
    if "datafile" in fields or any(fields.get(name, "0") != "0" for name in ("lineskip", "byteskip")):
        raise ImageReadError("the voxels must follow the header: data files and skips are not taken")
    number = NRRD_NUMBERS[fields["type"]]
    dtype = np.dtype(number if number[1] == "1" else {"little": "<", "big": ">"}[fields["endian"]] + number)
    sides = [int(side) for side in fields["sizes"].split()]
    if len(sides) != int(fields["dimension"]):
        raise ImageReadError("the header is damaged")
    file.seek(end.end())
    with NRRD_PACKED[fields["encoding"]](file) as unpacked:
        empty = _is_zero(unpacked, sides, dtype)
        if unpacked.read(1):
            raise ImageReadError("there are more voxels than the header says")
    return empty


def _is_empty_picture(file: BinaryIO) -> bool:
    """Look at the numbers themselves: indices of a palette, channels of colours that may be faint."""
    check_picture(file)
    with Image.open(file, formats=FORMATS) as image:
        _check_sides((*image.size, len(image.getbands())))
        if getattr(image, "n_frames", 1) > 1:
            raise ImageReadError("it holds several pictures, one is expected")
        if len(image.getbands()) > 1 and ";16" in str(image.tile):
            raise ImageReadError("it has colours of 16 bits, 8 are expected")
        values = np.asarray(image).reshape(image.height, image.width, -1)
        if image.getbands()[-1] == "A":  # what is opaque or transparent all over marks nothing
            values = np.dstack([values[..., :-1], values[..., -1:] != values[0, 0, -1]])
        return not values.any() and (image.palette is None or not any(image.palette.palette[:3]))
