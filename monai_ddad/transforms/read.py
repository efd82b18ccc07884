"""Reading image files: the only place that turns a file into pixel values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from PIL import Image, UnidentifiedImageError

__all__ = ["ImageReadError", "ReadImage", "ReadImaged", "read_pil"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MIN_SIDE = 8  # pixels; anything smaller is not a picture of a patient
MAX_PIXELS = 2**27  # checked from the header, before anything is decoded


class ImageReadError(ValueError):
    """An image file that cannot be read; the message never holds its path or content."""


def read_pil(path: str | PathLike[str], in_channels: int = 1) -> Image.Image:
    """Decode an image file at its own size to 8 bits a channel.

    16-bit files keep their full range (65535 becomes 255), float files must lie in [0, 1], and transparent pixels
    become black.

    Args:
        path: a PNG, JPEG, TIFF or BMP file.
        in_channels: 1 for grey, 3 for RGB.

    Returns:
        a PIL image of mode ``L`` or ``RGB``.

    Raises:
        ImageReadError: the file is missing, empty, truncated, no image, smaller than 8 x 8, larger than 2**27 pixels,
            or holds values that are not finite or out of range.

    Source: method.md section 1 (PIL open, then convert).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.full((40, 30), 65535, np.uint16)).save(f"{folder}/a.png")
        ...     image = read_pil(f"{folder}/a.png")
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('L', (30, 40), 255)
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width < MIN_SIDE or height < MIN_SIDE:
                raise ImageReadError(f"{width} x {height} pixels, at least {MIN_SIDE} x {MIN_SIDE} are needed")
            if width * height > MAX_PIXELS:
                raise ImageReadError(f"{width} x {height} pixels, at most {MAX_PIXELS} are read")
            image.load()
            return _to_eight_bits(image).convert("L" if in_channels == 1 else "RGB")
    except ImageReadError:
        raise
    except FileNotFoundError:
        raise ImageReadError("no such file") from None
    except UnidentifiedImageError:
        raise ImageReadError(f"not an image file of a known kind ({', '.join(FORMATS)}), or an empty one") from None
    except Image.DecompressionBombError:
        raise ImageReadError(f"more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = "truncated or damaged" if "truncated" in str(error) else f"damaged ({type(error).__name__})"
        raise ImageReadError(f"the image file is {reason}") from None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageReadError("integer values outside 0 to 65535 (16 bits)")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        floats = np.asarray(image)
        if not np.isfinite(floats).all():
            raise ImageReadError(f"{np.count_nonzero(~np.isfinite(floats))} pixels are NaN or infinite")
        if floats.min() < 0 or floats.max() > 1:
            raise ImageReadError("float values outside [0, 1]")
        return Image.fromarray(np.rint(floats * 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image


class ReadImage(Transform):
    """Read an image file to a square 8-bit tensor.

    Args:
        in_channels: 1 for grey, 3 for RGB.
        image_size: side of the result in pixels; the aspect ratio is not kept. None keeps the image's own size.

    Source: method.md section 1 (8-bit image resized with PIL's antialiased bilinear filter).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (30, 40)).save(f"{folder}/a.png")
        ...     ReadImage(image_size=16)(f"{folder}/a.png").shape
        torch.Size([1, 16, 16])
    """

    def __init__(self, in_channels: int = 1, image_size: int | None = 64) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 (grey) or 3 (RGB), got {in_channels}.")
        self.in_channels = in_channels
        self.image_size = image_size

    def __call__(self, path: str | PathLike[str]) -> torch.Tensor:
        """Read one file.

        Args:
            path: see :func:`read_pil`, as are the errors.

        Returns:
            (C, H, W) uint8 tensor.
        """
        image = read_pil(path, self.in_channels)
        if self.image_size is not None:
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.in_channels == 1 else pixels.permute(2, 0, 1).contiguous()


class ReadImaged(MapTransform):
    """Dictionary form of :class:`ReadImage`: replaces each key's path by the image.

    Args:
        keys: keys of the items to read.
        in_channels, image_size: see :class:`ReadImage`.
        allow_missing_keys: don't raise an error if a key is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (30, 40)).save(f"{folder}/a.png")
        ...     ReadImaged("image", in_channels=3, image_size=16)({"image": f"{folder}/a.png"})["image"].shape
        torch.Size([3, 16, 16])
    """

    def __init__(
        self,
        keys: KeysCollection,
        in_channels: int = 1,
        image_size: int | None = 64,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.read = ReadImage(in_channels, image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the files named by the keys; see :class:`ReadImage` for result and errors."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.read(result[key])
        return result
