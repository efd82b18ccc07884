"""The program that runs a bundle's config: its command line, its processes, and how its errors are told."""

from __future__ import annotations

import difflib
import inspect
import itertools
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import ignite.distributed as idist
import monai.bundle
import torch

from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError, root_cause
from monai_ddad.io.locks import require_free
from monai_ddad.io.writing import private_folder
from monai_ddad.machine import PATIENCE
from monai_ddad.packaged import is_installed
from monai_ddad.processes import end_with_process

logger = logging.getLogger(__name__)

FRAMES = 4  # shown of an error from elsewhere
MONAI = ("monai", "bundle", "__main__.py")
LABEL = ("monailabel", "interfaces", "utils", "app.py")

__all__ = [
    "CommandLine",
    "check_command_line",
    "find_root",
    "is_served",
    "report_errors_plainly",
    "require_free_folders",
    "require_one_process",
    "start_processes",
]


@dataclass(frozen=True)
class CommandLine:
    """A command line as far as it matters to a bundle.

    Attributes:
        program: the last parts of the program's path.
        settings: names of the options in their order.
        configs: files of ``--config_file``.

    Example:
        >>> words = ["run", "--config-file", "train.json,more.json", "--train#trainer#max_epochs=2"]
        >>> command = CommandLine.of(["site-packages/monai/bundle/__main__.py", *words])
        >>> command.is_bundle, command.settings, command.configs
        (True, ['config_file', 'train'], ['train.json', 'more.json'])
    """

    program: tuple[str, ...]
    settings: list[str]
    configs: list[str]

    @classmethod
    def of(cls, words: Sequence[str]) -> CommandLine:
        """Read the words of a command, the program first."""
        found = cls(Path(words[0]).parts[-len(LABEL) :], [], [])
        for word, following in itertools.pairwise([*words, ""]):
            if not word.startswith("--"):
                continue
            option, given, value = word.removeprefix("--").partition("=")
            name = re.split("#|::", option)[0].replace("-", "_")
            found.settings.append(name)
            if name == "config_file":
                found.configs.extend(file.strip(" []()'\"") for file in (value if given else following).split(","))
        return found

    @classmethod
    def current(cls) -> CommandLine:
        """Read that of this process."""
        return cls.of(sys.argv)

    @property
    def is_bundle(self) -> bool:
        """Whether it is ``python -m monai.bundle``."""
        return self.program[-len(MONAI) :] == MONAI

    @property
    def is_label(self) -> bool:
        """Whether it is a task that MONAI Label runs in a process of its own."""
        return self.program == LABEL


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
        ValueError: ``python -m monai.bundle`` runs a config that is in no bundle, or the bundle is part of the
            installed package: nothing is to be written to the current folder unasked, and to the package never.

    Example:
        >>> import os
        >>> os.path.isdir(find_root("ddad_brain"))
        True
    """
    command = CommandLine.current()
    parents = [Path(file).parent for file in command.configs]
    candidates = [folder.parent if folder.name == "configs" else folder for folder in parents]
    candidates += [Path(folder) for folder in sys.path if folder] + [Path(), Path("bundles") / name]
    for path in candidates:
        if not (path / "configs" / "metadata.json").is_file():
            continue
        if is_installed(path):
            raise ValueError(
                "this bundle is part of the installed package: copy it with monai-ddad bundle, or say with "
                "--output_dir where outputs go."
            )
        return str(path)
    if command.is_bundle:
        raise ValueError("the config is not in a bundle's folder: say with --output_dir where outputs go.")
    return "."


def check_command_line(without_effect: Sequence[str] = (), of_ensembles: Sequence[str] = ()) -> None:
    """Refuse settings of ``python -m monai.bundle run`` that the config does not have, which MONAI takes in silence.

    Commands whose config is not named by ``--config_file``, or that take more from an ``--args_file``, are not checked.

    Args:
        without_effect: settings that the plain preparation of images does not use.
        of_ensembles: settings that a network of features does not use.

    Raises:
        ValueError: an unknown setting, with the closest known one, or one without effect.
    """
    command = CommandLine.current()
    if not command.is_bundle or not command.configs or "args_file" in command.settings:
        return
    known = {key for file in command.configs for key in monai.bundle.ConfigParser.load_config_file(file)}
    known |= {"bundle_root", "experiment_name", "run_name"}  # the last two are for tracking
    for function in (monai.bundle.run, monai.bundle.run_workflow, monai.bundle.ConfigWorkflow):
        known |= set(inspect.signature(function).parameters)
    for name in command.settings:
        if name in without_effect:
            raise ValueError(f"{name} has no effect on plain images: add --preprocess modality.")
        if name in of_ensembles:
            raise ValueError(f"{name} has no effect on features of an encoder: it is a setting of the ensembles.")
        if name and name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            raise ValueError(f"there is no setting {name}" + (f": did you mean {close[0]}?" if close else "."))


def is_served() -> bool:
    """Tell whether MONAI Label runs the bundle."""
    return "monailabel" in sys.modules


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
        folders: to write to; those that do not exist are made, for the user alone.

    Raises:
        FolderInUseError: another process writes to one.
    """
    for folder in folders if idist.get_rank() == 0 else ():
        require_free(folder, "--output_dir")
        private_folder(folder)


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
    command = CommandLine.current()
    if command.is_bundle or command.is_label:
        sys.excepthook = _report
        # MONAI's StatsHandler, by this name in the configs, logs the same error with its traceback at every level
        logging.getLogger("train").addFilter(lambda record: not record.exc_info)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = root_cause(error)
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
