"""DICOM files of one volume are found and kept together."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pydicom

from monai_ddad.io.files import PICTURE_SUFFIXES
from monai_ddad.io.formats.dicom_parse import read_header
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.quiet import quiet

__all__ = ["group_series", "read_headers", "series_key"]

VOLUMES = ("MR", "CT", "PT")  # modalities whose files are slices of a volume; films of a series are single pictures
TAGS = (
    "Modality",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
)


def read_headers(paths: Sequence[str | os.PathLike[str]], keywords: Sequence[str]) -> list[pydicom.Dataset | None]:
    """Read some elements of each file's header; see :func:`~monai_ddad.io.formats.dicom_parse.read_header`.

    Args:
        paths: files of any kind.
        keywords: DICOM keywords of the elements.

    Returns:
        for each file a data set with those of the elements that it has; None where the header cannot be read.

    Example:
        >>> read_headers(["absent.dcm"], ["Modality"])
        [None]
    """

    def read(path: str | os.PathLike[str]) -> pydicom.Dataset | None:
        try:
            with open_image(path) as file:
                header = read_header(file, keywords)
            header.decode()  # every element, here where pydicom is quiet
            return header
        except Exception:  # a damaged header ends in almost any error; the image reader says what is wrong with it
            return None

    if not paths:
        return []
    with quiet, ThreadPoolExecutor() as pool:
        return list(pool.map(read, paths))


def group_series(paths: Sequence[str | os.PathLike[str]]) -> list[str | list[str]]:
    """Put the DICOM files of one MR, CT or PET series together.

    Files belong together if series, image size and orientation are the same and they say where in the patient they
    are, so the three planes of a localiser stay apart. Films, pictures, multi-frame files, and files whose header
    cannot be read stay single.

    Args:
        paths: files in the order wanted.

    Returns:
        a path for each single file and a list of paths for each series of two or more, by the first path of each.

    Example:
        >>> group_series(["b.png", "a.nii.gz"])
        ['b.png', 'a.nii.gz']
    """
    names = [os.fspath(path) for path in paths]
    possible = [name for name in names if not name.lower().endswith(PICTURE_SUFFIXES)]
    with quiet:
        keys = dict(zip(possible, map(series_key, read_headers(possible, TAGS))))
    groups: dict[Hashable, list[str]] = {}
    for position, name in enumerate(names):
        key = keys.get(name)
        groups.setdefault(position if key is None else key, []).append(name)
    return [files[0] if len(files) == 1 else files for files in groups.values()]


def series_key(header: pydicom.Dataset | None) -> Hashable | None:
    """Return what the slices of one volume have in common: series, size and orientation.

    Args:
        header: of a DICOM file.

    Returns:
        None for what is no slice of a volume, a film or a file that cannot be read.

    Example:
        >>> film = pydicom.Dataset()
        >>> film.Modality = "CR"
        >>> series_key(film) is None
        True
    """
    if header is None:
        return None
    try:
        if header.Modality not in VOLUMES or len(header.ImagePositionPatient) != 3:
            return None
        orientation = tuple(round(float(cosine), 2) + 0.0 for cosine in header.get("ImageOrientationPatient") or ())
        return str(header.SeriesInstanceUID), int(header.Rows), int(header.Columns), orientation
    except (AttributeError, TypeError, ValueError):
        return None
