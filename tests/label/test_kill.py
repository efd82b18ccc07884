"""A server or a training that is killed leaves no process, and the same training afterwards makes the same model."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.kills import KILLS, PATIENCE, moments, temporary_files
from tests.label.conftest import Server

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")
import psutil

from monai_ddad.label.train import ENOUGH

SETTINGS = {"epochs": 3, "refine_epochs": 2}


@pytest.fixture
def studies(trained, tmp_path) -> Path:
    """Pictures, of which most are submitted as normal."""
    run = trained("ddad_brain")
    (tmp_path / "studies").mkdir()
    for path in sorted((run / "phantom/images").glob("*.png"))[: ENOUGH + 7]:
        shutil.copy(path, tmp_path / "studies")
    return tmp_path / "studies"


def submit(server: Server) -> None:
    empty = io.BytesIO()
    Image.new("L", (64, 64)).save(empty, "PNG")
    for path in sorted(server.studies.glob("*.png"))[:ENOUGH]:
        assert server.submit(path.stem, empty.getvalue()).ok


def training_of(server: Server) -> psutil.Process | None:
    children = psutil.Process(server.process.pid).children()
    return next((child for child in children if "monailabel.interfaces.utils.app" in child.cmdline()), None)


def train(server: Server) -> psutil.Process:
    """Start a training; return its process."""
    answer = server.request("POST", "/train/ddad_brain_training", json=SETTINGS)
    assert answer.ok, answer.text
    limit = time.monotonic() + 30
    while (process := training_of(server)) is None and time.monotonic() < limit:
        time.sleep(0.01)
    return process


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "0001" / "models" / "model.pt", weights_only=True)


@pytest.mark.slow
def test_trainings_killed_at_random_moments_leave_nothing_and_end_as_one_undisturbed(trained, studies, start, tmp_path):
    def serve(versions: Path) -> Server:
        return start("ddad_brain", studies, models=str(trained("ddad_brain") / "models"), versions=str(versions))

    def finish(server: Server, versions: Path) -> dict[str, torch.Tensor]:
        assert server.wait_for("/train/")["status"] == "DONE", server.log.read_text()[-3000:]
        assert sorted(os.listdir(versions)) == ["0001"]
        return weights(versions)

    server = serve(tmp_path / "whole")
    submit(server)
    train(server)
    started = time.monotonic()
    expected = finish(server, tmp_path / "whole")
    duration = time.monotonic() - started
    server.stop()
    for number, moment in enumerate(moments(KILLS, duration)):
        versions = tmp_path / f"versions{number}"
        server = serve(versions)
        training = train(server)
        time.sleep(moment)
        whole = (versions / "0001").exists()
        if number % 2:  # the training alone
            with suppress(psutil.NoSuchProcess):  # it has just ended
                training.kill()
        else:
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
        gone, alive = psutil.wait_procs([training], PATIENCE)
        for process in alive:
            process.kill()
        assert gone and not alive
        if number % 2:
            server.wait_for("/train/")  # until the server has noticed
        else:
            server = serve(versions)
        if not whole and not (versions / "0001").exists():
            train(server)
            assert finish(server, versions).keys() == expected.keys()
            assert all(torch.equal(value, expected[name]) for name, value in weights(versions).items())
        assert not temporary_files(versions)
        server.stop()


def test_a_second_server_trains_only_when_the_first_ones_training_has_ended(trained, studies, start, tmp_path):
    models = str(trained("ddad_brain") / "models")
    first, second = (start("ddad_brain", studies, models=models, versions=str(tmp_path / "versions")) for _ in range(2))
    submit(first)
    train(first)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("versions/unfinished-ddad_brain-*/datalist.json")) and time.monotonic() < limit:
        time.sleep(0.05)
    answer = second.request("POST", "/train/ddad_brain_training", json=SETTINGS)
    assert answer.status_code == 429, answer.text
    assert answer.json()["detail"] == "another server is training: wait for its end."
    assert first.wait_for("/train/")["status"] == "DONE"
    assert sorted(os.listdir(tmp_path / "versions")) == ["0001"]
    assert second.infer(sorted(path.stem for path in studies.glob("*.png"))[0]).json()["version"] == 1


def test_a_server_that_ends_ends_its_training(trained, studies, start, tmp_path):
    server = start(
        "ddad_brain", studies, models=str(trained("ddad_brain") / "models"), versions=str(tmp_path / "versions")
    )
    submit(server)
    training = train(server)
    server.process.terminate()
    try:
        server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    gone, alive = psutil.wait_procs([training], PATIENCE)
    for process in alive:
        process.kill()
    assert gone and not alive
