"""Processes that are forked from a server which has imported the package and has run nothing.

A fork of the tests' own process would be one of a process with threads, which may crash.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess

import cloudpickle
import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.processes", "monai_ddad.serving.archive", "monai_ddad.training"])


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


def _call(function: bytes, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    cloudpickle.loads(function)()
