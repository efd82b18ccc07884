"""A folder of entries that no program should trip over, read by a user without special rights."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

HUGE = 10 * 2**30  # bytes of a file with nothing in it


def as_user(*command: str) -> list[str]:
    """Return a command as a user without special rights runs it: to root, permissions mean nothing."""
    if os.geteuid() != 0:
        return [*command]
    if shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv to give up its rights")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]


@contextmanager
def hostile_folder(place: Path) -> Iterator[tuple[Path, set[str], dict[str, int]]]:
    """Give a folder, its images relative to it, and how many entries are left out by reason; it can be removed later.

    Args:
        place: an empty folder to make it in.
    """
    outside, folder = place / "outside", place / "in"
    outside.mkdir()
    folder.mkdir()
    images, left_out = make_hostile_folder(outside, folder)
    try:
        yield folder, {os.fsdecode(name) for name in images}, dict(left_out)
    finally:
        os.chmod(folder / "secret_folder", 0o700)


def make_hostile_folder(outside: Path, folder: Path) -> tuple[set[bytes], Counter[str]]:
    """Fill a folder with some forty entries.

    Args:
        outside: an empty folder, for what links lead to.
        folder: an empty folder.

    Returns:
        paths of the files that are images, relative to the folder, and how many entries are left out, by reason.
    """
    images: set[bytes] = set()
    left_out: Counter[str] = Counter()

    def image(name: bytes | str, content: bytes) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.write_bytes(content)
        images.add(os.fsencode(name))
        return path

    def no_image(name: str, content: bytes = b"", reason: str = "no image by name or content") -> Path:
        path = folder / name
        path.write_bytes(content)
        left_out[reason] += 1
        return path

    def link(name: str, target: object, reason: str | None = None) -> None:
        (folder / name).symlink_to(str(target))
        if reason is None:
            images.add(name.encode())
        else:
            left_out[reason] += 1

    png, dicom = picture(), film()
    image("good.png", png)
    image("good.dcm", dicom)
    image("no_suffix", film())
    (folder / "series").mkdir()
    for z in range(2):
        image(f"series/{z}", film(Modality="MR", SeriesInstanceUID="1.2", ImagePositionPatient=[0, 0, z]))
    image("UPPER.PNG", png)
    image(b"latin-\xfc.png", png)  # not UTF-8
    image("line\nend.png", png)
    image("=cmd()+@x.png", png)
    image("line\u2028separator.png", png)
    image("-rf.png", b"no picture")
    image("a" * 251 + ".png", b"no picture")
    image("truncated.png", png[: len(png) // 2])
    image("empty.png", b"")
    image("empty.dcm", b"")
    image("packed.nii.gz", gzip.compress(b"Dear colleague") + b"junk")
    image("not_packed.nii.gz", b"junk")
    image("really_dicom.png", dicom[: len(dicom) // 2])
    image("really_text.dcm", b"Dear colleague")
    image("zeros.dcm", bytes(128) + b"DICM" + bytes(4 * 2**20))
    image("meta_lies.dcm", dicom.replace(b"\x02\0\x01\0OB\0\0\x02\0\0\0", b"\x02\0\x01\0OB\0\0\xf0\xff\xff\xff"))
    image(
        "nested.dcm", dicom[:-4200] + b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    )
    image("elements.dcm", dicom[:400] + b"\x09\0\x10\x10LO\0\0" * 1_000_000)
    image("several_gigabytes.dcm", dicom[:400] + b"\x09\0\x11\x10OB\0\0" + struct.pack("<I", 2**32 - 16) + b"little")
    for name, start in (("interrupted.dcm", b"DICM"), ("interrupted_png.png", b"\x89PNG")):
        path = image(name, bytes(128 if start == b"DICM" else 0) + start)
        os.truncate(path, HUGE)
    os.chmod(image("secret.png", png), 0)
    os.chmod(image("secret", dicom), 0)  # it may be DICOM, so the reader says what is wrong

    (outside / "elsewhere").write_bytes(png)
    (outside / "pictures").mkdir()
    (outside / "pictures" / "a.png").write_bytes(png)
    link("link.png", "good.png")
    link("link_outside.png", outside / "elsewhere")
    os.link(folder / "good.png", folder / "hard.png")
    images.add(b"hard.png")
    link("self.png", "self.png", "linked to nothing or to themselves")
    link("ping.png", "pong.png", "linked to nothing or to themselves")
    link("pong.png", "ping.png", "linked to nothing or to themselves")
    link("gone.png", "nothing.png", "linked to nothing or to themselves")
    link("up", ".", "linked to a folder")
    link("pictures.png", outside / "pictures", "linked to a folder")

    os.mkfifo(folder / "pipe.dcm")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(here)
    left_out["neither file nor folder"] += 3
    try:
        os.mknod(folder / "device.png", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # of endless zeros
    except PermissionError:  # of a user other than root
        pass
    else:
        left_out["neither file nor folder"] += 1

    no_image("notes.txt", b"Dear colleague")
    no_image("DICOMDIR", dicom)
    no_image(".hidden.png", png, "hidden")
    no_image("._good.png", png, "hidden")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(png)
    left_out["hidden"] += 1
    (folder / "directory.png").mkdir()
    image("directory.png/inside.png", png)
    (folder / "directory.png" / "loop").symlink_to("..")
    left_out["linked to a folder"] += 1
    (folder / "none_inside").mkdir()
    no_image("none_inside/thumbs.db", b"\xd0\xcf")
    (folder / "secret_folder").mkdir()
    (folder / "secret_folder" / "a.png").write_bytes(png)
    os.chmod(folder / "secret_folder", 0)
    left_out["not allowed to be read"] += 1
    make_deep(folder)
    left_out["with too long a path"] += 1
    return images, left_out


def make_deep(folder: Path) -> None:
    """Make folders below one another until no program can name the last by its whole path."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        for _ in range(21):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("a.png").write_bytes(picture())
    finally:
        os.fchdir(here)
        os.close(here)


def picture(side: int = 64) -> bytes:
    """Return a PNG file."""
    stream = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def film(side: int = 64, **elements: object) -> bytes:
    """Return a DICOM file of a chest film, or with other elements."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.Modality, made.BodyPartExamined = "CR", "CHEST"
    made.Rows = made.Columns = side
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.PixelData = np.random.default_rng(1).integers(0, 256, (side, side), dtype=np.uint8).tobytes()
    stream = DicomBytesIO()
    if pydicom.__version__.startswith("2"):
        made.is_little_endian, made.is_implicit_VR = True, False
        pydicom.dcmwrite(stream, made, write_like_original=False)
    else:
        pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()
