"""A run that is killed leaves no process and no half of its results, and the same command afterwards makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.deploy.conftest import film, picture, save
from tests.kills import KILLS, left, moments, temporary_files
from tests.small_models import BUNDLES

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from monai_ddad.data import DataError
from monai_ddad.deploy.application import UNFINISHED, whole_output

Call = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def call(trained, tmp_path) -> Call:
    """Return a function that starts the command with an output folder."""
    save(tmp_path / "films", *(film(number) for number in range(3)))
    for number in range(30):
        Image.fromarray(picture(number)).save(tmp_path / "films" / f"{number:03}.png")
    models = trained("ddad_cxr") / "models"

    def start(output: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "monai_ddad.deploy", "-i", str(tmp_path / "films"), "-o", str(output)]
        return subprocess.Popen(
            [*command, "-m", str(BUNDLES / "ddad_cxr"), "--models_dir", str(models)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=BUNDLES.parent,
            start_new_session=True,
        )

    return start


def finish(process: subprocess.Popen[str], output: Path) -> dict[str, bytes]:
    """Wait for the end; return the results but for what is made anew each time, UIDs and times of DICOM objects."""
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors[-3000:]
    files = {path.name: path.read_bytes() for path in sorted(output.iterdir())}
    return {name: b"" if name.endswith(".dcm") else content for name, content in files.items()}


@pytest.mark.slow
def test_killed_at_random_moments_it_leaves_nothing_and_ends_as_one_undisturbed(call, tmp_path):
    started = time.monotonic()
    expected = finish(call(tmp_path / "whole"), tmp_path / "whole")
    duration = time.monotonic() - started
    assert len(expected) == 30 + 1 + 3 * 3
    killed = 0
    for number, moment in enumerate(moments(KILLS, duration)):
        output = tmp_path / f"{number}"
        process = call(output)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        process.stderr.close()
        assert not left(process.pid)
        if not (output / "results.json").exists():
            assert finish(call(output), output) == expected
        assert not temporary_files(output)
    assert killed >= KILLS // 2


def write(folder: Path) -> None:
    for name in ("000000_overlay.png", "results.json"):
        (folder / name).write_bytes(b"found")


def test_results_come_when_all_are_there(tmp_path):
    with whole_output(tmp_path / "out") as folder:
        write(folder)
        assert not [name for name in os.listdir(tmp_path / "out") if not name.startswith(".")]
    assert sorted(os.listdir(tmp_path / "out")) == ["000000_overlay.png", "results.json"]
    with pytest.raises(DataError, match="not empty"), whole_output(tmp_path / "out"):
        pass
    with pytest.raises(OSError, match="full"), whole_output(tmp_path / "failed") as folder:
        write(folder)
        raise OSError("full")
    assert not (tmp_path / "failed").exists() or not os.listdir(tmp_path / "failed")


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_that_was_killed_while_its_results_came_is_begun_anew(tmp_path, moved):
    (tmp_path / UNFINISHED).mkdir()
    write(tmp_path / UNFINISHED)
    names = ["000000_overlay.png", "results.json"]
    (tmp_path / UNFINISHED / "moved.json").write_text(json.dumps(names))
    for name in names[:moved]:
        os.replace(tmp_path / UNFINISHED / name, tmp_path / name)
    with whole_output(tmp_path) as folder:
        (folder / "new").touch()
    assert os.listdir(tmp_path) == ["new"]


def test_two_runs_do_not_write_to_one_folder(call, tmp_path):
    processes = [call(tmp_path / "out") for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1]
    refused = codes.index(1)
    here = f"process {processes[1 - refused].pid} on this host has been writing here for"
    assert here in errors[refused] or "not empty" in errors[refused], errors[refused]
