"""Headers are read as pydicom reads them, and within limits, whatever the file claims to be."""

from __future__ import annotations

import os
import struct
import time
import zlib
from io import BytesIO

import pydicom
import pytest

from monai_ddad.io.formats.dicom_parse import parse_dicom, read_header
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.series import TAGS, group_series, read_headers
from monai_ddad.transforms import ImageReadError, ReadImage
from tests.hostile_folder import HUGE, film

START = bytes(128) + b"DICM"
DEFLATED = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
SEQUENCE = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"  # of undefined length, as its item
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
EMPTY = b"\x09\0\x10\x10LO\0\0"  # a private element
MEGABYTE = 2**20


def before_pixels(inserted: bytes) -> bytes:
    whole = film()
    place = whole.index(b"\x08\0\x60\0CS")  # before Modality, so that nothing that is asked for comes before
    return whole[:place] + inserted + whole[place:]


def deflated(content: bytes, zeros: int = 0) -> bytes:
    """Deflate a data set, with so many megabytes of zeros behind it, which are never held."""
    packer = zlib.compressobj(9, wbits=-15)
    whole = START + DEFLATED + packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
    return whole + (packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)) * zeros


HOSTILE = {
    "zeros": lambda: START + bytes(4 * MEGABYTE),
    "zeros behind the meta group": lambda: film()[:300] + bytes(4 * MEGABYTE),
    "a meta element of 4 GB": lambda: START + b"\x02\0\x01\0OB\0\0\xf0\xff\xff\xff" + bytes(100),
    "a private element of 4 GB": lambda: before_pixels(b"\x09\0\x10\x10OB\0\0\xf0\xff\xff\xff"),
    "an element of 4 GB that is asked for": lambda: before_pixels(b"\x08\0\x60\0UN\0\0\xf0\xff\xff\xff"),
    "an element without end": lambda: before_pixels(b"\x09\0\x10\x10OB\0\0\xff\xff\xff\xff" + bytes(8 * MEGABYTE)),
    "nested 10,000 deep": lambda: before_pixels((SEQUENCE + ITEM) * 10_000),
    "300,000 empty elements": lambda: before_pixels(EMPTY * 300_000),
    "300,000 elements in a sequence": lambda: before_pixels(SEQUENCE + ITEM + EMPTY * 300_000),
    "a deflated gigabyte": lambda: deflated(b"\x09\0\x10\x10OB\0\0\0\0\0\x40", zeros=1024),
    "300,000 deflated elements": lambda: deflated(EMPTY * 300_000),
    "no DICOM": lambda: b"Dear colleague" * MEGABYTE,
}


@pytest.mark.parametrize("size", [None, HUGE], ids=["small", "10 GB"])
@pytest.mark.parametrize("case", HOSTILE)
def test_no_file_takes_long_to_be_told_from_a_slice(tmp_path, case, size):
    path = tmp_path / "doe.dcm"
    path.write_bytes(HOSTILE[case]())
    if size is not None:
        os.truncate(path, size)
    started = time.process_time()
    assert group_series([path]) == [str(path)]
    assert time.process_time() - started < 1
    started = time.process_time()
    with pytest.raises(ImageReadError) as caught:
        ReadImage()(path)
    assert time.process_time() - started < 4 and "doe" not in str(caught.value)


def implicit(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


ITEMS = b"\xfe\xff\x00\xe0" + bytes(4)
VALUES = {
    "WindowCenter": lambda: implicit(0x28, 0x1050, b"1\\" * MEGABYTE),
    "NumberOfFrames": lambda: implicit(0x28, 8, b"1\\" * MEGABYTE),
    "PixelSpacing": lambda: implicit(0x28, 0x30, b"1\\" * MEGABYTE),
    "ImageOrientationPatient": lambda: implicit(0x20, 0x37, b"1\\" * 2 * MEGABYTE),
    "SpecificCharacterSet": lambda: implicit(8, 5, b"ISO_IR 100\\" * 100_000),
    "SpecificCharacterSet of items": lambda: implicit(
        0x28, 0x3010, (ITEMS[:4] + struct.pack("<I", 998) + implicit(8, 5, b"ISO_IR 100\\" * 90)) * 2000
    ),
    "VOILUTSequence": lambda: implicit(0x28, 0x3010, ITEMS * MEGABYTE),
    "SharedFunctionalGroupsSequence": lambda: implicit(0x5200, 0x9229, ITEMS * 200_000),
    "items of zeros": lambda: implicit(0x5200, 0x9229, bytes(8) * 200_000),
    "sequence without end": lambda: implicit(0x28, 0x3010, b"")[:-4] + b"\xff" * 4 + ITEMS * 200_000,
    "nested": lambda: implicit(
        0x5200, 0x9230, ITEMS[:4] + struct.pack("<I", 1_600_008) + implicit(0x28, 0x9132, ITEMS * 200_000)
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_and_items_are_counted_before_they_are_converted(tmp_path, case):
    meta = b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0"
    image = implicit(8, 0x16, b"1.2.840.10008.5.1.4.1.1.4\0") + implicit(8, 0x60, b"MR") + implicit(0x20, 0xE, b"1.2")
    (tmp_path / "doe.dcm").write_bytes(START + meta + image + VALUES[case]())
    started = time.process_time()
    with pytest.raises(ImageReadError, match="longer than 65536 bytes|too many elements|not possible|damaged"):
        ReadImage()(tmp_path / "doe.dcm")
    assert group_series([tmp_path / "doe.dcm"]) == [str(tmp_path / "doe.dcm")]
    assert time.process_time() - started < 10  # without a limit up to minutes


@pytest.mark.parametrize("size", [4 * MEGABYTE, HUGE])
def test_an_interrupted_copy_is_called_one(tmp_path, size):
    (tmp_path / "a.dcm").write_bytes(START)
    os.truncate(tmp_path / "a.dcm", size)
    with pytest.raises(ImageReadError, match="filled with zeros: an interrupted copy"):
        ReadImage()(tmp_path / "a.dcm")


def test_what_is_asked_for_is_read_of_a_file_of_any_size(tmp_path):
    (tmp_path / "a.dcm").write_bytes(film(PatientID="x"))
    os.truncate(tmp_path / "a.dcm", HUGE)
    (header,) = read_headers([tmp_path / "a.dcm"], ["Modality", "Rows", "PatientID", "PatientName"])
    assert (header.Modality, header.Rows, header.PatientID, "PatientName" in header) == ("CR", 64, "x", False)
    assert read_header(BytesIO(film()), []).keys() == set()


def test_zeros_behind_an_image_are_nothing(tmp_path):
    assert (
        parse_dicom(BytesIO(film() + bytes(4 * MEGABYTE))).dataset.keys() == parse_dicom(BytesIO(film())).dataset.keys()
    )


def test_deflated_slices_are_a_series(tmp_path):
    for z in range(2):
        whole = film(Modality="MR", SeriesInstanceUID="1.2", ImagePositionPatient=[0, 0, z])
        body = whole[whole.index(b"\x08\0\x16\0UI") :]
        (tmp_path / f"{z}.dcm").write_bytes(deflated(body))
    paths = [str(tmp_path / f"{z}.dcm") for z in range(2)]
    assert group_series(paths) == [paths]


@pytest.mark.real_data
def test_headers_of_real_files_are_those_that_pydicom_reads(real_data):
    keywords, equal = (*TAGS, "PatientID"), 0
    paths = sorted(path for path in (real_data / "dicom").rglob("*") if path.is_file())
    for path, found in zip(paths, read_headers(paths, keywords)):
        with quiet:
            try:
                expected = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
            except pydicom.errors.InvalidDicomError:
                continue
            assert found is not None, path.name
            assert {name: str(found.get(name)) for name in keywords} == {
                name: str(expected.get(name)) for name in keywords
            }, path.name
        equal += 1
    assert equal > 60
