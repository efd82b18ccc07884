"""Decoding of DICOM pixel data."""

from __future__ import annotations

import struct
from io import BytesIO

import libjpeg
import numpy as np
import openjpeg
from PIL import Image
from pydicom import encaps

from monai_ddad.io.formats.codestream import Codestream, check_scans
from monai_ddad.io.formats.decoded import ImageReadError
from monai_ddad.io.formats.dicom_file import DicomFile
from monai_ddad.io.formats.dicom_layout import Layout

__all__ = ["decode_pixels"]

# transfer syntaxes; literal, as the names of some differ between versions of pydicom
ROOT = "1.2.840.10008.1.2"
NATIVE = (ROOT, f"{ROOT}.1", f"{ROOT}.1.99", f"{ROOT}.2")
RLE = f"{ROOT}.5"
JPEG = tuple(f"{ROOT}.4.{number}" for number in (50, 51, 57, 70, 80, 81))
JPEG_2000 = (f"{ROOT}.4.90", f"{ROOT}.4.91")


def decode_pixels(file: DicomFile, layout: Layout) -> np.ndarray:
    """Decode the stored values.

    Args:
        file: the file.
        layout: its layout, already checked.

    Returns:
        (F, H, W, 1) integers, or floats for float pixel data; (F, H, W, 3) uint8 RGB for colours, of which deeper ones
        lose their lowest bits. Palette indices stay as they are.

    Raises:
        ImageReadError: the transfer syntax is not supported, or the pixel data are truncated, damaged, or of another
            size than the header claims.
    """
    content = file.dataset.get(layout.element)
    if not isinstance(content, bytes):
        raise ImageReadError("the pixel data of the DICOM file are damaged")
    if file.syntax in NATIVE:
        if file.big_endian and layout.allocated == 8 and file.dataset[layout.element].VR == "OW":
            content = np.frombuffer(content, ">u2").astype("<u2").tobytes()  # bytes were swapped as if 16-bit words
        return _native(content, layout, file.big_endian)
    if file.syntax not in (RLE, *JPEG, *JPEG_2000) or layout.element != "PixelData":
        raise ImageReadError("the transfer syntax of the DICOM file is not supported")
    decode = _run_length if file.syntax == RLE else _jpeg if file.syntax in JPEG else _jpeg_2000
    try:
        return np.stack([decode(frame, layout) for frame in _frames(content, layout.frames)])
    except ImageReadError:
        raise
    except (ArithmeticError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, ValueError, struct.error):
        raise ImageReadError("the compressed pixel data are damaged, truncated or of an unsupported kind") from None


def _frames(content: bytes, number: int) -> list[bytes]:
    """Take the compressed frames out of their fragments."""
    if hasattr(encaps, "generate_frames"):
        found = encaps.generate_frames(content, number_of_frames=number)
    else:  # pydicom 2
        found = encaps.generate_pixel_data_frame(content, number)
    frames = [frame for _, frame in zip(range(number), found)]
    if len(frames) < number:
        raise ImageReadError("the compressed pixel data hold fewer frames than the header claims")
    return frames


def _native(content: bytes, layout: Layout, big_endian: bool) -> np.ndarray:
    number = layout.frames * layout.rows * layout.columns * layout.samples
    halved = layout.photometric == "YBR_FULL_422"  # two pixels share their colours
    kept = number * 2 // 3 if halved else number
    if len(content) < (kept * layout.allocated + 7) // 8:
        raise ImageReadError("the pixel data are shorter than the header claims: the file is truncated or damaged")
    if layout.allocated == 1:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), count=number, bitorder="little")
        return bits.reshape(layout.frames, *layout.shape)
    kind = "u" if layout.element == "PixelData" else "f"
    cells = np.frombuffer(content, f"{'>' if big_endian else '<'}{kind}{layout.allocated // 8}", count=kept)
    if kind == "f":
        return cells.reshape(layout.frames, *layout.shape)
    if halved:
        if layout.columns % 2 or layout.allocated != 8:
            raise ImageReadError("YBR_FULL_422 needs 8 bits a value and an even number of columns")
        cells = np.stack([cells[at::4] for at in (0, 2, 3, 1, 2, 3)], axis=-1)  # from luma, luma, blue, red
    elif layout.planar:
        cells = np.moveaxis(cells.reshape(layout.frames, layout.samples, layout.rows, layout.columns), 1, -1)
    values = _representation(cells, layout.stored, layout.signed, layout.shift)
    return _colours(values.reshape(layout.frames, *layout.shape), layout)


def _representation(cells: np.ndarray, bits: int, signed: bool, shift: int = 0) -> np.ndarray:
    """Take the value out of each cell: ``bits`` bits from bit ``shift`` on, as two's complement if ``signed``.

    Other bits may hold old-style overlays, and compressed streams may not know the sign.
    """
    size = cells.dtype.itemsize
    own = np.ascontiguousarray(cells, dtype=cells.dtype.newbyteorder("="))
    lifted = own.view(f"u{size}") << (8 * size - bits - shift)
    return lifted.view(f"{'i' if signed else 'u'}{size}") >> (8 * size - bits)


def _colours(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Convert stored colours to 8-bit RGB; grey values and palette indices stay as they are."""
    if layout.samples == 1:
        return values
    eight = (values >> (layout.stored - 8)).astype(np.uint8)
    if not layout.photometric.startswith("YBR_FULL"):
        return eight
    planes = np.ascontiguousarray(np.moveaxis(eight, -1, 0)).reshape(3, -1, layout.columns)
    return np.asarray(Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes]).convert("RGB")).reshape(
        values.shape
    )


def _run_length(frame: bytes, layout: Layout) -> np.ndarray:
    """Decode one RLE frame. Source: DICOM PS3.5 annex G."""
    cell, pixels = layout.allocated // 8, layout.rows * layout.columns
    number, *starts = struct.unpack("<16L", frame[:64])
    if number != cell * layout.samples:
        raise ImageReadError("the compressed pixel data have another number of segments than the header claims")
    ends = [*starts[1:number], len(frame)]
    planes = [_unpack_bytes(frame[start:end], pixels) for start, end in zip(starts, ends)]
    cells = np.frombuffer(b"".join(planes), np.uint8).reshape(layout.samples, cell, pixels)
    values = np.ascontiguousarray(cells.transpose(2, 0, 1)).view(f">u{cell}")
    values = _representation(values, layout.stored, layout.signed, layout.shift)
    return _colours(values.reshape(layout.shape), layout)


def _unpack_bytes(segment: bytes, size: int) -> bytes:
    """Undo the run-length coding of one segment, no further than ``size`` bytes."""
    result, at = bytearray(), 0
    while len(result) < size:
        length = segment[at]  # past the end of a segment that is too short, an IndexError
        if length < 128:
            result += segment[at + 1 : at + 2 + length]
            at += 2 + length
        elif length > 128:
            result += segment[at + 1 : at + 2] * (257 - length)
            at += 2
        else:
            at += 1
    return bytes(result[:size])


def _jpeg(frame: bytes, layout: Layout) -> np.ndarray:
    """Decode one JPEG or JPEG-LS frame; 8-bit JPEG with PIL, as a file of its own is."""
    stream = Codestream.of_jpeg(frame)
    stream.check(layout.rows, layout.columns, layout.samples)
    check_scans(frame)
    if not stream.baseline:
        values = _representation(libjpeg.decode(frame), stream.precision, layout.signed)
        return _colours(values.reshape(layout.shape), layout)
    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        if layout.photometric == "RGB" and stream.untransformed:
            image.draft("YCbCr", image.size)  # PIL takes unmarked colours for YCbCr: leave them as they are
        return _representation(np.asarray(image), 8, layout.signed).reshape(layout.shape)


def _jpeg_2000(frame: bytes, layout: Layout) -> np.ndarray:
    stream = Codestream.of_jpeg_2000(frame)
    stream.check(layout.rows, layout.columns, layout.samples)
    values = _representation(openjpeg.decode(frame[stream.start :], j2k_format=0), stream.precision, layout.signed)
    return _colours(values.reshape(layout.shape), layout)
