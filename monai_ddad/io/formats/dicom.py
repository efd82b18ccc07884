"""DICOM images: pictures, multi-frame volumes and series of slices."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from monai_ddad.io.formats.decoded import DecodedImage, ImageReadError, check_size, record
from monai_ddad.io.formats.dicom_file import DicomFile, Header, functional_groups
from monai_ddad.io.formats.dicom_grey import Frame, grey_picture, grey_volume, palette_colours
from monai_ddad.io.formats.dicom_layout import GREY, Layout
from monai_ddad.io.formats.dicom_pixels import decode_pixels
from monai_ddad.io.formats.planes import Plane, pixel_size, stack_planes

__all__ = ["check_kind", "read_dicom", "read_series"]


def check_kind(header: Header, modalities: Collection[str] | None, body_parts: Collection[str] | None) -> None:
    """Refuse images of another kind than is wanted.

    Args:
        header: header of a DICOM image.
        modalities: accepted values of Modality; None for all.
        body_parts: accepted values of BodyPartExamined, where it is not empty; None for all.

    Raises:
        ImageReadError: the header says another; the message names the accepted ones alone.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.Modality = "MR"
        >>> check_kind(Header(dataset), {"DX", "CR"}, None)
        Traceback (most recent call last):
            ...
        monai_ddad.io.formats.decoded.ImageReadError: the header says another modality than CR or DX
    """
    if modalities is not None and header.text("Modality") not in modalities:
        raise ImageReadError(f"the header says another modality than {' or '.join(sorted(modalities))}")
    if body_parts is not None and header.text("BodyPartExamined") not in (*body_parts, ""):
        raise ImageReadError(f"the header says another body part than {' or '.join(sorted(body_parts))}")


def read_dicom(file: DicomFile) -> DecodedImage:
    """Read an image of one file.

    One frame is a picture. Several are a volume: with the affine that their functional groups give, or else, if these
    don't say where the frames lie, with the one of an axial stack seen as usual (columns run to the left, rows to the
    back). Volumes have the axes (column, row, frame), as nibabel's arrays.

    Args:
        file: the file.

    Raises:
        ImageReadError: the file holds no image, or one that is damaged, truncated, too large or not supported.

    Source: DICOM PS3.3 C.7.6.3 and C.7.6.16.
    """
    layout = Layout.of(Header(file.dataset))
    stored = decode_pixels(file, layout)
    groups = functional_groups(file.dataset, layout.frames)
    frames = [
        Frame(pixels, Header(*items, file.dataset), layout, file.big_endian) for pixels, items in zip(stored, groups)
    ]
    if layout.frames == 1:
        return _picture(frames[0])
    placed = ["PlanePositionSequence" in group for group in file.dataset.get("PerFrameFunctionalGroupsSequence") or []]
    if not any(placed):
        return _volume(frames, np.diag([-1.0, -1.0, 1.0, 1.0]))
    order, affine = stack_planes([Plane.of(Header(*items)) for items in groups])
    return _volume([frames[index] for index in order], affine)


def read_series(files: Iterable[DicomFile], number: int) -> DecodedImage:
    """Read a volume of one slice a file.

    Slices are sorted by their position; names and instance numbers don't count. The axes are (column, row, slice).

    Args:
        files: the files, in any order.
        number: how many, at least 2.

    Raises:
        ImageReadError: as for :func:`read_dicom`, or the files are not one evenly spaced series.
    """
    frames: list[Frame] = []
    planes: list[Plane] = []
    for file in files:
        layout = Layout.of(Header(file.dataset))
        check_size((layout.rows, layout.columns, number), layout.samples)
        if layout.frames != 1:
            raise ImageReadError("a file of the series holds several frames, one a file is expected")
        header = Header(*functional_groups(file.dataset, 1)[0], file.dataset)
        planes.append(Plane.of(header))
        frames.append(Frame(decode_pixels(file, layout)[0], header, layout, file.big_endian))
        alike = (layout.shape, layout.photometric, frames[-1].inverted)
        if alike != (frames[0].layout.shape, frames[0].layout.photometric, frames[0].inverted):
            raise ImageReadError("the slices differ in size or photometric interpretation: they are not one series")
    order, affine = stack_planes(planes)
    return _volume([frames[index] for index in order], affine)


def _picture(frame: Frame) -> DecodedImage:
    size = pixel_size(frame.header)
    if frame.layout.photometric in GREY:
        values, done = grey_picture(frame)
        return DecodedImage(values.astype(np.float32)[None], done, pixel_size=size)
    return DecodedImage(_colours(frame).transpose(2, 0, 1), record("dicom", "eight bits"), pixel_size=size)


def _volume(frames: list[Frame], affine: np.ndarray) -> DecodedImage:
    if frames[0].layout.photometric in GREY:
        values, done = grey_volume(frames)
        return DecodedImage(values.transpose(2, 1, 0)[None], done, affine)
    colours = np.stack([_colours(frame) for frame in frames])
    return DecodedImage(colours.transpose(3, 2, 1, 0), record("dicom", "eight bits"), affine)


def _colours(frame: Frame) -> np.ndarray:
    return palette_colours(frame) if frame.layout.photometric == "PALETTE COLOR" else frame.stored
