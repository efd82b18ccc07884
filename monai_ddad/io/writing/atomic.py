"""Files and folders of the user's own, which appear when they are complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["atomic_file", "is_locked", "open_locked", "private_folder", "temporary_name"]

SHOWN = 48  # characters of a file's name in that of its temporary, as names have at most 255 bytes


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents, where missing, that only the user may look into; others stay as they are.

    Args:
        path: the folder.

    Returns:
        the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oct(private_folder(f"{folder}/a/b").stat().st_mode & 0o777)
        '0o700'
    """
    folder = Path(path)
    for part in reversed([part for part in (folder, *folder.parents) if not part.is_dir()]):
        part.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file for writing whose name appears only when it is complete, also across a kill or a power cut.

    Only the user may read it. Of a process that is killed while it writes, a file ``.<name>.<8 digits>.tmp`` stays,
    which :func:`monai_ddad.io.writing.remove_leftovers` knows by its lock from that of a living process.

    Args:
        path: the file to write; its folder is made where missing. What was there stays until the block ends well.

    Yields:
        a binary file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_file(f"{folder}/a/b.txt") as file:
        ...         _ = file.write(b"whole")
        ...     Path(f"{folder}/a/b.txt").read_text()
        'whole'
    """
    target = Path(path)
    private_folder(target.parent)
    temporary, file = _open_temporary(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows does not rename what is open
                file.close()
            os.replace(temporary, target)  # while it is locked
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _open_temporary(target: Path) -> tuple[Path, IO[bytes]]:
    while True:
        temporary = target.with_name(temporary_name(target.name))
        file = open_locked(temporary)
        if file is not None:
            return temporary, file


def temporary_name(name: str) -> str:
    """Return a new name for what will be called ``name`` when it is complete."""
    return f".{name[:SHOWN]}.{secrets.token_hex(4)}.tmp"


def open_locked(path: Path) -> IO[bytes] | None:
    """Make a file that is locked while it is open; None where another process was just about to remove it."""
    file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks
        return file
    if os.fstat(file.fileno()).st_nlink == 0:
        file.close()
        return None
    return file


def is_locked(file: int) -> bool:
    """Tell whether another process holds an open file, and lock it if not; also where that cannot be known."""
    if fcntl is None:
        return False  # what is open cannot be removed there
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
