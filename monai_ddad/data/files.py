"""Image files are told from others and found."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DICOM_SUFFIXES", "IMAGE_SUFFIXES", "PICTURE_SUFFIXES", "find_files", "is_dicom"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
IMAGE_SUFFIXES = PICTURE_SUFFIXES + DICOM_SUFFIXES


def find_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Find the image files below a folder, sorted.

    Taken are files with a suffix of an image, and those with an unknown one or none that start as DICOM. Hidden files
    and folders (thumbnails, the companions of files from a Mac) are passed over.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.PNG", "a.nii.gz", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in find_files(folder)]
        ['a.nii.gz', 'b.PNG']
    """
    root = Path(folder)
    files = (path for path in root.rglob("*") if path.is_file())
    seen = (path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return sorted(path for path in seen if path.name.lower().endswith(IMAGE_SUFFIXES) or is_dicom(path))


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file starts as DICOM does: 128 bytes of anything, then ``DICM``.

    A file that may not be opened counts as DICOM, so that the reader reports it instead of it going unnoticed. The
    index of a disc, ``DICOMDIR``, holds no image and does not count.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes(128) + b"DICM")
        ...     file.flush()
        ...     is_dicom(file.name)
        True
    """
    if os.path.basename(path).upper() == "DICOMDIR":
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True
