"""How far a training is: written by its process, read by the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigParser

from monai_ddad.io.writing import atomic_file
from monai_ddad.label.versions import unfinished

__all__ = ["FILE", "ProgressFile", "read_progress", "write_progress"]

FILE = "progress.json"
FIRST = "1 if @backbone == 'features' else @epochs"  # a pass over the images is one
PARTS = {"train": "0", "asr": FIRST}  # of train.json -> epochs that come before
TOTAL = f"$({FIRST}) + (0 if @refine == 'none' else @refine_epochs)"


class ProgressFile:
    """Handler that writes how many epochs of a whole training are done.

    Args:
        path: the file.
        before: epochs of the parts that come before.
        total: epochs of all parts.
    """

    def __init__(self, path: str, before: int, total: int) -> None:
        self.path = Path(path)
        self.before = before
        self.total = total

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self._write)

    def _write(self, engine: Any) -> None:
        with atomic_file(self.path) as file:
            file.write(json.dumps({"epoch": self.before + engine.state.epoch, "total_epochs": self.total}).encode())


def write_progress(parser: ConfigParser, folder: Path) -> None:
    """Let each trainer of a bundle's ``train.json`` write to a file in a folder."""
    for part, before in PARTS.items():
        handler = {"_target_": f"{__name__}.ProgressFile", "path": str(folder / FILE), "before": f"${before}"}
        parser[f"{part}#handlers"] = [*parser[f"{part}#handlers"], handler | {"total": TOTAL}]


def read_progress(versions_dir: Path, bundle: str) -> dict[str, int]:
    """Return how far the running training is, as MONAI Label's clients read it; the very beginning where none says.

    Args:
        versions_dir: folder in which trainings work, each in a folder ``unfinished-<bundle>-*`` of its own.
        bundle: name of the bundle that is trained.

    Returns:
        ``"epoch"``, those that are done, and ``"total_epochs"``.

    Example:
        >>> read_progress(Path("no/such/folder"), "ddad_cxr")
        {'epoch': 0, 'total_epochs': 1}
    """
    for folder in unfinished(versions_dir, bundle):
        try:
            found = json.loads((folder / FILE).read_bytes())
            return {"epoch": int(found["epoch"]), "total_epochs": max(int(found["total_epochs"]), 1)}
        except (OSError, ValueError, KeyError, TypeError):  # it has just gone
            continue
    return {"epoch": 0, "total_epochs": 1}
