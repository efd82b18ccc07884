"""What can be measured of one image file: its format, its size, its pixels."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image
from pydicom.uid import UID

from monai_ddad.io.files import file_hash
from monai_ddad.io.formats.dicom_file import Header
from monai_ddad.io.formats.dicom_parse import parse_dicom
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.picture import FORMATS, check_picture
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.transforms import ImageReadError, PlainResize, ReadImage

__all__ = ["ImageProperties", "measure_pixels", "read_properties"]

Source = str | os.PathLike[str] | list[Any]

BLACK, SATURATED = 5 / 255, 250 / 255  # JPEG leaves a little noise on black and on white
BORDER = 0.05  # width of the border, a share of the shorter side
STANDARD_LUMINANCE = 3688  # sum of the standard's example table, which quality 50 uses as it is
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
# coded values that may be shown; a damaged or careless header can hold anything in their place
MODALITIES = re.compile("CR|CT|DX|ES|IO|MG|MR|NM|OCT|OP|OPT|OT|PT|PX|RF|RG|SC|SM|US|XA|XC")
PHOTOMETRIC = re.compile("MONOCHROME[12]|RGB|PALETTE COLOR|YBR_(FULL|FULL_422|PARTIAL_420|PARTIAL_422|ICT|RCT)")


@dataclass(frozen=True)
class ImageProperties:
    """Properties of one image.

    Attributes:
        file, content: SHA-256 of the file's bytes and of the grey pixels as decoded.
        thumbnail: (S, S) uint8 grey image.
        format: kind of file.
        mode: ``"grey"``, ``"RGB"`` or ``"RGB with equal channels"``.
        bits: bits a stored value; None where the format does not say.
        coded: coded values of a DICOM header by name: modality, photometric interpretation, transfer syntax.
        measures: numbers by name, see :func:`measure_pixels`; and ``is_rgb`` (0 or 1), ``file_size`` (bytes),
            ``width`` and ``height`` (pixels), ``aspect`` (width / height) and, for JPEG files, ``jpeg_quality``
            (an estimate, too high below 25).
    """

    file: str
    content: str
    thumbnail: np.ndarray
    format: str
    mode: str
    bits: int | None
    coded: dict[str, str] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)


def read_properties(source: Source, image_size: int) -> ImageProperties:
    """Read an image and measure it; of a volume, the middle slice across its shortest side.

    Args:
        source: see :class:`monai_ddad.transforms.ReadImage`, as are the errors.
        image_size: side of the thumbnail in pixels; the aspect ratio is not kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (30, 40), "red").save(f"{folder}/a.png")
        ...     found = read_properties(f"{folder}/a.png", image_size=16)
        >>> found.format, found.mode, found.measures["width"], found.thumbnail.shape
        ('PNG', 'RGB', 30.0, (16, 16))
    """
    paths = source if isinstance(source, list) else [source]
    before = _states(paths)
    image = ReadImage(in_channels=1)(source)
    try:
        found = _measure(source, paths, image, image_size)
    except (ImageReadError, OSError, SyntaxError, ValueError) as error:  # of a file that could be read a moment ago
        if isinstance(error, ImageReadError) and _states(paths) == before:
            raise
        raise ImageReadError(f"the file went or changed while it was read ({type(error).__name__})") from None
    if _states(paths) != before:
        raise ImageReadError("the file changed while it was read")
    return found


def _states(paths: list[Any]) -> list[tuple[int, int]]:
    """Return size and time of files, by which it is told whether they are still the same."""
    try:
        return [(state.st_size, state.st_mtime_ns) for state in map(os.stat, paths)]
    except OSError:
        return []


def _measure(source: Source, paths: list[Any], image: MetaTensor, image_size: int) -> ImageProperties:
    header = _header(paths[0], image.meta["photometry"]["source"])
    if header["mode"] == "RGB" and image.ndim == 3:
        colour = ReadImage(in_channels=3)(source)
        header["mode"] += " with equal channels" if bool((colour == colour[:1]).all()) else ""
    pixels = image.numpy()
    grey = _picture(pixels)
    measures = {
        "is_rgb": float(header["mode"] != "grey"),
        "file_size": float(sum(map(os.path.getsize, paths))),
        "width": float(grey.shape[1]),
        "height": float(grey.shape[0]),
        "aspect": grey.shape[1] / grey.shape[0],
        **measure_pixels(grey),
        **header.pop("measures", {}),
    }
    thumbnail = np.rint(255 * PlainResize(image_size)(torch.from_numpy(grey)[None])[0].numpy()).astype(np.uint8)
    files = sorted(map(file_hash, paths))
    content = _sha256(str(pixels.shape).encode() + pixels.tobytes())
    return ImageProperties(_sha256("".join(files).encode()), content, thumbnail, measures=measures, **header)


def measure_pixels(grey: np.ndarray) -> dict[str, float]:
    """Measure what needs no knowledge of the disease.

    Args:
        grey: (H, W) float in [0, 1], at least 3 x 3.

    Returns:
        ``mean``, ``standard_deviation``, ``black`` and ``saturated`` (shares of the pixels, at most 5 and at least 250
        of 255), ``border`` (mean of the outermost 5 %) and ``sharpness`` (variance of the Laplacian).

    Example:
        >>> measure_pixels(np.zeros((8, 8)))["black"]
        1.0
    """
    width = max(1, round(BORDER * min(grey.shape)))
    inner = grey[width:-width, width:-width]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    total = grey.sum(dtype=float)
    return {
        "mean": float(total / grey.size),
        "standard_deviation": float(grey.std(dtype=float)),
        "black": float((grey <= BLACK).mean()),
        "saturated": float((grey >= SATURATED).mean()),
        "border": float((total - inner.sum(dtype=float)) / (grey.size - inner.size)),
        "sharpness": float(laplacian.var(dtype=float)),
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _picture(pixels: np.ndarray) -> np.ndarray:
    """Take the (H, W) picture of (1, H, W), or of a (1, I, J, K) volume the middle slice across its shortest side."""
    if pixels.ndim == 3:
        return pixels[0]
    axis = min((3, 2, 1), key=lambda side: pixels.shape[side])
    return np.ascontiguousarray(pixels.take(pixels.shape[axis] // 2, axis)[0].T)


def _header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    if kind == "picture":
        return _picture_header(path)
    return _dicom_header(path) if kind == "dicom" else {"format": "NIfTI", "mode": "grey", "bits": None}


def _picture_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    with open_image(path) as opened:
        check_picture(opened)
        image = Image.open(opened, formats=FORMATS)
        mode = "grey" if image.mode in GREY_MODES or image.mode.startswith("I;16") else "RGB"
        bits = 16 if image.mode.startswith("I") else {"1": 1, "F": 32}.get(image.mode, 8)
        header: dict[str, Any] = {"format": image.format, "mode": mode, "bits": bits}
        tables = getattr(image, "quantization", None)
        if tables:
            scale = 100 * sum(tables[min(tables)]) / STANDARD_LUMINANCE
            quality = 100 - scale / 2 if scale <= 100 else 5000 / scale
            header["measures"] = {"jpeg_quality": float(round(quality))}
        return header


def _dicom_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    with quiet, open_image(path) as opened:
        file = parse_dicom(opened)
        header, syntax = Header(file.dataset), UID(file.syntax)
        photometric = header.text("PhotometricInterpretation")
        return {
            "format": "DICOM",
            "mode": "grey" if photometric.startswith("MONOCHROME") else "RGB",
            "bits": header.whole("BitsStored", 0) or None,
            "coded": {
                "modality": _known(header.text("Modality"), MODALITIES),
                "photometric_interpretation": _known(photometric, PHOTOMETRIC),
                "transfer_syntax": syntax.name if syntax.type == "Transfer Syntax" else "other",
            },
        }


def _known(value: str, codes: re.Pattern[str]) -> str:
    return value if codes.fullmatch(value) else "other"
