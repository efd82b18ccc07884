"""Run a config of a bundle in this process's children and kill them: ``kill_run.py CONFIG FOLDER KILLS SETTINGS``.

The libraries are imported once; every run is a fork, so that each takes as long as its training alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow

import monai_ddad.training  # noqa: F401  (imported once, before the forks)


def start(config: str, settings: dict) -> int:
    """Start a run in a child; return its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            workflow = ConfigWorkflow(config, logging_file=False, **settings)
            workflow.initialize()
            workflow.run()
            status = 0
        finally:
            os._exit(status)
    return child


def finish(child: int) -> None:
    """Wait for a child that must end well."""
    assert os.waitpid(child, 0)[1] == 0, "a run failed"


def main(config: str, folder: Path, kills: int, settings: dict) -> None:
    """Compare the model of an uninterrupted run with those of killed and restarted ones; print a line a kill."""
    started = time.monotonic()
    finish(start(config, settings | {"output_dir": str(folder / "whole")}))
    duration = time.monotonic() - started
    expected = torch.load(folder / "whole" / "models" / "model.pt", weights_only=True)
    moments = random.Random(0)
    for i in range(kills):
        output = folder / f"killed{i}"
        child = start(config, settings | {"output_dir": str(output)})
        moment = duration * (i + moments.random()) / kills
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        left = sorted(path.name for path in (output / "models").glob("*.pt")) if output.exists() else []
        finish(start(config, settings | {"output_dir": str(output)}))
        assert not list((output / "models").glob(".*")), "a half-written file is left"
        weights = torch.load(output / "models" / "model.pt", weights_only=True)
        equal = weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in expected)
        print(json.dumps({"moment": round(moment, 2), "killed": killed, "left": left, "equal": equal}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
