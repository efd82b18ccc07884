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
from monai_ddad.data.resident import DataError
from monai_ddad.networks import DDADNet

logger = logging.getLogger(__name__)

__all__ = ["choose_preset", "find_root", "network_settings", "report_errors_plainly"]


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
        trained = json.loads((Path(models_dir) / "run.json").read_text(encoding="utf-8"))["network"]
        return settings | {name: value for name, value in trained.items() if name in settings}
    except FileNotFoundError:
        return settings
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError("run.json in the models folder is damaged: run train.json again.") from None


def choose_preset(presets: dict[str, dict[str, Any]], preset: str) -> dict[str, Any]:
    """Return the settings of one preset.

    Args:
        presets: settings by preset.
        preset: name of the one to use.

    Raises:
        ValueError: there is no such preset.

    Example:
        >>> choose_preset({"paper": {"epochs": 250}}, "paper")
        {'epochs': 250}
    """
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}.")
    return presets[preset]


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
    ours = bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
    if isinstance(cause, KeyboardInterrupt):
        logger.error("Stopped. Give the same command again to go on.")
    elif isinstance(cause, (DataError, CheckpointError, FloatingPointError)) or (
        ours and isinstance(cause, (ValueError, RuntimeError))
    ):
        logger.error(str(cause))
    elif isinstance(cause, OSError) and cause.strerror:
        logger.error(f"A file cannot be read or written: {cause.strerror}. What was saved before is intact.")
    else:
        sys.__excepthook__(kind, error, trace)
