"""What a compressed frame says of itself, read before a decoder sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from monai_ddad.io.formats.decoded import ImageReadError

__all__ = ["Codestream", "check_scans"]

HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)  # frame headers of what PIL decodes, if the precision is 8
NO_FRAME = (0xC4, 0xC8, 0xCC)  # between the frame headers C0 to CF, and none
JPEG_LS = 0xF7
BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
SCAN, END = 0xDA, 0xD9
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # that has a length, or ends the stream; none within coded values
MAX_SCANS = 100  # a decoder goes through the whole picture for each; progressive files have about ten
MAX_EXIF = 2**18  # bytes; PIL decodes some of them as it opens a file
TAIL = 16  # bytes in which a stream has to end; some writers pad


@dataclass(frozen=True)
class Codestream:
    """Header of a JPEG, JPEG-LS or JPEG 2000 stream.

    Attributes:
        rows, columns, samples, precision: size of the picture it claims, and bits of a value.
        start: offset of the stream, past a file format around it.
        baseline: 8-bit JPEG as PIL decodes it.
        untransformed: a JPEG whose markers don't say which colours it holds.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    start: int = 0
    baseline: bool = False
    untransformed: bool = False

    @classmethod
    def of_jpeg(cls, frame: bytes) -> Codestream:
        """Find the frame header of a JPEG or JPEG-LS stream.

        Raises:
            ImageReadError: there is none, or the stream has no end.

        Source: ISO/IEC 10918-1 annex B, 14495-1 annex C.

        Example:
            >>> header = bytes.fromhex("ffd8 ffc0 000b 08 0040 0030 01 01 11 00")
            >>> Codestream.of_jpeg(header + bytes.fromhex("ffd9"))
            Codestream(rows=64, columns=48, samples=1, precision=8, start=0, baseline=True, untransformed=True)
        """
        _check_end(frame, start=b"\xff\xd8")
        at, marked = 2, False
        while at + 10 <= len(frame):
            marker = frame[at + 1]
            length = int.from_bytes(frame[at + 2 : at + 4], "big")
            if frame[at] != 0xFF or marker == 0xDA:
                break
            if marker == 0xFF or marker in BARE:
                at += 1 if marker == 0xFF else 2
                continue
            if marker == JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in NO_FRAME):
                names = frame[at + 10 : at + 2 + length : 3].upper()
                return cls(
                    rows=int.from_bytes(frame[at + 5 : at + 7], "big"),
                    columns=int.from_bytes(frame[at + 7 : at + 9], "big"),
                    samples=frame[at + 9],
                    precision=frame[at + 4],
                    baseline=marker in HUFFMAN_DCT and frame[at + 4] == 8,
                    untransformed=not marked and names != b"RGB",
                )
            marked |= frame[at + 4 : at + 8] in (b"JFIF", b"Adob")
            at += 2 + length
        raise ImageReadError("the compressed pixel data have no frame header")

    @classmethod
    def of_jpeg_2000(cls, frame: bytes) -> Codestream:
        """Find the size marker of a JPEG 2000 stream, bare or in a JP2 file.

        Raises:
            ImageReadError: there is none, the stream has no end, or its components differ in size or precision.

        Source: ISO/IEC 15444-1 annex A.5.1.
        """
        start = max(frame.find(b"\xff\x4f\xff\x51"), 0)
        _check_end(frame[start:], start=b"\xff\x4f\xff\x51")
        right, lower, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 24, 4))
        samples = int.from_bytes(frame[start + 40 : start + 42], "big")
        components = frame[start + 42 : start + 42 + 3 * samples]
        if not samples or components != (components[:1] + b"\x01\x01") * samples:
            raise ImageReadError("the colours of the compressed pixel data differ in size or precision")
        return cls(lower - top, right - left, samples, (components[0] & 0x7F) + 1, start)

    def check(self, rows: int, columns: int, samples: int) -> None:
        """Compare with the header of the file.

        Raises:
            ImageReadError: they differ, or a value has more than 16 bits.
        """
        if (self.rows, self.columns, self.samples) != (rows, columns, samples):
            raise ImageReadError("the compressed picture is of another size than the header claims")
        if not 1 <= self.precision <= 16:
            raise ImageReadError("the compressed picture claims more than 16 bits a value")


def check_scans(stream: bytes) -> None:
    """Refuse a JPEG stream that takes long to decode although it is small.

    Raises:
        ImageReadError: it has more than 100 scans, or more than 256 KiB of EXIF data.

    Example:
        >>> check_scans(bytes.fromhex("ffd8") + bytes.fromhex("ffda 0002") * 101)
        Traceback (most recent call last):
            ...
        monai_ddad.io.formats.decoded.ImageReadError: the JPEG picture has more than 100 scans
    """
    at = scans = exif = 0
    while (found := MARKER.search(stream, at)) and stream[found.start() + 1] != END:
        at = found.end()
        length = int.from_bytes(stream[at : at + 2], "big")
        scans += stream[at - 1] == SCAN
        exif += length if stream[at + 2 : at + 6] == b"Exif" else 0
        at += length
        if scans > MAX_SCANS:
            raise ImageReadError(f"the JPEG picture has more than {MAX_SCANS} scans")
        if exif > MAX_EXIF:
            raise ImageReadError(f"the JPEG picture has more than {MAX_EXIF} bytes of EXIF data")


def _check_end(frame: bytes, start: bytes) -> None:
    if not frame.startswith(start) or b"\xff\xd9" not in frame[-TAIL:]:
        raise ImageReadError("the compressed pixel data are truncated or of another kind than the header claims")
