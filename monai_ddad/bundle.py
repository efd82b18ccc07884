"""What the bundles' configs call besides networks, data and engines."""

from __future__ import annotations

import difflib
import inspect
import itertools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite.distributed as idist
import monai.bundle
import torch

from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data.resident import DataError
from monai_ddad.locks import require_free
from monai_ddad.machine import PATIENCE
from monai_ddad.networks import DDADNet
from monai_ddad.processes import end_with_process

logger = logging.getLogger(__name__)

FRAMES = 4  # shown of an error from elsewhere
PARTS = ("network", "settings", "data")  # of run.json

__all__ = [
    "check_command_line",
    "choose_preset",
    "default_preset",
    "find_root",
    "is_served",
    "network_settings",
    "preparation_settings",
    "report_errors_plainly",
    "require_free_folders",
    "require_one_process",
    "run_record",
    "start_processes",
]


def find_root(name: str) -> str:
    """Find the folder of the bundle whose config is running.

    Looks at the ``--config_file`` of the command line, then at ``sys.path`` (where MONAI puts the bundle that runs),
    then at the current folder and at ``bundles/<name>`` in it.

    Args:
        name: the bundle's name.

    Returns:
        the folder that holds ``configs/metadata.json``; the current folder if none is found by another program than
        ``python -m monai.bundle``, which then has to set ``bundle_root`` or ``output_dir`` itself.

    Raises:
        ValueError: ``python -m monai.bundle`` runs a config that is in no bundle: nothing is to be written to the
            current folder unasked.

    Example:
        >>> import os
        >>> os.path.isdir(find_root("ddad_brain"))
        True
    """
    parents = [file.parent for file in _config_files()]
    candidates = [folder.parent if folder.name == "configs" else folder for folder in parents]
    candidates += [Path(folder) for folder in sys.path if folder] + [Path(), Path("bundles") / name]
    for path in candidates:
        if (path / "configs" / "metadata.json").is_file():
            return str(path)
    if _is_command():
        raise ValueError("the config is not in a bundle's folder: say with --output_dir where outputs go.")
    return "."


def _config_files() -> list[Path]:
    """Return the files of the command line's ``--config_file``."""
    words = [word.replace("--config-file", "--config_file") for word in sys.argv]
    configs = [value for key, value in itertools.pairwise(words) if key == "--config_file"]
    configs += [word.partition("=")[2] for word in words if word.startswith("--config_file=")]
    return [Path(file.strip(" []()'\"")) for config in configs for file in config.split(",")]


def _is_command() -> bool:
    """Tell whether this is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def check_command_line(without_effect: Sequence[str] = ()) -> None:
    """Refuse settings of ``python -m monai.bundle run`` that the config does not have, which MONAI takes in silence.

    Commands whose config is not named by ``--config_file``, or that take more from an ``--args_file``, are not checked.

    Args:
        without_effect: settings that the plain preparation of images does not use.

    Raises:
        ValueError: an unknown setting, with the closest known one, or one without effect.
    """
    files = _config_files()
    if not _is_command() or not files or any(word.startswith(("--args_file", "--args-file")) for word in sys.argv):
        return
    known = {key for file in files for key in monai.bundle.ConfigParser.load_config_file(file)}
    known |= {"bundle_root", "experiment_name", "run_name"}  # the last two are for tracking
    for command in (monai.bundle.run, monai.bundle.run_workflow, monai.bundle.ConfigWorkflow):
        known |= set(inspect.signature(command).parameters)
    for word in sys.argv:
        name = re.split("=|#|::", word)[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in without_effect:
            raise ValueError(f"{name} has no effect on plain images: add --preprocess modality.")
        if word.startswith("--") and name and name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            raise ValueError(f"there is no setting {name}" + (f": did you mean {close[0]}?" if close else "."))


def run_record(models_dir: str) -> dict[str, Any]:
    """Return what ``run.json`` says of the training: network, settings, epochs, data, versions.

    Args:
        models_dir: folder of ``run.json`` and ``model.pt``.

    Raises:
        CheckpointError: nothing is trained there yet, or ``run.json`` is damaged.
    """
    try:
        record = json.loads((Path(models_dir) / "run.json").read_text(encoding="utf-8"))
        if all(isinstance(record[name], dict) for name in PARTS):
            return record
    except FileNotFoundError:
        raise CheckpointError("there is no model in the models folder: train first.") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError("run.json in the models folder is damaged: run train.json again.")


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
    if not (Path(models_dir) / "run.json").exists():
        return settings
    trained = {name: value for name, value in run_record(models_dir)["network"].items() if name in settings}
    expected = {name: _kinds(settings[name]) for name in trained}
    if "backbone" not in trained or any(not isinstance(trained[name], kind) for name, kind in expected.items()):
        raise CheckpointError("run.json in the models folder is damaged: run train.json again.")
    return settings | trained


def _kinds(default: Any) -> tuple[type, ...]:
    """Return the types that a setting of the network may have in a file."""
    if default is None:
        return (str, type(None))
    return (int, float) if isinstance(default, float) else (type(default),)


def preparation_settings(models_dir: str, untrained: dict[str, Any]) -> dict[str, Any]:
    """Return how the images of the training were prepared, from the ``run.json`` beside ``model.pt``.

    Args:
        models_dir: folder of the two files.
        untrained: the settings by name, as they are where nothing is trained yet.

    Raises:
        CheckpointError: ``run.json`` is damaged.

    Example:
        >>> preparation_settings("no such folder", {"preprocess": "plain"})
        {'preprocess': 'plain'}
    """
    if not (Path(models_dir) / "run.json").exists():
        return untrained
    return untrained | run_record(models_dir).get("preparation", {})


def is_served() -> bool:
    """Tell whether MONAI Label runs the bundle."""
    return "monailabel" in sys.modules


def default_preset(dataset_dir: Any, models_dir: str) -> str:
    """Return the preset where none is given.

    Args:
        dataset_dir: what the user gave; None draws synthetic images, but in MONAI Label, which brings its own.
        models_dir: folder of the model, which MONAI Label trains on with the settings that it has.
    """
    if dataset_dir is None and not is_served():
        return "phantom"
    return "trained" if dataset_dir is None and (Path(models_dir) / "run.json").exists() else "default"


def choose_preset(presets: dict[str, dict[str, Any]], preset: str, models_dir: str = "") -> dict[str, Any]:
    """Return the settings of one preset.

    Args:
        presets: settings by preset; ``"like"`` names another one whose settings count where a preset has none.
        preset: name of the one to use; ``"trained"`` takes what the model in ``models_dir`` was trained with, and
            the default where that does not say.
        models_dir: folder of ``run.json``.

    Raises:
        ValueError: there is no such preset.

    Example:
        >>> choose_preset({"paper": {"epochs": 250}}, "paper")
        {'epochs': 250}
    """
    if preset == "trained":
        base, record = choose_preset(presets, "default"), run_record(models_dir)
        known = {"scores": "paper"} | record["settings"] | record["network"] | record.get("preparation", {})
        return {name: known.get(name, value) for name, value in base.items()}
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}.")
    chosen = presets[preset]
    return presets.get(chosen.get("like", ""), {}) | chosen


def require_one_process() -> None:
    """Refuse several processes that know nothing of each other.

    Raises:
        ValueError: ``torchrun`` has started them.
    """
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number > 1:
        raise ValueError(
            f"torchrun has started {number} processes, which would all train the same: add the bundle's "
            "multi_gpu_train.json to --config_file."
        )


def require_free_folders(folders: Sequence[str]) -> None:
    """Refuse at the start, before images are read, what would be refused when the run comes to write.

    Args:
        folders: to write to; they need not exist.

    Raises:
        FolderInUseError: another process writes to one.
    """
    for folder in folders if idist.get_rank() == 0 else ():
        require_free(folder, "--output_dir")


def start_processes() -> None:
    """Let the processes that ``torchrun`` has started find each other; one alone has nothing to find.

    With GPUs there is one for each process of a machine. Only the first process logs more than errors.

    Raises:
        ValueError: a machine has more processes than GPUs.
    """
    if "WORLD_SIZE" not in os.environ:
        return
    end_with_process(os.getppid())  # torchrun, which may be killed
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local > gpus:
            raise ValueError(f"{local} processes are started on a machine with {gpus} GPUs: --nproc_per_node={gpus}.")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    idist.initialize("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    if idist.get_rank() > 0:
        logging.disable(logging.WARNING)


def report_errors_plainly() -> None:
    """Let ``python -m monai.bundle``, or MONAI Label's process, end with one clear message of what is wrong.

    MONAI wraps an error in one of its own for each level of the config, and Python prints them all. Of errors from
    elsewhere the innermost one is shown. Other programs that run the bundle are left alone.
    """
    if _is_command() or Path(sys.argv[0]).parts[-4:] == ("monailabel", "interfaces", "utils", "app.py"):
        sys.excepthook = _report
        # MONAI's StatsHandler, by this name in the configs, logs the same error with its traceback at every level
        logging.getLogger("train").addFilter(lambda record: not record.exc_info)


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
        traceback.print_exception(type(cause), cause, cause.__traceback__, limit=-FRAMES, chain=False)
