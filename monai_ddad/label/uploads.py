"""Files that clients send: of known kinds alone, and kept where no one else can read them."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from fastapi import HTTPException, UploadFile

from monai_ddad.io.files import DICOM_SUFFIXES, looks_like_dicom

__all__ = ["IMAGES", "LABELS", "receive", "suffix_of"]

HEAD = 8192  # bytes of a file that tell its kind
NIFTI = 352  # bytes of its header


def _is_nifti(head: bytes) -> bool:
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def _is_packed_nifti(head: bytes) -> bool:
    try:
        return _is_nifti(zlib.decompressobj(wbits=31).decompress(head, NIFTI))
    except zlib.error:
        return False


def _begins_with(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


KINDS: dict[str, Callable[[bytes], bool]] = {
    ".nii.gz": _is_packed_nifti,
    ".nii": _is_nifti,
    ".png": _begins_with(b"\x89PNG\r\n\x1a\n"),
    ".jpg": _begins_with(b"\xff\xd8\xff"),
    ".jpeg": _begins_with(b"\xff\xd8\xff"),
    ".tif": _begins_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".tiff": _begins_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".bmp": _begins_with(b"BM"),
    **dict.fromkeys(DICOM_SUFFIXES, looks_like_dicom),
    ".nrrd": _begins_with(b"NRRD"),
    ".bin": lambda head: True,  # plain voxels of OHIF
}
IMAGES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", *DICOM_SUFFIXES)
LABELS = (".nii.gz", ".nii", ".nrrd", ".png", ".bin")


def suffix_of(name: str, kinds: Sequence[str]) -> str:
    """Return the suffix of a name that is one of some kinds, in small letters; none gives an empty text.

    Example:
        >>> suffix_of("a.1.NII.GZ", IMAGES)
        '.nii.gz'
    """
    return next((kind for kind in kinds if name.lower().endswith(kind)), "")


def receive(upload: UploadFile, folder: Path, kinds: Sequence[str], field: str, number: int = 1) -> Path:
    """Keep a file that a client sends in a folder, under a name of ours.

    Args:
        upload: the file. Its name tells its kind; DICOM may have any other, such as its UID.
        folder: a private one.
        kinds: the suffixes that are taken.
        field: name of the parameter.
        number: of the file.

    Returns:
        the file.

    Raises:
        HTTPException: 415, it is of another kind, or its content does not fit its name.
    """
    name = PurePosixPath(upload.filename or "").name
    head = upload.file.read(HEAD)
    suffix = suffix_of(name, kinds) or (".dcm" if looks_like_dicom(head) else "")
    if suffix not in kinds or not KINDS[suffix](head):
        detail = f"{field}: must be a file of one of the kinds {', '.join(kinds)}, with the content that its name says."
        raise HTTPException(status_code=415, detail=detail)
    upload.file.seek(0)
    target = folder / f"{number:06}{suffix}"
    with target.open("xb") as file:
        shutil.copyfileobj(upload.file, file)
    return target
