"""Processes that are forked from a server which has imported the package and has run nothing.

A fork of the tests' own process would be one of a process with threads, which may crash.
"""

from __future__ import annotations

import atexit
import importlib.util
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import cloudpickle
import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.processes", "monai.bundle", "monai_ddad.serving.archive", "monai_ddad.training"])


def start(function: Callable[[], object], **environment: str) -> BaseProcess:
    """Call a function in a process of its own, which has a copy of all that the function refers to.

    Args:
        function: any, lambdas included.
        environment: variables to set there.
    """
    process = SERVER.Process(target=_call, args=(cloudpickle.dumps(function), environment))
    process.start()
    return process


def start_ranks(function: Callable[[int], object], number: int) -> list[BaseProcess]:
    """Call a function with each rank, in as many processes with the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    return [start(partial(function, rank), RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(number)]


def python_m(
    module: str, *arguments: str, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Do what ``python -W ignore -m MODULE ARGUMENTS`` does, without importing MONAI anew.

    Args:
        module: a package with a ``__main__``, or a module.
        arguments: its words.
        cwd: folder to be in.
        timeout: seconds after which the process is killed.
        environment: variables to set.
    """
    with tempfile.TemporaryDirectory() as folder:
        said, told = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(partial(_run, module, arguments, str(cwd), str(said), str(told)), **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(module, timeout)
        return subprocess.CompletedProcess(arguments, process.exitcode, said.read_text(), told.read_text())


def _run(module: str, arguments: tuple[str, ...], cwd: str, said: str, told: str) -> None:
    for number, file in ((1, said), (2, told)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    warnings.simplefilter("ignore")
    os.chdir(cwd)
    # as it is in a new process: workflows put their bundles there
    sys.path[:] = [cwd, *(folder for folder in sys.path if not Path(folder, "configs", "metadata.json").is_file())]
    main = f"{module}.__main__" if importlib.util.find_spec(f"{module}.__main__") else module
    found = importlib.util.find_spec(main)
    sys.argv = [str(found and found.origin), *arguments]
    sys.modules.pop(main, None)
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = 1
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except BaseException:
            traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _call(function: bytes, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    cloudpickle.loads(function)()
