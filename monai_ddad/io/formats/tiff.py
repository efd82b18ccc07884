"""TIFF files: how many values their tags have, counted before PIL converts them."""

from __future__ import annotations

import struct
from typing import BinaryIO

from monai_ddad.io.formats.decoded import ImageReadError

__all__ = ["check_tiff", "looks_like_tiff"]

PREFIXES = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")  # those that PIL takes
ENTRIES = 2**16 - 1
BYTES = (1, 2, 7)  # types of text and bytes, which cost nothing to convert
RATIONAL = (5, 10)
PARTS = (273, 279, 324, 325)  # offsets and sizes of strips and tiles
DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS and interoperability tags
MAX_VALUES = {"rational": 2**12, "part": 2**15, "other": 2**18}  # of all tags together


def looks_like_tiff(head: bytes) -> bool:
    r"""Return whether a file starts as a TIFF file does.

    Example:
        >>> looks_like_tiff(b"II*\0"), looks_like_tiff(b"BM")
        (True, False)
    """
    return head.startswith(PREFIXES)


def check_tiff(file: BinaryIO, head: bytes) -> None:
    """Count the values of the first picture's tags, and of the directories that belong to it.

    Args:
        file: a TIFF file, open for reading.
        head: its first 16 bytes.

    Raises:
        ImageReadError: there are more than a picture needs.
    """
    order, big = ">" if head.startswith(b"MM") else "<", head[2:3] == b"+"
    left, places = dict(MAX_VALUES), [_number(head[8:16] if big else head[4:8], order)]
    for place in places:  # grows
        for tag, kind, count, value in _entries(file, place, order, big):
            if tag in DIRECTORIES:
                places.append(_number(value[: {3: 2, 16: 8}.get(kind, 4)], order))
            name = "rational" if kind in RATIONAL else "part" if tag in PARTS else "other"
            left[name] -= 0 if kind in BYTES else count
        if min(left.values()) < 0 or len(places) > 2 * len(DIRECTORIES):
            raise ImageReadError("the tags of the TIFF file have too many values")


def _entries(file: BinaryIO, place: int, order: str, big: bool) -> list[tuple[int, int, int, bytes]]:
    entry, width = struct.Struct(order + ("HHQ8s" if big else "HHL4s")), 8 if big else 2
    if place >= 2**63:
        return []
    file.seek(place)
    number = _number(file.read(width), order)
    if number > ENTRIES:
        raise ImageReadError("the tags of the TIFF file have too many values")
    content = file.read(number * entry.size)
    return list(entry.iter_unpack(content[: len(content) // entry.size * entry.size]))


def _number(content: bytes, order: str) -> int:
    return int.from_bytes(content, "big" if order == ">" else "little")
