"""One original becomes one image of a benchmark."""

from __future__ import annotations

import io
import os
from typing import Literal

import numpy as np
from PIL import Image

from monai_ddad.io.formats.dicom_file import Header
from monai_ddad.io.formats.dicom_layout import Layout
from monai_ddad.io.formats.dicom_parse import parse_dicom
from monai_ddad.io.formats.dicom_pixels import decode_pixels
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.writing import atomic_file
from monai_ddad.transforms import ImageReadError, ReadImage

__all__ = ["Conversion", "authors_pixels", "make_image"]

Conversion = Literal["copy", "dicom", "authors"]

SIDE = 512  # pixels of the benchmarks' films


def make_image(source: str, target: str, conversion: Conversion) -> str | None:
    """Make one image file, which appears only when it is whole.

    Args:
        source: the original.
        target: file to write.
        conversion: ``"copy"``: the file as it is, if it can be read; ``"dicom"``: a film read with
            :class:`monai_ddad.transforms.ReadImage`, ``"authors"``: with :func:`authors_pixels`, both resized to
            512 x 512 with PIL's bilinear filter and written as 8-bit PNG.

    Returns:
        None, or what is wrong with the original.

    Example:
        >>> make_image("absent.dcm", "a.png", "dicom")
        'no such file'
    """
    try:
        if conversion == "copy":
            content = _copy(source)
        else:
            content = _to_png(_read_film(source) if conversion == "dicom" else authors_pixels(source))
    except ImageReadError as error:
        return str(error)
    with atomic_file(target) as file:
        file.write(content)
    return None


def _copy(source: str) -> bytes:
    """Return what is in a file that can be read, and is the same before and after it was."""
    contents = []
    for check in (ReadImage(in_channels=1), None):
        with open_image(source) as file:
            try:
                contents.append(file.read())
            except OSError:
                raise ImageReadError("it cannot be read") from None
        if check is not None:
            check(source)
    if contents[0] != contents[1]:
        raise ImageReadError("the file changed while it was read")
    return contents[0]


def authors_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Turn a DICOM film into 8 bits as the authors' script does.

    No rescale, window or LUT: MONOCHROME1 is subtracted from its maximum, then anything but 8-bit data is scaled from
    its minimum and maximum to 0 to 255 and truncated. A constant film, which ends in an error there, becomes 0.

    Args:
        path: a DICOM file.

    Returns:
        (H, W) or (H, W, 3) uint8.

    Raises:
        ImageReadError: the file is no DICOM, has no pixels, too few or too many, several frames, or is damaged.

    Source: method.md section 1 (CXR pre-processing).
    """
    try:
        with quiet, open_image(path) as opened:
            file = parse_dicom(opened)
            layout = Layout.of(Header(file.dataset))
            if layout.frames != 1:
                raise ImageReadError(f"{layout.frames} frames, one film was expected")
            pixels = decode_pixels(file, layout)[0]
    except ImageReadError:
        raise
    except Exception as error:  # a damaged file ends in almost any error
        raise ImageReadError(f"no DICOM file, one without pixels, or a damaged one ({type(error).__name__})") from None
    if layout.samples == 1:
        pixels = pixels[..., 0]
    if layout.photometric == "MONOCHROME1":
        pixels = np.max(pixels) - pixels
    if pixels.dtype != np.uint8:
        low, high = np.min(pixels), np.max(pixels)
        if low == high:
            return np.zeros(pixels.shape, np.uint8)
        pixels = ((pixels - low) * 1.0 / (high - low) * 255).astype(np.uint8)
    return pixels


def _read_film(path: str) -> np.ndarray:
    image = ReadImage(in_channels=1)(path)
    if image.ndim != 3:
        raise ImageReadError(f"{tuple(image.shape[1:])} voxels, one film was expected")
    return np.rint(np.asarray(image[0]) * 255).astype(np.uint8)


def _to_png(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
