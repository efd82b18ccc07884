"""Image files are opened."""

from __future__ import annotations

import os
from typing import BinaryIO

from monai_ddad.io.files import NotAFileError, open_regular
from monai_ddad.io.formats.decoded import ImageReadError

__all__ = ["open_image"]


def open_image(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read it; a pipe or a device is refused and not waited for.

    Raises:
        ImageReadError: there is no such file, it is none, or it cannot be opened.

    Example:
        >>> open_image("absent.png")
        Traceback (most recent call last):
            ...
        monai_ddad.io.formats.decoded.ImageReadError: no such file
    """
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have such a name
        raise ImageReadError("no such file") from None
    except IsADirectoryError:
        raise ImageReadError("a folder, a file is expected") from None
    except NotAFileError:
        raise ImageReadError("neither a file nor a folder") from None
    except PermissionError:
        raise ImageReadError("the file cannot be opened: not allowed") from None
    except OSError:
        raise ImageReadError("the file cannot be opened") from None
