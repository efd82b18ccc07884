"""DICOM data sets: what their pixel data are in, and safe access to their elements."""

from __future__ import annotations

from collections.abc import MutableSequence, Sized
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from monai_ddad.io.formats.decoded import ImageReadError

__all__ = ["DicomFile", "Header", "functional_groups"]

MACROS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


@dataclass(frozen=True)
class DicomFile:
    """A parsed file.

    Attributes:
        dataset: its elements.
        syntax: UID of the transfer syntax that its pixel data are in.
    """

    dataset: Dataset
    syntax: str

    @property
    def big_endian(self) -> bool:
        """Byte order of 16-bit values."""
        return self.syntax == ExplicitVRBigEndian

    @classmethod
    def of(cls, dataset: Dataset) -> DicomFile:
        """Wrap a data set that was parsed elsewhere."""
        meta = getattr(dataset, "file_meta", None)
        return cls(dataset, str((meta and meta.get("TransferSyntaxUID")) or ExplicitVRLittleEndian))


class Header:
    """Elements of one frame; a value is taken from the first level that has it.

    Args:
        *levels: data sets, the most specific one first.

    Example:
        >>> frame, whole = Dataset(), Dataset()
        >>> frame.RescaleSlope, whole.RescaleSlope, whole.Rows = 2, 1, 64
        >>> header = Header(frame, whole)
        >>> header.number("RescaleSlope"), header.whole("Rows"), header.number("RescaleIntercept")
        (2.0, 64, None)
    """

    def __init__(self, *levels: Dataset) -> None:
        self.levels = levels

    def get(self, keyword: str) -> Any:
        """Return the value of an element, None if it is missing or empty."""
        for level in self.levels:
            try:
                value = level.get(keyword)
            except (ArithmeticError, NotImplementedError, TypeError, ValueError):
                raise ImageReadError(f"{keyword} of the header is damaged") from None
            if value is not None and not (isinstance(value, Sized) and len(value) == 0):
                return value
        return None

    def numbers(self, keyword: str) -> list[float] | None:
        """Return all values of an element as finite floats.

        Raises:
            ImageReadError: one is no finite number.
        """
        value = self.get(keyword)
        if value is None:
            return None
        try:
            found = [float(item) for item in (value if isinstance(value, MutableSequence) else [value])]
        except (ArithmeticError, TypeError, ValueError):
            found = [float("nan")]
        if not all(map(isfinite, found)):
            raise ImageReadError(f"{keyword} of the header is not a number")
        return found

    def number(self, keyword: str) -> float | None:
        """Return the value of an element, the first of several; errors as in :meth:`numbers`."""
        found = self.numbers(keyword)
        return found[0] if found else None

    def whole(self, keyword: str, default: int | None = None) -> int:
        """Return the value of an element that must be one whole number.

        Raises:
            ImageReadError: it is another, or it is missing and there is no default.
        """
        found = self.numbers(keyword)
        if found is None and default is not None:
            return default
        if found is None:
            raise ImageReadError(f"{keyword} is missing from the header")
        if len(found) != 1 or found[0] != int(found[0]):
            raise ImageReadError(f"{keyword} of the header is not one whole number")
        return int(found[0])

    def text(self, keyword: str) -> str:
        """Return a coded value in capitals, the first of several, without the padding around it; empty if missing."""
        value = self.get(keyword)
        if value is not None and not isinstance(value, str):
            value = value[0] if isinstance(value, MutableSequence) else None
        return str(value or "").strip(" \0").upper()


def functional_groups(dataset: Dataset, frames: int) -> list[list[Dataset]]:
    """Return what an enhanced multi-frame data set says of each frame.

    Args:
        dataset: any data set.
        frames: number of its frames.

    Returns:
        for each frame the items of its own functional groups, then of those that all frames share; empty lists for a
        data set without functional groups.

    Raises:
        ImageReadError: there are functional groups for another number of frames.
    """
    shared = [item for group in dataset.get("SharedFunctionalGroupsSequence") or [] for item in _macros(group)]
    own = [_macros(group) for group in dataset.get("PerFrameFunctionalGroupsSequence") or []]
    if own and len(own) != frames:
        raise ImageReadError("the header describes another number of frames than it claims")
    return [items + shared for items in own or [[] for _ in range(frames)]]


def _macros(group: Dataset) -> list[Dataset]:
    return [item for name in MACROS for item in list(group.get(name) or [])[:1]]
