"""The files of an archive are listed in chunks, in an order that repeats and in little memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa

from monai_ddad.data.datalist import listed_in, no_image
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import LeftOut, log_left_out, walk
from monai_ddad.io.series import group_series

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
        left_out: how many entries of folders are left out, by reason.

    Example:
        >>> listing = Listing.of([["a.png"], ["1.dcm", "2.dcm"]])
        >>> len(listing), listing.chunk(0), listing.starts
        (2, [['a.png'], ['1.dcm', '2.dcm']], [0])
    """

    chunks: Sequence[pa.Array]
    left_out: LeftOut = field(default_factory=LeftOut)

    @classmethod
    def of(cls, items: Iterable[Sequence[str]], left_out: LeftOut | None = None) -> Listing:
        """Put items, each a sequence of paths, into chunks of consecutive ones."""
        return cls(list(_chunks(items)), LeftOut() if left_out is None else left_out)

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

    The order is that of :func:`monai_ddad.data.list_images`, as is what is left out, counted and logged. Series are
    looked for in one folder at a time, and of a list among consecutive lines of one folder, so that only as many
    headers are held as one folder has.

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
    roots = [Path(os.path.expanduser(source)) for source in sources]
    absent = [str(number) for number, root in enumerate(roots, start=1) if not os.path.exists(root)]
    if absent:
        raise DataError(f"of {len(roots)} sources, those that do not exist are number {', '.join(absent)}.")
    left_out = LeftOut()
    listing = Listing.of((item for root in roots for item in _items(root, volumes, left_out)), left_out)
    log_left_out(left_out)
    if not len(listing):
        raise DataError(no_image("sources hold", left_out))
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


def _items(root: Path, volumes: bool, left_out: LeftOut) -> Iterator[Sequence[str]]:
    group = _series if volumes else None
    if root.is_dir():
        authors = (root / "data.json").is_file() and (root / "images").is_dir()
        yield from walk(root / "images" if authors else root, left_out, group)
    elif root.suffix.lower() == ".txt":
        for _, part in groupby(listed_in(root), key=os.path.dirname):
            paths = list(part)
            yield from group(paths) if group else ([path] for path in paths)
    else:
        yield [str(root)]


def _series(paths: Sequence[str]) -> list[list[str]]:
    return [item if isinstance(item, list) else [item] for item in group_series(paths)]
