"""DICOM files: from bytes to a data set, and safe access to its elements."""

from __future__ import annotations

import struct
import zlib
from collections.abc import MutableSequence, Sized
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_ddad.transforms.formats.decoded import ImageReadError

__all__ = ["DicomFile", "Header", "functional_groups", "looks_like_dicom", "parse_dicom"]

PREAMBLE = 128  # bytes before the letters DICM
MAX_INFLATED = 2**27  # bytes of a deflated data set
MAX_READS = 2**18  # a few for each element; parsing as many takes seconds
MAX_SEQUENCE = 2**24  # bytes of a sequence that is parsed when it is asked for
SEQUENCES = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ModalityLUTSequence",
    "VOILUTSequence",
)
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


def looks_like_dicom(head: bytes) -> bool:
    """Say whether a file's first bytes are those of a DICOM file.

    A file without preamble counts if it starts with an element of group 2 or 8, as every data set does.

    Example:
        >>> looks_like_dicom(bytes(128) + b"DICM"), looks_like_dicom(b"Dear colleague"), looks_like_dicom(b"")
        (True, False, False)
    """
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def parse_dicom(content: bytes) -> DicomFile:
    """Parse a file.

    Args:
        content: the whole file.

    Returns:
        its elements; where the file ends too early, those before.

    Raises:
        ImageReadError: the data set is damaged, larger than 128 MiB when inflated, or no DICOM object.
    """
    try:
        dataset, syntax = _parse(content)
    except ImageReadError:
        raise
    except (EOFError, LookupError, NotImplementedError, OSError, RecursionError, TypeError, ValueError, struct.error):
        raise ImageReadError("the DICOM data set is truncated or damaged") from None
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise ImageReadError("neither a DICOM object nor an image of another known kind, or a damaged one")
    return DicomFile(dataset, syntax)


class _Stream(BytesIO):
    """Bytes that may be read in so many pieces: a small deflated file can hold millions of elements."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ImageReadError("the DICOM data set has too many elements")
        return super().read(size)


def _parse(content: bytes) -> tuple[Dataset, str]:
    stream = _Stream(content)
    stream.seek(PREAMBLE + 4 if content[PREAMBLE : PREAMBLE + 4] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or _guess_syntax(stream))
    if syntax == DeflatedExplicitVRLittleEndian:
        stream = _Stream(_inflate(stream.read()))
    dataset = read_dataset(stream, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    for keyword in SEQUENCES:
        element = dataset.get_item(keyword) if keyword in dataset else None
        if isinstance(element, RawDataElement) and len(element.value or b"") > MAX_SEQUENCE:
            raise ImageReadError("the DICOM data set has too many elements")
    return dataset, syntax


def _guess_syntax(stream: BytesIO) -> str:
    """Guess from the first element of a data set, where the file does not name its transfer syntax."""
    head = stream.read(6)
    stream.seek(-len(head), 1)
    if not head[4:].isalpha() or not head[4:].isupper():
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if head[0] == 0 else ExplicitVRLittleEndian)


def _inflate(content: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content, MAX_INFLATED)
    except zlib.error:
        raise ImageReadError("the deflated data set is damaged") from None
    if inflater.unconsumed_tail:
        raise ImageReadError(f"the deflated data set is larger than {MAX_INFLATED} bytes")
    return inflated


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
