"""How stored values lie in DICOM pixel data, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ddad.io.formats.decoded import ImageReadError, check_size
from monai_ddad.io.formats.dicom_file import Header

__all__ = ["GREY", "Layout"]

ELEMENTS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}  # bits allocated
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
KINDS = {1: (*GREY, "PALETTE COLOR"), 3: COLOUR}  # by samples a pixel


@dataclass(frozen=True)
class Layout:
    """How the stored values lie in the pixel data, by the header.

    Attributes:
        element: keyword of the element that holds them.
        frames, rows, columns, samples: their shape.
        allocated, stored, shift: bits of a value's cell, of the value, and below the value.
        signed: two's complement.
        planar: colours one after the other, not pixel by pixel.
        photometric: photometric interpretation.
    """

    element: str
    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    shift: int
    signed: bool
    planar: bool
    photometric: str

    @classmethod
    def of(cls, header: Header) -> Layout:
        """Read the layout and check it.

        Raises:
            ImageReadError: there are no pixel data, or the header is incomplete, contradicts itself or claims more than
                2**27 values.

        Example:
            >>> from pydicom.dataset import Dataset
            >>> Layout.of(Header(Dataset()))
            Traceback (most recent call last):
                ...
            monai_ddad.io.formats.decoded.ImageReadError: the DICOM file holds no pixel data: it is no image
            (but a report, plan or waveform), or it ends early
        """
        element = _element(header)
        frames, samples = header.whole("NumberOfFrames", 1), header.whole("SamplesPerPixel", 1)
        rows, columns = header.whole("Rows"), header.whole("Columns")
        if frames < 1 or samples not in KINDS:
            raise ImageReadError("NumberOfFrames or SamplesPerPixel of the header is not possible")
        check_size((rows, columns), channels=frames * samples)
        allocated = header.whole("BitsAllocated")
        stored = header.whole("BitsStored", allocated)
        shift = header.whole("HighBit", stored - 1) + 1 - stored
        if allocated not in ELEMENTS[element] or not 1 <= stored <= allocated or not 0 <= shift <= allocated - stored:
            raise ImageReadError("BitsAllocated, BitsStored or HighBit of the header is not possible")
        photometric, signed = header.text("PhotometricInterpretation"), header.whole("PixelRepresentation", 0) == 1
        if photometric not in KINDS[samples]:
            raise ImageReadError("PhotometricInterpretation is missing from the header, unknown or at odds with it")
        if photometric not in GREY and (signed or element != "PixelData" or not 8 <= stored <= 16):
            raise ImageReadError("a colour picture has to have 8 to 16 unsigned bits a value")
        planar = samples > 1 and header.whole("PlanarConfiguration", 0) == 1
        return cls(element, frames, rows, columns, samples, allocated, stored, shift, signed, planar, photometric)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and samples of a frame."""
        return self.rows, self.columns, self.samples

    @property
    def limits(self) -> tuple[int, int] | None:
        """Smallest and largest stored value of the type; None for floats."""
        if self.element != "PixelData":
            return None
        return (-(2 ** (self.stored - 1)), 2 ** (self.stored - 1) - 1) if self.signed else (0, 2**self.stored - 1)


def _element(header: Header) -> str:
    for name in ELEMENTS:
        if header.get(name) is not None:
            return name
    if header.get("EncryptedAttributesSequence") is not None:
        raise ImageReadError("the pixel data of the DICOM file are encrypted")
    raise ImageReadError(
        "the DICOM file holds no pixel data: it is no image (but a report, plan or waveform), or it ends early"
    )
