"""Fixtures that the tests of data share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

WriteDicom = Callable[..., Path]


@pytest.fixture
def write_dicom(tmp_path: Path) -> WriteDicom:
    """Return a writer of small DICOM files below ``tmp_path``; further elements are given by keyword."""

    def write(name: str, pixels: np.ndarray | None = None, **elements: object) -> Path:
        if pixels is None:
            pixels = np.random.default_rng(len(name)).integers(0, 256, (16, 12), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(
            str(path), {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=False, is_little_endian=True
        )
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.Modality = "DX"
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel = 1
        file.PhotometricInterpretation = "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
        file.HighBit = file.BitsStored - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        for keyword, value in elements.items():
            setattr(file, keyword, value)
        file.PixelData = pixels.tobytes()
        file.save_as(str(path))
        return path

    return write
