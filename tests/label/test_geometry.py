"""The grid of an image as ITK reads it, also of files that would end ITK's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from struct import pack

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import SimpleITK

from monai_ddad.label.geometry import LPS, _by_itk
from monai_ddad.transforms import ReadImage

DEPTH = 12_000  # of sequences in each other, at which GDCM runs out of stack


def film(path: Path) -> Path:
    header = Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    header.SOPInstanceUID, header.Modality = "1.2.3", "CR"
    header.Rows = header.Columns = 32
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.ImagerPixelSpacing = ["0.2", "0.3"]
    header.add_new("PixelData", "OW", bytes(range(256)) * 4)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = header.SOPClassUID, "1.2.3"
    header.is_little_endian, header.is_implicit_VR = True, False
    pydicom.dcmwrite(path, header, write_like_original=False)
    return path


def nested(path: Path) -> Path:
    """A film with private sequences in each other, which no one asks for."""
    content = film(path).read_bytes()
    inner, heads = 0, []
    for _ in range(DEPTH):
        heads.append(pack("<HH2sHI", 9, 0x1010, b"SQ", 0, 8 + inner) + pack("<HHI", 0xFFFE, 0xE000, inner))
        inner += 20
    place = content.index(b"\x18\x00\x64\x11")  # ImagerPixelSpacing
    path.write_bytes(content[:place] + b"".join(reversed(heads)) + content[place:])
    return path


def test_no_file_that_is_read_ends_the_process(tmp_path):
    film_path = nested(tmp_path / "nested.dcm")
    assert ReadImage()(str(film_path)).shape == (1, 32, 32)
    picture = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(picture, "wb") as file:
        Image.new("L", (20, 30)).save(file, format="PNG")
    script = (
        "import os, sys; from monai_ddad.label.geometry import _by_itk\n"
        "print(_by_itk(sys.argv[1], True)[0], _by_itk(sys.argv[2], False)[0])"
    )
    command = [sys.executable, "-c", script, str(film_path), os.fsdecode(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "(32, 32, 1) (20, 30, 1)"), done.stderr[-2000:]


def test_the_grid_of_a_film_has_its_spacing(tmp_path):
    size, grid = _by_itk(str(film(tmp_path / "film.dcm")), True)
    assert size == (32, 32, 1)
    np.testing.assert_allclose(grid, LPS @ np.diag([0.3, 0.2, 1, 1]), atol=1e-12)


@pytest.mark.parametrize(
    "keyword, value",
    [("SOPClassUID", "canary^patient"), ("ImagerPixelSpacing", ["1e300", "1e-300"]), ("PixelAspectRatio", ["7", "0"])],
)
def test_odd_headers_are_placed_or_not_and_none_is_quoted(tmp_path, capfd, keyword, value):
    header = pydicom.dcmread(film(tmp_path / "film.dcm"))
    with pydicom.config.disable_value_validation():
        setattr(header, keyword, value)
        header.save_as(tmp_path / "odd.dcm")
    capfd.readouterr()
    size, grid = _by_itk(str(tmp_path / "odd.dcm"), True)
    assert (size, grid) == ((), None) or (size == (32, 32, 1) and np.isfinite(grid).all())
    assert "canary" not in "".join(capfd.readouterr())


@pytest.mark.real_data
def test_the_grid_is_that_which_itk_reads_of_the_whole_file(real_data):
    compared = 0
    for path in sorted((real_data / "dicom").glob("*/*")):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            picture = ReadImage()(str(path))
            reader.ReadImageInformation()
        except (RuntimeError, ValueError):
            continue
        if picture.ndim > 3:
            continue  # a volume, which has its own place
        size, grid = _by_itk(str(path), True)
        assert grid is not None and size[:2] == reader.GetSize()[:2], path.name
        spacing = np.linalg.norm(grid[:3, :2], axis=0)
        np.testing.assert_allclose(spacing, reader.GetSpacing()[:2], rtol=1e-9, err_msg=path.name)
        np.testing.assert_allclose((LPS @ grid)[:3, 3], reader.GetOrigin(), atol=1e-6, err_msg=path.name)
        compared += 1
    assert compared > 20
