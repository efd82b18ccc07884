"""Where ITK puts an image, which is where 3D Slicer shows it and where a label has to lie."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from monai_ddad.decision.heat import HeatMap
from monai_ddad.io.files import LeftOut, find_files, image_suffix, open_regular
from monai_ddad.io.formats.dicom_file import Header, functional_groups
from monai_ddad.io.formats.dicom_parse import read_header
from monai_ddad.io.formats.quiet import quiet

__all__ = ["grid_of"]

MACROS = {  # of an enhanced data set: what ITK places its frame by
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
}
PLAIN_NUMBERS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "EstimatedRadiographicMagnificationFactor",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
)
FRAMES = "PerFrameFunctionalGroupsSequence"

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's millimetres to RAS+ and back

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # its warnings hold paths


def grid_of(heat: HeatMap, source: Any) -> np.ndarray:
    """Return the affine of a label of an image: ITK's, as clients place images by what it reads of their files.

    ITK's spacing is that of the file's kind: ImagerPixelSpacing of a DICOM film, the resolution of a JPEG or TIFF file.
    A NIfTI file may have two places, of which ITK and nibabel choose by rules of their own.

    Args:
        heat: a map of the image.
        source: what was read: the path of a file, or the list of those of a series.

    Returns:
        (4, 4), RAS+ millimetres; the map's own of DICOM volumes and where ITK cannot read the file.
    """
    read_as = heat.picture.meta["photometry"]["source"]  # type: ignore[attr-defined]
    if isinstance(source, str) and Path(source).is_dir():
        source = [str(path) for path in find_files(source, LeftOut())]
    if isinstance(source, (list, tuple)) and len(source) == 1:
        source = source[0]
    if not isinstance(source, str) or (read_as == "dicom" and heat.affine is not None):
        return heat.grid
    size, grid = _by_itk(source, read_as == "dicom")
    return grid if grid is not None and size == heat.voxels().shape else heat.grid


def _by_itk(path: str, is_dicom: bool) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return size and grid that ITK reads, from a copy of the header if it is DICOM: some files end ITK's process."""
    reader = SimpleITK.ImageFileReader()
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder, "image" + ("" if is_dicom else image_suffix(path)))
        try:
            if is_dicom:
                with quiet:  # pydicom's warnings quote what they object to
                    _copy_header(path, shown)
            else:
                os.symlink(os.path.abspath(path), shown)  # ITK takes no name that is not UTF-8
            reader.SetFileName(str(shown))
            reader.ReadImageInformation()
        except (OSError, OverflowError, RuntimeError, TypeError, ValueError, struct.error):  # of an odd header, too
            return (), None
    sides = min(reader.GetDimension(), 3)
    grid, size = np.eye(4), [1, 1, 1]
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:sides, :sides]
    grid[:sides, :sides] = direction * reader.GetSpacing()[:sides]
    grid[:sides, 3] = reader.GetOrigin()[:sides]
    size[:sides] = reader.GetSize()[:sides]
    return tuple(size), LPS @ grid


def _copy_header(source: str, target: Path) -> None:
    """Write a DICOM file that has, of another one, nothing but what places a picture.

    Raises:
        ValueError: the header is damaged, as are those whose numbers end in other errors of pydicom's.
        OSError: a file cannot be read or written.
    """
    with open_regular(source) as file:
        known = read_header(file, [*PLAIN_NUMBERS, "SOPClassUID", "SharedFunctionalGroupsSequence", FRAMES])
    header = Header(known)
    copy = Dataset()
    kind = UID(header.text("SOPClassUID"))
    copy.SOPClassUID = kind if kind.is_valid else SecondaryCaptureImageStorage
    samples = header.whole("SamplesPerPixel", 1)
    copy.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    copy.SamplesPerPixel, copy.PlanarConfiguration = samples, 0
    copy.BitsAllocated, copy.BitsStored, copy.HighBit, copy.PixelRepresentation = 8, 8, 7, 0
    copy.Rows, copy.Columns = header.whole("Rows"), header.whole("Columns")
    _copy_numbers(header, copy, PLAIN_NUMBERS[3:])
    groups = Header(*functional_groups(known, 1)[0])
    shared = Dataset()
    for macro, keywords in MACROS.items():
        item = Dataset()
        _copy_numbers(groups, item, keywords)
        if len(item):
            setattr(shared, macro, [item])
    if len(shared):
        copy.SharedFunctionalGroupsSequence = [shared]
    copy.add_new("PixelData", "OW", b"")
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID = generate_uid()
    copy.is_little_endian, copy.is_implicit_VR = True, False
    dcmwrite(target, copy, write_like_original=False)


def _copy_numbers(header: Header, copy: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if (numbers := header.numbers(keyword)) is not None:
            setattr(copy, keyword, [f"{number:.10g}" for number in numbers])
