"""What the bundles' configs call besides networks, data and engines."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_ddad.checkpoints import CheckpointError
from monai_ddad.networks import DDADNet

logger = logging.getLogger(__name__)

__all__ = ["find_root", "network_settings", "report_errors_plainly"]


def find_root(name: str) -> str:
    """Find the folder of the bundle whose config is running.

    Looks at the ``--config_file`` of the command line, then at ``sys.path`` (where MONAI puts the bundle that runs),
    then at the current folder and at ``bundles/<name>`` in it.

    Args:
        name: the bundle's name.

    Returns:
        the folder that holds ``configs/metadata.json``; the current folder if none is found.

    Example:
        >>> import os
        >>> os.path.isdir(find_root("ddad_brain"))
        True
    """
    configs = [value for key, value in zip(sys.argv, sys.argv[1:]) if key == "--config_file"]
    configs += [value.partition("=")[2] for value in sys.argv if value.startswith("--config_file=")]
    parents = [Path(file.strip(" []'\"")).parent for config in configs for file in config.split(",")]
    candidates = [folder.parent if folder.name == "configs" else folder for folder in parents]
    candidates += [Path(folder) for folder in sys.path if folder] + [Path(), Path("bundles") / name]
    return str(next((path for path in candidates if (path / "configs" / "metadata.json").is_file()), Path()))


def network_settings(models_dir: str) -> dict[str, Any]:
    """Return the settings of the network that was trained, from the ``run.json`` beside ``model.pt``.

    Args:
        models_dir: folder of the two files.

    Returns:
        arguments of :class:`~monai_ddad.networks.DDADNet` by name; the defaults where nothing is trained yet.

    Raises:
        CheckpointError: ``run.json`` is damaged.

    Example:
        >>> network_settings("no such folder")["backbone"]
        'AE'
    """
    parameters = inspect.signature(DDADNet).parameters
    settings = {name: parameter.default for name, parameter in parameters.items()}
    try:
        trained = json.loads((Path(models_dir) / "run.json").read_text())["network"]
    except FileNotFoundError:
        return settings
    except (ValueError, KeyError, TypeError):
        raise CheckpointError("run.json in the models folder is damaged: run train.json again.") from None
    return settings | {name: value for name, value in trained.items() if name in settings}


def report_errors_plainly() -> None:
    """Let ``python -m monai.bundle`` end with one clear message where this package found what is wrong.

    MONAI wraps an error in one of its own for each level of the config, and Python prints them all. Errors from
    elsewhere, and other programs that run the bundle, are left alone.
    """
    if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    if frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent):
        logger.error(str(cause))
    else:
        sys.__excepthook__(kind, error, trace)
