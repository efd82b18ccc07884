"""The grey levels of DICOM images: which steps the header asks for, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_ddad.io.formats.decoded import ImageReadError, record
from monai_ddad.io.formats.dicom_file import Header
from monai_ddad.io.formats.dicom_layout import Layout
from monai_ddad.io.formats.photometry import Lookup, Rescale, Window, scale, stretch

__all__ = ["Frame", "grey_picture", "grey_volume", "palette_colours"]

PADDING = {
    "PixelData": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "FloatPixelData": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "DoubleFloatPixelData": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}
PALETTE = ("Red", "Green", "Blue")


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        stored: (H, W, S) stored values.
        header: what the file says of it.
        layout: of its file.
        big_endian: byte order of the tables in its header.
    """

    stored: np.ndarray
    header: Header
    layout: Layout
    big_endian: bool

    @property
    def inverted(self) -> bool:
        """Whether low values are bright."""
        return self.layout.photometric == "MONOCHROME1" or self.header.text("PresentationLUTShape") == "INVERSE"

    def padding(self) -> np.ndarray:
        """Return (H, W) bool, the pixels that are no part of the image."""
        value, limit = (self.header.number(name) for name in PADDING[self.layout.element])
        if value is None:
            return np.zeros(self.stored.shape[:2], dtype=bool)
        ends = [value, value if limit is None else limit]
        if self.layout.signed:  # often stored as if unsigned
            ends = [end - 2**self.layout.allocated if end >= 2 ** (self.layout.allocated - 1) else end for end in ends]
        return (self.stored[..., 0] >= min(ends)) & (self.stored[..., 0] <= max(ends))

    def modality(self) -> tuple[Rescale | Lookup, str]:
        """Return the modality transformation and its name in the record."""
        table = self._table("ModalityLUTSequence", signed=self.layout.signed)
        if table is not None:
            return table, "lut"
        slope, intercept = self.header.number("RescaleSlope"), self.header.number("RescaleIntercept")
        if slope is None and intercept is None:
            return Rescale(), "none"
        return Rescale(1.0 if slope is None else slope, intercept or 0.0), "rescale"

    def window(self, signed: bool) -> Window | Lookup | None:
        """Return what the header says should be seen, the first of several; None for floats, which fit no window.

        Args:
            signed: some values are below 0 after the modality transformation.
        """
        if self.layout.limits is None:
            return None
        table = self._table("VOILUTSequence", signed)
        if table is not None:
            return table
        center, width = self.header.number("WindowCenter"), self.header.number("WindowWidth")
        if center is None or width is None:
            return None
        return Window(center, width, self.header.text("VOILUTFunction") or "LINEAR")

    def _table(self, keyword: str, signed: bool) -> Lookup | None:
        items = self.header.get(keyword)
        if items is None:
            return None
        item = Header(items[0])
        return _lookup(item.numbers("LUTDescriptor"), item.get("LUTData"), self.big_endian, signed)


def grey_picture(frame: Frame) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn the stored values of one frame into what a viewer shows.

    The steps: padding is marked; modality LUT or rescale; VOI LUT or window; where the header has neither, 8-bit values
    keep their type's range, and deeper ones and floats go from the smallest to the largest; inversion; padding becomes
    black.

    Returns:
        (H, W) float64 in [0, 1] and the record of what was done.

    Raises:
        ImageReadError: a step's elements are damaged, values are not finite, or all are padding.

    Source: DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2 and C.7.5.1.1.2; PS3.4 N.2.
    """
    padding = frame.padding()
    shown = _shown(padding)
    transform, modality = frame.modality()
    values = transform(frame.stored[..., 0])
    if not np.isfinite(values[shown]).all():
        raise ImageReadError("values are NaN, infinite or too large")
    window = frame.window(signed=bool(values.min() < 0))
    limits = _limits(transform, frame.layout)
    voi = "none" if window is None else "lut" if isinstance(window, Lookup) else "window"
    if isinstance(window, Lookup):
        values, how = window(values) / window.top, voi
    elif window is not None:
        values, how = window(values), voi
    elif limits is not None and frame.layout.stored <= 8:
        values, how = scale(values, *limits), "eight bits"
    else:
        values, how = stretch(values, limits, shown)
    _finish(values, padding, frame.inverted)
    return values, record(
        "dicom", how, modality=modality, voi=voi, inverted=frame.inverted, padding=bool(padding.any())
    )


def grey_volume(frames: Sequence[Frame]) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn the stored values of the frames of one volume into grey levels on one scale.

    As :func:`grey_picture`, but windows are left out, as they differ from slice to slice, and the range is always that
    from the smallest to the largest value of the volume.

    Returns:
        (F, H, W) float32 in [0, 1] and the record.
    """
    padding = np.stack([frame.padding() for frame in frames])
    values = np.empty(padding.shape, dtype=np.float32)
    for target, frame in zip(values, frames):
        target[:] = frame.modality()[0](frame.stored[..., 0])
    first = frames[0]
    transform, modality = first.modality()
    values, how = stretch(values, _limits(transform, first.layout), _shown(padding))
    _finish(values, padding, first.inverted)
    return values, record("dicom", how, modality=modality, inverted=first.inverted, padding=bool(padding.any()))


def palette_colours(frame: Frame) -> np.ndarray:
    """Look up the colours of a frame of palette indices.

    Returns:
        (H, W, 3) uint8; of deeper colours the highest 8 bits.

    Source: DICOM PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6.
    """
    names = [f"{colour}PaletteColorLookupTable" for colour in PALETTE]
    header = frame.header
    tables = [_lookup(header.numbers(f"{n}Descriptor"), header.get(f"{n}Data"), frame.big_endian, False) for n in names]
    colours = [(table(frame.stored[..., 0]) / 2 ** (table.bits - 8)).astype(np.uint8) for table in tables]
    return np.stack(colours, axis=-1)


def _shown(padding: np.ndarray) -> np.ndarray:
    if padding.all():
        raise ImageReadError("all pixels are marked as padding")
    return ~padding


def _finish(values: np.ndarray, padding: np.ndarray, inverted: bool) -> None:
    """Invert and blacken the padding, in place."""
    if inverted:
        np.subtract(1, values, out=values)
    values[padding] = 0


def _limits(transform: Rescale | Lookup, layout: Layout) -> tuple[float, float] | None:
    """Return the range of the stored type after the modality transformation."""
    if layout.limits is None:
        return None
    low, high = layout.limits
    mapped = transform(np.arange(low, high + 1) if layout.stored <= 16 else np.array([low, high]))
    return float(mapped.min()), float(mapped.max())


def _lookup(descriptor: list[float] | None, data: Any, big_endian: bool, signed: bool) -> Lookup:
    """Read a table: 8-bit entries may be packed, and a negative first value may be stored as if unsigned."""
    if descriptor is None or data is None or len(descriptor) != 3:
        raise ImageReadError("a lookup table of the header is incomplete")
    entries, first, bits = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1]), int(descriptor[2])
    if not isinstance(data, bytes):
        words = np.atleast_1d(np.asarray(data)).astype(np.int64)
        data, big_endian = words.astype("<u2").tobytes(), False
    if len(data) >= 2 * entries:
        table = np.frombuffer(data, ">u2" if big_endian else "<u2", count=entries)
    elif len(data) >= entries and bits == 8:
        table = np.frombuffer(data, np.uint8, count=entries)
    else:
        raise ImageReadError("a lookup table of the header is shorter than it claims")
    if not 8 <= bits <= 16:
        raise ImageReadError("a lookup table of the header has entries of fewer than 8 or more than 16 bits")
    first -= 2**16 if signed and first >= 2**15 else 0
    return Lookup(first, np.minimum(table, 2**bits - 1), bits)
