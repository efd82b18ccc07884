"""Trained versions of one model, kept side by side."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_ddad.bundle import bundle_name, model_record
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.locks import lock_folder
from monai_ddad.serving.predictor import Predictor

__all__ = ["ModelVersions", "unfinished"]

logger = logging.getLogger(__name__)

FOLDER = re.compile(r"\d{4}")  # a finished version
UNFINISHED = "unfinished-{}-"  # where a training of a bundle works, and 8 characters of tempfile


def unfinished(versions_dir: Path, bundle: str) -> list[Path]:
    """Return the folders in which trainings of a bundle work, or were killed; none of a name that goes on."""
    name = re.compile(re.escape(UNFINISHED.format(bundle)) + r"[a-z0-9_]{8}")
    return [path for path in versions_dir.glob("unfinished-*") if name.fullmatch(path.name)]


class ModelVersions:
    """The first model of a bundle and those that were trained after it; the newest complete one is served.

    Versions of another bundle, which may stand in the same folder, are not listed. A training works in a folder of its
    own, which gets its number only when the model in it has been loaded, so that a failed or cancelled training changes
    nothing.

    Args:
        bundle: the bundle's folder.
        models_dir: folder of the first ``model.pt``, which need not exist.
        versions_dir: folder of the later ones, ``0001/models`` and so on.
    """

    def __init__(self, bundle: Path, models_dir: Path, versions_dir: Path) -> None:
        self.bundle = bundle
        self.models_dir = models_dir
        self.versions_dir = versions_dir
        self.name = bundle_name(bundle)
        self._others: dict[int, bool] = {}

    @property
    def current(self) -> tuple[int, Path]:
        """Number and models folder of the newest version; 0 is the first model."""
        for number in reversed(self._finished()):
            if not self._of_another(number):
                return number, self._models(number)
        return 0, self.models_dir

    @property
    def trained(self) -> bool:
        """Whether there is a model to serve."""
        return (self.current[1] / "model.pt").is_file()

    def _finished(self) -> list[int]:
        """Return the numbers of all finished versions, rising."""
        found = self.versions_dir.glob("*") if self.versions_dir.is_dir() else ()
        return sorted(int(folder.name) for folder in found if FOLDER.fullmatch(folder.name))

    def _models(self, number: int) -> Path:
        return self.versions_dir / f"{number:04d}" / "models"

    def _of_another(self, number: int) -> bool:
        """Tell whether a version, which never changes, is of another bundle; a damaged one fails when it is served."""
        if number not in self._others:
            try:
                found = model_record(self._models(number)).bundle
            except CheckpointError:
                found = self.name
            self._others[number] = found != self.name
            if self._others[number]:
                logger.warning(f"version {number} in the folder of {self.name}'s versions is of {found}: left out.")
        return self._others[number]

    @property
    def writable(self) -> bool:
        """Whether a new version can be stored."""
        folder = self.versions_dir
        while not folder.exists():
            folder = folder.parent
        return os.access(folder, os.W_OK | os.X_OK)

    @contextmanager
    def start(self) -> Iterator[Path]:
        """Make a folder for a training, the only one, and remove it at the end with what it was not finished with.

        What an earlier training of the bundle left that was killed is removed first.

        Raises:
            FolderInUseError: another training runs.
        """
        with lock_folder(self.versions_dir, "--conf versions"):
            for left in unfinished(self.versions_dir, self.name):
                shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=UNFINISHED.format(self.name), dir=self.versions_dir))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def finish(self, folder: Path) -> int:
        """Check the model that was trained in a folder, and make it the newest version.

        Raises:
            CheckpointError: there is no model, or it is damaged, not finite or of another bundle; the served one stays.
        """
        Predictor(self.bundle, folder / "models")
        number = (self._finished() or [0])[-1] + 1
        os.replace(folder, self._models(number).parent)
        return number
