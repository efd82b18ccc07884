"""A training by several processes gives the weights of one by a single process, also after one of them has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

BUNDLE = "bundles/ddad_brain"
OVERLAY = f"['{BUNDLE}/train.json','{BUNDLE}/multi_gpu_train.json']"
EPOCHS = 30


@pytest.fixture
def settings(small, dataset_dir) -> dict[str, Any]:
    """Settings of a run that can be killed on its way."""
    return small | {
        "members": 3,
        "epochs": EPOCHS,
        "refine_epochs": 3,
        "val_interval": 15,
        "dataset_dir": str(dataset_dir),
    }


@pytest.fixture
def one_process(repository, settings):
    """Return a function that trains in this process and returns the weights."""

    def run(folder: Path) -> dict[str, torch.Tensor]:
        config = repository / BUNDLE / "configs" / "train.json"
        workflow = ConfigWorkflow(str(config), logging_file=False, **settings, output_dir=str(folder))
        workflow.initialize()
        workflow.run()
        return weights(folder)

    return run


@pytest.fixture
def two_processes(repository, settings):
    """Return a function that starts a training by two processes."""

    def start(folder: Path, config: str = OVERLAY) -> subprocess.Popen[str]:
        options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
        return subprocess.Popen(
            [*command, "--config_file", config, "--output_dir", str(folder), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=repository,
            env=os.environ | {"PYTHONPATH": str(repository), "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""},
        )

    return start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
def test_weights_equal_those_of_one_process_also_after_one_of_two_was_killed(one_process, two_processes, tmp_path):
    expected = one_process(tmp_path / "one")
    whole = two_processes(tmp_path / "two")
    output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, output[-3000:]
    assert equal(weights(tmp_path / "two"), expected)
    assert output.count("report.html") == 1  # one process evaluates

    broken = two_processes(tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "models" / "checkpoint_ensemble.pt"
    waited = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < waited and broken.poll() is None:
        time.sleep(0.02)
    os.kill(children(broken.pid)[1], signal.SIGKILL)
    output = broken.communicate(timeout=120)[0]
    assert broken.returncode != 0, output[-3000:]
    assert not (tmp_path / "killed" / "models" / "model.pt").exists()
    done = torch.load(checkpoint, weights_only=True)["state"]["epochs"]
    assert 0 < done["ndm"] < EPOCHS
    assert equal(one_process(tmp_path / "killed"), expected)


def test_several_processes_without_the_overlay_are_refused(two_processes, tmp_path):
    process = two_processes(tmp_path / "run", f"{BUNDLE}/train.json")
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "add the bundle's multi_gpu_train.json" in output
    assert not (tmp_path / "run" / "models").exists()
