"""Files that may hold images, or say of whom, belong to the user who has started the server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["keep_private", "keep_temporary_files_in"]

OTHERS = 0o077  # permissions of the group and of all others


def keep_private(logs: Path) -> None:
    """Let this process, and those that it starts, make files and folders that no one else can open.

    Args:
        logs: folder of the log, which MONAI Label has made before.
    """
    os.umask(OTHERS)
    for path in (logs, *logs.glob("*")):
        if path.exists():
            path.chmod(path.stat().st_mode & ~OTHERS)


def keep_temporary_files_in(folder: Path | None) -> None:
    """Let this process put its temporary files, such as images that are sent to it, in a folder.

    Args:
        folder: one that goes with the process, or with the next one where it is killed; None takes the system's.
    """
    tempfile.tempdir = None if folder is None else str(folder)
