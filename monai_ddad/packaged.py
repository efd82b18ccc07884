"""The bundles that come with the package: their names, their folders and copies of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["bundle_files", "bundle_names", "copy_bundle", "find_bundle", "is_installed"]

PACKAGE = Path(__file__).parent
INSTALLED = PACKAGE / "bundles"  # where setup.py puts them; in the repository they stand beside the package
FILES = ("*.json", "*.conf", "*.yml", "LICENSE", "configs/*", "docs/*", "shipped/*")


def bundle_files(folder: str | os.PathLike[str]) -> list[str]:
    """List the files that make a bundle; those of its runs are left out.

    Args:
        folder: of the bundle.

    Returns:
        paths relative to the folder, with ``/``, in order.
    """
    found = [path for pattern in FILES for path in Path(folder).glob(pattern) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def bundle_names() -> list[str]:
    """List the bundles that come with the package.

    Example:
        >>> bundle_names()
        ['ddad_brain', 'ddad_cxr', 'ddad_fundus']
    """
    return sorted(file.parents[1].name for file in _home().glob("*/configs/inference.json"))


def find_bundle(bundle: str | os.PathLike[str]) -> Path:
    """Find the folder of a bundle.

    Args:
        bundle: the folder, with ``configs/inference.json``, or, where there is none, the name of a bundle that comes
            with the package.

    Raises:
        ValueError: it is neither.

    Example:
        >>> find_bundle("ddad_cxr").name
        'ddad_cxr'
        >>> find_bundle("ddad_foot")
        Traceback (most recent call last):
        ...
        ValueError: there is no such bundle: give its folder, with configs/inference.json, or one of ddad_brain,
        ddad_cxr, ddad_fundus.
    """
    if (Path(bundle) / "configs" / "inference.json").is_file():
        return Path(bundle)
    names = bundle_names()
    if os.fspath(bundle) not in names:
        known = ", ".join(names)
        raise ValueError(f"there is no such bundle: give its folder, with configs/inference.json, or one of {known}.")
    return _home() / bundle


def is_installed(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is part of the installed package, where nothing is to be written."""
    return Path(folder).resolve().is_relative_to(INSTALLED.resolve())


def copy_bundle(name: str, folder: str | os.PathLike[str]) -> None:
    """Copy a bundle that comes with the package, without what runs have left in it.

    Args:
        name: one of :func:`bundle_names`.
        folder: to make; it may be there if it is empty.

    Raises:
        ValueError: there is no such bundle.
        FileExistsError: the folder is not empty, or is a file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy_bundle("ddad_brain", Path(folder, "mine"))
        ...     sorted(os.listdir(Path(folder, "mine")))[:4]
        ['LICENSE', 'configs', 'docs', 'evaluate.json']
    """
    if name not in bundle_names():
        raise ValueError(f"there is no bundle {name}: there are {', '.join(bundle_names())}.")
    source, target = _home() / name, Path(folder)
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError("the folder to copy the bundle to is not empty: give a new one.")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=target) as temporary:
        for file in bundle_files(source):
            place = Path(temporary, file)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, place)
        for part in Path(temporary).iterdir():
            part.rename(target / part.name)


def _home() -> Path:
    return INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "bundles"
