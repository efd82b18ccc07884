"""The files of an archive are listed in chunks, in an order that repeats and in little memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa

from monai_ddad.data.files import IMAGE_SUFFIXES, is_dicom
from monai_ddad.data.resident import DataError
from monai_ddad.data.series import group_series

__all__ = ["CHUNK", "Listing", "list_archive"]

CHUNK = 256  # files
VOLUME = 64  # files that a NIfTI file, which mostly holds many slices, counts as
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITEM = pa.list_(pa.binary())  # paths may hold bytes that are no text


@dataclass(frozen=True)
class Listing:
    """Items of an archive in their order, in chunks; an item is one file, or the files of one DICOM series.

    Attributes:
        chunks: an array of items a chunk.

    Example:
        >>> listing = Listing.of([["a.png"], ["1.dcm", "2.dcm"]])
        >>> len(listing), listing.chunk(0), listing.starts
        (2, [['a.png'], ['1.dcm', '2.dcm']], [0])
    """

    chunks: Sequence[pa.Array]

    @classmethod
    def of(cls, items: Iterable[Sequence[str]]) -> Listing:
        """Put items, each a sequence of paths, into chunks of consecutive ones."""
        return cls(list(_chunks(items)))

    @property
    def starts(self) -> list[int]:
        """Position of the first item of each chunk."""
        return list(accumulate(map(len, self.chunks), initial=0))[:-1]

    def chunk(self, number: int) -> list[list[str]]:
        """Return the items of a chunk."""
        return [[os.fsdecode(path) for path in item] for item in self.chunks[number].to_pylist()]

    def __len__(self) -> int:
        return sum(map(len, self.chunks))

    def digest(self) -> str:
        """Return a hash of all absolute paths, their order and what is one item."""
        found = hashlib.sha256()
        for chunk in self.chunks:
            for item in chunk.to_pylist():
                found.update(b"\0".join(map(os.path.abspath, item)) + b"\0\0")
        return found.hexdigest()


def list_archive(sources: Sequence[str | os.PathLike[str]], volumes: bool) -> Listing:
    """List the images of folders (with their subfolders, sorted), image files and lists of files, in the order given.

    The order is that of :func:`monai_ddad.data.list_images`. Series are looked for in one folder at a time, and of a
    list among consecutive lines of one folder, so that only as many headers are held as one folder has.

    Args:
        sources: folders, image files, or ``.txt`` files with a path a line, relative to the file.
        volumes: the DICOM files of one MR, CT or PET series in one folder are one item. Otherwise each file is, and no
            header is read.

    Raises:
        DataError: a source does not exist, a list is no text, or there is no image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.png", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(path).name for path, in list_archive([folder], volumes=False).chunk(0)]
        ['a.png', 'b.png']
    """
    roots = [Path(source).expanduser() for source in sources]
    absent = [str(number) for number, root in enumerate(roots, start=1) if not root.exists()]
    if absent:
        raise DataError(f"of {len(roots)} sources, those that do not exist are number {', '.join(absent)}.")
    listing = Listing.of(item for root in roots for item in _items(root, volumes))
    if not len(listing):
        raise DataError(f"the sources hold no image (files ending in {', '.join(IMAGE_SUFFIXES)}, or DICOM).")
    return listing


def _chunks(items: Iterable[Sequence[str]]) -> Iterator[pa.Array]:
    chunk: list[list[bytes]] = []
    files = 0
    for item in items:
        chunk.append([os.fsencode(path) for path in item])
        files += VOLUME if item[0].lower().endswith(NIFTI_SUFFIXES) else len(item)
        if files >= CHUNK:
            yield pa.array(chunk, ITEM)
            chunk, files = [], 0
    if chunk:
        yield pa.array(chunk, ITEM)


def _items(root: Path, volumes: bool) -> Iterator[Sequence[str]]:
    if root.is_dir():
        authors = (root / "data.json").is_file() and (root / "images").is_dir()
        yield from _walk(str(root / "images" if authors else root), volumes)
    elif root.suffix.lower() == ".txt":
        yield from _listed_in(root, volumes)
    else:
        yield [str(root)]


def _walk(folder: str, volumes: bool) -> Iterator[Sequence[str]]:
    """Give the items of a folder and its subfolders in the order of the sorted paths, holding one folder's names."""
    with os.scandir(folder) as entries:
        is_folder = {
            entry.name: entry.is_dir(follow_symlinks=False)
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_dir(follow_symlinks=False) or _is_image(entry))
        }
    names = sorted(is_folder)
    series = _series([os.path.join(folder, name) for name in names if not is_folder[name]]) if volumes else {}
    for name in names:
        path = os.path.join(folder, name)
        if is_folder[name]:
            yield from _walk(path, volumes)
        elif not volumes:
            yield [path]
        elif path in series:
            yield series[path]


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and (entry.name.lower().endswith(IMAGE_SUFFIXES) or is_dicom(entry.path))


def _series(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the items of one folder, by the first path of each."""
    items = [item if isinstance(item, list) else [item] for item in group_series(paths)]
    return {item[0]: item for item in items}


def _listed_in(file: Path, volumes: bool) -> Iterator[Sequence[str]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            paths = (str(file.parent / line.rstrip("\r\n")) for line in lines if line.strip())
            if not volumes:
                yield from ([path] for path in paths)
                return
            for _, part in groupby(paths, key=os.path.dirname):
                yield from _series(list(part)).values()
    except UnicodeDecodeError:
        raise DataError("the list of images is not a text file in UTF-8.") from None
