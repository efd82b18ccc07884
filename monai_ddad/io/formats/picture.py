"""Pictures: PNG, JPEG, TIFF and BMP files."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from monai_ddad.io.formats.codestream import check_scans
from monai_ddad.io.formats.decoded import DecodedImage, ImageReadError, check_size, record
from monai_ddad.io.formats.photometry import stretch
from monai_ddad.io.formats.tiff import check_tiff, looks_like_tiff

__all__ = ["FORMATS", "check_picture", "read_picture"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MAX_JPEG = 2**28  # bytes
SIXTEEN_BITS = (0, 65535)


def read_picture(file: BinaryIO, in_channels: int) -> DecodedImage:
    """Decode a picture at its own size.

    8-bit values are kept; 16-bit ones are scaled from the picture's smallest to its largest value; float ones must lie
    in [0, 1]. Transparent pixels become black.

    Args:
        file: a PNG, JPEG, TIFF or BMP file, open for reading.
        in_channels: 1 for grey, 3 for RGB.

    Raises:
        ImageReadError: the file is empty, truncated, no picture, smaller than 8 x 8, larger than 2**27 pixels, or holds
            values that are not finite or out of range.

    Source: method.md section 1 (PIL open, then convert).

    Example:
        >>> from io import BytesIO
        >>> Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(file := BytesIO(), "PNG")
        >>> picture = read_picture(file, in_channels=1)
        >>> picture.values.shape, float(picture.values.max()), picture.photometry["range"]
        ((1, 8, 8), 1.0, 'min to max')
    """
    check_picture(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            check_size((image.height, image.width))
            image.load()
            if image.mode.startswith("I"):
                return _sixteen_bits(np.asarray(image))
            if image.mode == "F":
                return _floats(np.asarray(image))
            pixels = np.array(_opaque(image).convert("L" if in_channels == 1 else "RGB"))
    except UnidentifiedImageError:
        kinds = ", ".join(("DICOM", "NIfTI", *FORMATS))
        raise ImageReadError(f"not an image file of a known kind ({kinds}), or a damaged one") from None
    except Image.DecompressionBombError:
        raise ImageReadError("the header claims more pixels than PIL's limit allows") from None
    except (OSError, SyntaxError, EOFError) as error:
        reason = "truncated or damaged" if "truncated" in str(error) else f"damaged ({type(error).__name__})"
        raise ImageReadError(f"the picture is {reason}") from None
    return DecodedImage(
        pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), record("picture", "eight bits")
    )


def check_picture(file: BinaryIO) -> None:
    """Refuse what PIL would take long to open or to decode, and rewind the file.

    Raises:
        ImageReadError: a JPEG file of too many scans or bytes, or a TIFF file whose tags have too many values.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        check_scans(file.read(MAX_JPEG))
        if file.read(1):
            raise ImageReadError(f"the JPEG file is larger than {MAX_JPEG} bytes")
    elif looks_like_tiff(head):
        check_tiff(file, head)
    file.seek(0)


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")


def _sixteen_bits(values: np.ndarray) -> DecodedImage:
    if values.min() < SIXTEEN_BITS[0] or values.max() > SIXTEEN_BITS[1]:
        raise ImageReadError("integer values outside 0 to 65535 (16 bits)")
    scaled, how = stretch(values.astype(np.float64), SIXTEEN_BITS)
    return DecodedImage(scaled.astype(np.float32)[None], record("picture", how))


def _floats(values: np.ndarray) -> DecodedImage:
    if not np.isfinite(values).all():
        raise ImageReadError(f"{np.count_nonzero(~np.isfinite(values))} pixels are NaN or infinite")
    if values.min() < 0 or values.max() > 1:
        raise ImageReadError("float values outside [0, 1]")
    return DecodedImage(values.astype(np.float32)[None], record("picture", "as stored"))
