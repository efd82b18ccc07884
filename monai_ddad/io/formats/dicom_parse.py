"""DICOM files are parsed within limits: of bytes, elements, items and values, and with them of time."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from math import inf
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_ddad.io.files import HEAD, looks_like_dicom
from monai_ddad.io.formats.decoded import MAX_PIXELS, ImageReadError
from monai_ddad.io.formats.dicom_file import DicomFile

__all__ = ["parse_dicom", "read_header"]

PIXELS = 0x7FE00000  # the elements from here on hold pixels
MAX_BYTES = 8 * MAX_PIXELS  # of a file that is read whole
MAX_INFLATED = 2**27  # bytes of a deflated data set
MAX_CALLS = 2**19  # see _Budget; as many take seconds
MAX_NESTED = 2**27  # bytes of sequences, counted again in each sequence around them
MAX_VALUE = 2**16  # bytes of an element that is not bulk data
MAX_CHARSET = 2**10  # bytes of the names of character sets, which are looked up while the file is parsed
BLOCK = 2**13  # bytes
HEADER_BYTES = 2**22  # that are read for some elements of a header, compressed or not
HEADER_CALLS = 2**16
BULK = {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "UT"}  # one value of any length, which costs nothing to convert
CHARSET = (b"\x08\0\x05\0", b"\0\x08\0\x05")  # tag of SpecificCharacterSet in either byte order
DAMAGED = (EOFError, LookupError, NotImplementedError, OSError, TypeError, ValueError, struct.error)


def parse_dicom(file: BinaryIO) -> DicomFile:
    """Parse a file whole.

    Args:
        file: an open file that can be rewound.

    Returns:
        its elements, with the transfer syntax as ``file_meta``; where the file ends too early, those before.

    Raises:
        ImageReadError: the file is larger than 1 GiB, the data set is damaged, larger than 128 MiB when inflated or of
            too many elements, items or values, an element that is no bulk data is longer than 64 KiB, or it is no DICOM
            object.
    """
    stream = _Bounded(file, _Budget(MAX_CALLS))
    with _plain_errors():
        _check_start(stream)
        if stream.end > MAX_BYTES:
            raise ImageReadError(f"the DICOM file is larger than {MAX_BYTES} bytes")
        syntax = _read_syntax(stream)
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated, whole = _inflate(stream, MAX_INFLATED)
            if not whole:
                raise ImageReadError(f"the deflated data set is larger than {MAX_INFLATED} bytes")
            stream = _Bounded(BytesIO(inflated), stream.budget)
        dataset = _read_dataset(stream, syntax)
        public = (element for element in dataset.values() if not element.tag.is_private)  # others are never asked for
        _check_values(public, _Budget(MAX_CALLS, MAX_NESTED))
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise ImageReadError("neither a DICOM object nor an image of another known kind, or a damaged one")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return DicomFile(dataset, syntax)


def read_header(file: BinaryIO, keywords: Sequence[str]) -> Dataset:
    """Read some elements of a file's header, without its pixels and in milliseconds, whatever the file's size.

    Args:
        file: an open file that can be rewound.
        keywords: DICOM keywords of the elements.

    Returns:
        those of the elements that it has; their values are decoded when they are asked for.

    Raises:
        ImageReadError: it is no DICOM file, its header is damaged, or it has too many elements, values or bytes.

    Example:
        >>> read_header(BytesIO(bytes(128) + b"DICM" + bytes(1000)), ["Modality"])
        Traceback (most recent call last):
            ...
        monai_ddad.io.formats.decoded.ImageReadError: the DICOM file is filled with zeros: an interrupted copy
    """
    wanted = {BaseTag(tag) for tag in map(tag_for_keyword, keywords) if tag is not None}
    stream = _Bounded(file, _Budget(HEADER_CALLS, HEADER_BYTES))
    with _plain_errors():
        _check_start(stream)
        syntax = _read_syntax(stream)
        if syntax == DeflatedExplicitVRLittleEndian:
            stream = _Bounded(BytesIO(_inflate(stream, HEADER_BYTES // 2)[0]), _Budget(HEADER_CALLS))
        dataset = _read_dataset(stream, syntax, wanted)
        _check_values(dataset.values(), stream.budget)
    return dataset


@dataclass
class _Budget:
    """What may still be spent: bytes, and calls that cost microseconds each, whatever a small file is full of.

    pydicom calls a stream two or three times for an element and eight times for an item of a sequence; to convert one
    of many values takes it about as long as a call.
    """

    calls: int
    size: float = inf

    def spend(self, calls: int, size: int = 0) -> None:
        """Count what is about to be done.

        Raises:
            ImageReadError: it is too much.
        """
        self.calls -= calls
        self.size -= size
        if self.calls < 0 or self.size < 0:
            raise ImageReadError("the DICOM data set has too many elements, items or values, or too large ones")


class _Bounded:
    """A file of which so much may be read: a small one can hold millions of elements."""

    def __init__(self, file: BinaryIO, budget: _Budget) -> None:
        self.file, self.budget = file, budget
        self.end = file.seek(0, os.SEEK_END)
        self.charset = False  # what is read next is SpecificCharacterSet
        self.seek(0)

    def tell(self) -> int:
        """Return the position."""
        self.budget.spend(1)
        return self.file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        self.budget.spend(1)
        return self.file.seek(offset, whence)

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes."""
        if size > BLOCK:
            size = min(size, max(0, self.end - self.file.tell()))  # an element may claim any length
        if self.charset and size > MAX_CHARSET:
            raise ImageReadError("SpecificCharacterSet of the header is not possible")
        self.budget.spend(size if self.charset else 1, size)
        content = self.file.read(size)
        if size == 8:  # the start of an element
            self.charset = content[:4] in CHARSET
        return content


def _check_values(elements: Iterable[RawDataElement | DataElement], budget: _Budget) -> None:
    """Refuse what would take long to convert, before it is asked for.

    Sequences that are not parsed yet are parsed for it, as pydicom does later; what ends in an error does so then, too.

    Raises:
        ImageReadError: an element that is no bulk data is longer than 64 KiB, or the budget is spent.
    """
    for element in elements:
        content, kinds = element.value or b"", _kinds(element)
        if kinds == {"SQ"}:
            items = _parse_sequence(element, budget) if isinstance(element, RawDataElement) else element.value
            for item in items:
                _check_values(item.values(), budget)
        elif not kinds & BULK:
            if len(content) > MAX_VALUE:
                raise ImageReadError(f"an element of the DICOM header is longer than {MAX_VALUE} bytes")
            budget.spend(content.count(b"\\") + len(content) // 16)  # text values, or short binary ones


def _kinds(element: RawDataElement | DataElement) -> set[str]:
    """Return the value representations that pydicom may convert an element by."""
    if element.VR is None or (element.VR == "UN" and len(element.value or b"") < MAX_VALUE):
        with suppress(KeyError):
            return set(dictionary_VR(element.tag).split(" or "))
    return {element.VR or "UN"}


def _parse_sequence(element: RawDataElement, budget: _Budget) -> Iterable[Dataset]:
    content = element.value or b""
    stream = _Bounded(BytesIO(content), budget)
    try:
        return read_sequence(stream, element.is_implicit_VR, element.is_little_endian, len(content), "iso8859")  # type: ignore[arg-type]
    except ImageReadError:
        raise
    except DAMAGED:
        budget.spend(0)  # pydicom hides it, if that was the error
        return ()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a damaged file raises into one error; pydicom's own quote what they read."""
    try:
        yield
    except ImageReadError:
        raise
    except (*DAMAGED, RecursionError):
        raise ImageReadError("the DICOM data set is truncated or damaged") from None


def _check_start(stream: _Bounded) -> None:
    """Go to the first element."""
    head = stream.read(HEAD + 8)
    if not looks_like_dicom(head):
        raise ImageReadError("no DICOM file")
    if head[HEAD:] == bytes(8):
        raise ImageReadError("the DICOM file is filled with zeros: an interrupted copy")
    stream.seek(HEAD if head[:HEAD].endswith(b"DICM") else 0)


def _read_syntax(stream: _Bounded) -> str:
    """Read up to the data set, and return the UID of its transfer syntax."""
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)  # type: ignore[arg-type]
    _check_values(meta.values(), stream.budget)
    return str(meta.get("TransferSyntaxUID") or _guess_syntax(stream))


def _guess_syntax(stream: _Bounded) -> str:
    """Guess from the first element of a data set, where the file does not name its transfer syntax."""
    head = stream.read(6)
    stream.seek(-len(head), os.SEEK_CUR)
    if not head[4:].isalpha() or not head[4:].isupper():
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if head[0] == 0 else ExplicitVRLittleEndian)


def _read_dataset(stream: _Bounded, syntax: str, wanted: set[BaseTag] | None = None) -> Dataset:
    """Read all elements, or up to the last one that is wanted and without the pixels.

    Zeros behind the elements, which would be millions of empty ones, end them.
    """
    left = set(wanted or ())

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag >> 16 == 0 or (wanted is not None and (tag >= PIXELS or not left | (wanted & {tag}))):
            return True
        left.discard(tag)
        return False

    return read_dataset(
        stream,  # type: ignore[arg-type]
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=stop,
        specific_tags=None if wanted is None else [*wanted],
    )


def _inflate(stream: _Bounded, limit: int) -> tuple[bytes, bool]:
    """Inflate the rest of a file, up to a limit in bytes; return also whether that is all of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = stream.read(limit)
    try:
        inflated = inflater.decompress(packed, limit)
    except zlib.error:
        raise ImageReadError("the deflated data set is damaged") from None
    return inflated, not inflater.unconsumed_tail
