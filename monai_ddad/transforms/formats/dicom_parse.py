"""DICOM files are parsed within limits: of bytes, of elements, of what is inflated, and with them of time."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import inf
from typing import BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_ddad.files import HEAD, looks_like_dicom
from monai_ddad.transforms.formats.decoded import MAX_PIXELS, ImageReadError
from monai_ddad.transforms.formats.dicom_file import DicomFile

__all__ = ["parse_dicom", "read_header"]

PIXELS = 0x7FE00000  # the elements from here on hold pixels
MAX_BYTES = 8 * MAX_PIXELS  # of a file that is read whole
MAX_INFLATED = 2**27  # bytes of a deflated data set
MAX_READS = 2**18  # a few for each element; parsing as many takes seconds
MAX_SEQUENCE = 2**24  # bytes of a sequence that is parsed when it is asked for
BLOCK = 2**13  # bytes
HEADER_BYTES = 2**22  # that are read for some elements of a header, compressed or not
HEADER_READS = 2**14
SEQUENCES = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ModalityLUTSequence",
    "VOILUTSequence",
)


def parse_dicom(file: BinaryIO) -> DicomFile:
    """Parse a file whole.

    Args:
        file: an open file that can be rewound.

    Returns:
        its elements, with the transfer syntax as ``file_meta``; where the file ends too early, those before.

    Raises:
        ImageReadError: the file is larger than 1 GiB, the data set is damaged, larger than 128 MiB when inflated or of
            too many elements, or it is no DICOM object.
    """
    stream = _Bounded(file, MAX_READS)
    with _plain_errors():
        _check_start(stream)
        if stream.end > MAX_BYTES:
            raise ImageReadError(f"the DICOM file is larger than {MAX_BYTES} bytes")
        syntax = _read_syntax(stream)
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated, whole = _inflate(stream, MAX_INFLATED)
            if not whole:
                raise ImageReadError(f"the deflated data set is larger than {MAX_INFLATED} bytes")
            stream = _Bounded(BytesIO(inflated), MAX_READS)
        dataset = _read_dataset(stream, syntax)
    for keyword in SEQUENCES:
        element = dataset.get_item(keyword) if keyword in dataset else None
        if isinstance(element, RawDataElement) and len(element.value or b"") > MAX_SEQUENCE:
            raise ImageReadError("the DICOM data set has too many elements")
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
        ImageReadError: it is no DICOM file, its header is damaged, or it has too many elements or bytes.

    Example:
        >>> read_header(BytesIO(bytes(128) + b"DICM" + bytes(1000)), ["Modality"])
        Traceback (most recent call last):
            ...
        monai_ddad.transforms.formats.decoded.ImageReadError: the DICOM file is filled with zeros: an interrupted copy
    """
    wanted = {BaseTag(tag) for tag in map(tag_for_keyword, keywords) if tag is not None}
    stream = _Bounded(file, HEADER_READS, HEADER_BYTES)
    with _plain_errors():
        _check_start(stream)
        syntax = _read_syntax(stream)
        if syntax == DeflatedExplicitVRLittleEndian:
            stream = _Bounded(BytesIO(_inflate(stream, HEADER_BYTES // 2)[0]), HEADER_READS)
        return _read_dataset(stream, syntax, wanted)


class _Bounded:
    """A file of which so many bytes may be read in so many pieces: a small one can hold millions of elements."""

    def __init__(self, file: BinaryIO, reads: int, size: float = inf) -> None:
        self.file, self.reads, self.size = file, reads, size
        self.end = file.seek(0, os.SEEK_END)
        self.seek = file.seek
        self.tell = file.tell
        self.seek(0)

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes."""
        self.reads -= 1
        if size > BLOCK:
            size = min(size, max(0, self.end - self.tell()))  # an element may claim any length
        self.size -= size
        if self.reads < 0 or self.size < 0:
            raise ImageReadError("the DICOM data set has too many elements, or too large ones")
        return self.file.read(size)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a damaged file raises into one error; pydicom's own quote what they read."""
    try:
        yield
    except ImageReadError:
        raise
    except (EOFError, LookupError, NotImplementedError, OSError, RecursionError, TypeError, ValueError, struct.error):
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
