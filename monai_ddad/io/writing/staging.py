"""Results of a run are put in place together, once all of them are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from monai_ddad.io.writing.atomic import atomic_file, is_locked, open_locked, private_folder, temporary_name

__all__ = ["Staging", "remove_leftovers"]

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)  # a temporary file or folder
NEW, OLD, SWAP, LOCK = "new", "old", "swap.json", "lock"  # what is in a temporary folder


class Staging:
    r"""A hidden folder within the folder of results, from which complete results take the place of earlier ones.

    Until :meth:`commit` the earlier results stay as they are, and they do where it fails. If the process is killed in
    the middle of it, the next one on the folder puts the earlier ones back. Files of others are left alone. As a
    context manager it commits at the end of the block, or drops what was written where that ends in an error.

    Args:
        folder: of the results; it is made where missing, and what killed runs left in it is removed.
        results: regular expressions of the names of results, by subfolder (``""`` for the folder itself); an earlier
            file that one matches goes if there is none of that name any more.

    Attributes:
        path: the folder to write to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("1.csv", "2.csv", "mine.txt"):
        ...         Path(folder, name).touch()
        ...     with Staging(folder, {"": r"\d\.csv"}) as staging:
        ...         _ = Path(staging, "3.csv").write_text("new")
        ...     sorted(os.listdir(folder))
        ['3.csv', 'mine.txt']
    """

    def __init__(self, folder: str | os.PathLike[str], results: dict[str, str] | None = None) -> None:
        self.folder = private_folder(folder)
        self.results: dict[str, re.Pattern[str]] = {}
        remove_leftovers(self.folder)
        self._temporary, lock = _make_temporary(self.folder)
        self._drop = weakref.finalize(self, _drop, self._temporary, lock, os.getpid())
        self.path = self._temporary / NEW
        try:
            self.path.mkdir(mode=0o700)
            self.replaces(results or {})
        except BaseException:
            self.discard()
            raise

    def replaces(self, results: dict[str, str]) -> None:
        """Name further results; see the class."""
        for subfolder, pattern in results.items():
            remove_leftovers(self.folder / subfolder)
            self.results[subfolder] = re.compile(pattern)

    @property
    def open(self) -> bool:
        """Whether it is neither committed nor discarded."""
        return self._drop.alive

    def commit(self) -> None:
        """Put what was written in place of the earlier results."""
        new = sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir())
        old = sorted({*filter(lambda name: (self.folder / name).is_file(), new), *self._earlier()})
        try:
            with atomic_file(self._temporary / SWAP) as file:
                file.write(json.dumps({NEW: new, OLD: old}).encode())
            for names, start, end in (
                (old, self.folder, self._temporary / OLD),
                (new, self.path, self.folder),
            ):
                for name in names:
                    private_folder((end / name).parent)
                    os.replace(start / name, end / name)
            _sync(self.folder, *(self.folder / name for name in {str(Path(name).parent) for name in new}))
            (self._temporary / SWAP).unlink()  # from here on the new ones count
        except BaseException:
            with suppress(OSError):  # else the next run on the folder does it
                _put_back(self._temporary)
            self.discard()
            raise
        self.discard()

    def _earlier(self) -> Iterator[str]:
        for subfolder, pattern in self.results.items():
            if (self.folder / subfolder).is_dir():
                for entry in os.scandir(self.folder / subfolder):
                    if pattern.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                        yield (Path(subfolder) / entry.name).as_posix()

    def discard(self) -> None:
        """Remove what was written."""
        self._drop()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def remove_leftovers(*folders: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half-written in folders, and end what they were putting in place.

    What a living process writes stays, as does what cannot be told from it: on a file system without locks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in (".model.pt.0123abcd.tmp", "mine.tmp"):
        ...         Path(folder, name).touch()
        ...     remove_leftovers(folder)
        ...     os.listdir(folder)
        ['mine.tmp']
    """
    for folder in map(Path, folders):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                found = [Path(entry.path) for entry in entries if LEFTOVER.fullmatch(entry.name)]
            for path in found:
                with suppress(OSError):  # gone meanwhile, or another user's
                    _remove(path)


def _remove(path: Path) -> None:
    """Remove a temporary file or folder unless a living process writes to it."""
    if path.is_symlink():
        return
    of_folder = path.is_dir()
    try:
        file = os.open(path / LOCK if of_folder else path, os.O_RDWR)
    except FileNotFoundError:  # a folder that was just made, or of which only that is left
        path.rmdir()
        return
    try:
        if is_locked(file):
            return
        if of_folder:
            _put_back(path)
            _remove_folder(path)
        else:
            path.unlink()
    finally:
        os.close(file)


def _make_temporary(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        temporary = folder / temporary_name("results")
        temporary.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # another process was just about to remove it
            try:
                lock = open_locked(temporary / LOCK)
            except OSError:
                with suppress(OSError):
                    temporary.rmdir()
                raise
            if lock is not None:
                return temporary, lock


def _put_back(temporary: Path) -> None:
    """Undo what was put in place, if the folder says that this was not completed."""
    try:
        swap = json.loads((temporary / SWAP).read_text(encoding="utf-8"))
        new, old = ([_within(name) for name in swap[kind]] for kind in (NEW, OLD))
    except FileNotFoundError:
        return
    except (KeyError, TypeError, ValueError):  # not ours
        (temporary / SWAP).unlink()
        return
    folder = temporary.parent
    for name in [] if (temporary / OLD).is_symlink() else old:
        if (temporary / OLD / name).exists() and _holds(temporary / OLD, name) and _holds(folder, name):
            os.replace(temporary / OLD / name, folder / name)
    for name in set(new) - set(old):
        if not (temporary / NEW / name).exists() and _holds(folder, name):
            (folder / name).unlink(missing_ok=True)
    (temporary / SWAP).unlink()


def _holds(folder: Path, name: str) -> bool:
    """Tell whether a name stands in a folder itself, and not behind a link in it."""
    inner = PurePosixPath(name).parent
    return os.path.realpath(folder / inner) == str(Path(os.path.realpath(folder), inner))


def _within(name: str) -> str:
    """Return a name that stays within a folder, or raise ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("the name leads out of the folder.")
    return name


def _drop(temporary: Path, lock: IO[bytes], process: int) -> None:
    if os.getpid() == process:  # a fork has a copy of the object
        if not (temporary / SWAP).exists():
            _remove_folder(temporary)
        lock.close()


def _remove_folder(temporary: Path) -> None:
    """Remove a temporary folder, its lock last."""
    for name in (NEW, OLD):
        shutil.rmtree(temporary / name, ignore_errors=True)
    with suppress(OSError):
        for path in temporary.iterdir():
            if path.name != LOCK:
                path.unlink()
        (temporary / LOCK).unlink(missing_ok=True)
        temporary.rmdir()


def _sync(*folders: Path) -> None:
    """Make the names in folders outlive a power cut, where the system can."""
    for folder in folders:
        with suppress(PermissionError):  # Windows opens no folder
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
