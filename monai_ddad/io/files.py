"""Files of a folder: one way to walk it, by which each entry is an image or is counted with a reason."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "LeftOut",
    "NotAFileError",
    "can_be_path",
    "describe",
    "file_hash",
    "find_files",
    "image_suffix",
    "log_left_out",
    "looks_like_dicom",
    "open_regular",
    "walk",
]

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
IMAGE_SUFFIXES = PICTURE_SUFFIXES + DICOM_SUFFIXES
HEAD = 132  # bytes that tell whether a file is DICOM: 128 of anything, then DICM
BARE = re.compile(  # or, without those, an element of group 2 or 8, with a VR or the small length of one without
    rb"[\x02\x08]\0[\0-\x18]\0(?:[A-Z]{2}|.[\0\1]\0\0)|\0\x08\0[\0-\x18][A-Z]{2}", re.DOTALL
)

IMAGE, FOLDER = "image", "folder"  # what an entry is, or why it is left out:
HIDDEN = "hidden"
NO_IMAGE = "no image by name or content"
DEAD_LINK = "linked to nothing or to themselves"
FOLDER_LINK = "linked to a folder"
SPECIAL = "neither file nor folder"
FORBIDDEN = "not allowed to be read"
TOO_LONG = "with too long a path"
DAMAGED = "not readable"
USUAL = (HIDDEN, NO_IMAGE)  # every folder has some

Group = Callable[[Sequence[str]], Sequence[Sequence[str]]]
LeftOut = Counter[str]  # how many entries are left out, by reason


class NotAFileError(OSError):
    """A pipe, a socket or a device, where a file was expected."""


def walk(
    folder: str | os.PathLike[str],
    left_out: LeftOut,
    group: Group | None = None,
    skip: Collection[str] = (),
) -> Iterator[Sequence[str]]:
    """Give the images of a folder and its subfolders in the order of the sorted paths, holding one folder's names.

    An image is a file with a suffix of one, or one that starts as DICOM does; a file that may not be opened counts, so
    that the reader reports it. A link to a file is that file; a link to a folder is not followed. All else is counted:
    hidden entries (whose name starts with a dot), other files, ``DICOMDIR`` (the index of a disc), links that lead
    nowhere, pipes, devices and sockets, and folders that cannot be listed. A hidden folder counts once.

    Args:
        folder: where to start; it may be a link itself.
        left_out: is added to, by reason.
        group: puts the images of one folder into items, in the order given; each is given in the place of its first.
            None makes each an item.
        skip: paths of entries below it that are neither given nor counted.

    Example:
        >>> import tempfile
        >>> left_out = LeftOut()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.PNG", "a.nii.gz", "notes.txt", ".DS_Store"):
        ...         Path(folder, name).touch()
        ...     [os.path.basename(path) for path, in walk(folder, left_out)]
        ['a.nii.gz', 'b.PNG']
        >>> describe(left_out)
        '2 entries are left out: 1 hidden, 1 no image by name or content'
    """
    stack = [_steps(os.fspath(folder), left_out, group, skip)]  # no recursion, as a path may have thousands of folders
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, str):
            stack.append(_steps(step, left_out, group, skip))
        else:
            yield step


def find_files(folder: str | os.PathLike[str], left_out: LeftOut) -> list[Path]:
    """Find the image files below a folder, sorted; see :func:`walk`."""
    return [Path(path) for (path,) in walk(folder, left_out)]


def describe(left_out: LeftOut) -> str:
    """Say how many entries are left out and why, without a name; empty if none are.

    Example:
        >>> describe(LeftOut({HIDDEN: 2}))
        '2 entries are left out: 2 hidden'
    """
    number = left_out.total()
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return f"{number} {'entry is' if number == 1 else 'entries are'} left out: {reasons}" if number else ""


def log_left_out(left_out: LeftOut) -> None:
    """Log what is left out, as a warning where it is more than every folder has."""
    if left_out:
        logger.log(logging.INFO if set(left_out) <= set(USUAL) else logging.WARNING, f"{describe(left_out)}.")


def image_suffix(name: str) -> str:
    """Return the suffix of an image's name, as it is written; empty if it has none of those that are known.

    Example:
        >>> image_suffix("head.NII.gz"), image_suffix("1.2.840")
        ('.NII.gz', '')
    """
    return next((name[-len(end) :] for end in IMAGE_SUFFIXES if name.lower().endswith(end)), "")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read it, never waiting for one that is a pipe.

    Raises:
        NotAFileError: it is a pipe, a socket or a device.
        OSError: there is none, or it is a folder or cannot be opened.
        ValueError: no file can have such a path, see :func:`can_be_path`.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise NotAFileError(errno.EINVAL, "neither a file nor a folder")
    wait = getattr(os, "O_NONBLOCK", 0)  # or it hangs where a pipe takes the file's place just now
    return cast(BufferedReader, open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait)))


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of what a file holds, as 64 hexadecimal digits; errors as of :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def looks_like_dicom(head: bytes) -> bool:
    r"""Say whether a file's first bytes are those of a DICOM file.

    A file without preamble counts if it starts with an element of group 2 or 8, as every data set does.

    Example:
        >>> looks_like_dicom(bytes(128) + b"DICM"), looks_like_dicom(b"\x08\0\5\0CS"), looks_like_dicom(b"Dear")
        (True, True, False)
    """
    return head[HEAD - 4 : HEAD] == b"DICM" or BARE.match(head) is not None


def can_be_path(name: str) -> bool:
    r"""Tell whether a file can have such a name: no NUL, and characters that the file system can encode.

    Example:
        >>> can_be_path("a b.png"), can_be_path("a\0.png")
        (True, False)
    """
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _steps(folder: str, left_out: LeftOut, group: Group | None, skip: Collection[str]) -> Iterator[str | Sequence[str]]:
    """Give the items of one folder, and its subfolders as strings, in the order of their names."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if entry.path not in skip), key=lambda entry: entry.name)
    except OSError as error:
        left_out[_reason(error)] += 1
        return
    kinds = {entry.path: _kind(entry) for entry in entries}
    left_out.update(kind for kind in kinds.values() if kind not in (IMAGE, FOLDER))
    images = [path for path, kind in kinds.items() if kind is IMAGE]
    items = {item[0]: item for item in (group(images) if group else [[path] for path in images])}
    for path, kind in kinds.items():
        if kind is FOLDER:
            yield path
        elif path in items:
            yield items[path]


def _kind(entry: os.DirEntry[str]) -> str:
    """Say what an entry is: an image, a folder to walk, or why it is left out."""
    if entry.name.startswith("."):
        return HIDDEN
    try:
        if entry.is_dir():
            return FOLDER_LINK if entry.is_symlink() else FOLDER
        if not entry.is_file():
            return DEAD_LINK if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL
    except OSError as error:
        return _reason(error)
    is_image = entry.name.lower().endswith(IMAGE_SUFFIXES) or (
        entry.name.upper() != "DICOMDIR" and _starts_as_dicom(entry.path)
    )
    return IMAGE if is_image else NO_IMAGE


def _starts_as_dicom(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return looks_like_dicom(file.read(HEAD))
    except OSError:  # it may be DICOM: the reader says what is wrong
        return True


def _reason(error: OSError) -> str:
    reasons = {errno.ELOOP: DEAD_LINK, errno.EACCES: FORBIDDEN, errno.EPERM: FORBIDDEN, errno.ENAMETOOLONG: TOO_LONG}
    return reasons.get(error.errno or 0, DAMAGED)
