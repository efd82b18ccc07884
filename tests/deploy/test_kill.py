"""A run that is killed leaves no process and no half of its results, and the same command afterwards makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.deploy.conftest import film, picture, save
from tests.kills import KILLS, left, moments
from tests.small_models import BUNDLES

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from monai_ddad.deploy.application import whole_output
from monai_ddad.io.errors import DataError
from monai_ddad.io.locks import LOCK

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


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; return the exit code and what was said."""
    errors = process.communicate(timeout=300)[1]
    return process.returncode, errors


def results(output: Path) -> dict[str, bytes]:
    """Return the results but for what is made anew each time, UIDs and times of DICOM objects."""
    files = {path.name: path.read_bytes() for path in sorted(output.iterdir())}
    return {name: b"" if name.endswith(".dcm") else content for name, content in files.items()}


@pytest.mark.slow
def test_killed_at_random_moments_it_leaves_nothing_and_ends_as_one_undisturbed(call, tmp_path):
    started = time.monotonic()
    code, errors = finish(call(tmp_path / "whole"))
    duration = time.monotonic() - started
    expected = results(tmp_path / "whole")
    assert code == 0 and len(expected) == 30 + 1 + 3 * 3, errors
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
        code, errors = finish(call(output))
        assert code == 0 or "not empty" in errors, errors  # it may have been killed when all was done
        assert results(output) == expected
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


KILL = """
import os, signal, sys
from pathlib import Path
from monai_ddad.deploy.application import whole_output
from tests.deploy.test_kill import write
moves = iter(range(100))
move = os.replace
def kill(*arguments):
    if next(moves) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    move(*arguments)
with whole_output(Path(sys.argv[1])) as folder:
    write(folder)
    os.replace = kill
"""


@pytest.mark.parametrize("moves", [0, 1, 2])  # of what is to be moved, of the overlay, of results.json
def test_a_run_that_was_killed_while_its_results_came_is_begun_anew(tmp_path, moves):
    done = subprocess.run([sys.executable, "-c", KILL, tmp_path / "out", str(moves)], cwd=BUNDLES.parent)
    assert done.returncode == -signal.SIGKILL
    left_by_it = os.listdir(tmp_path / "out")
    assert ("000000_overlay.png" in left_by_it) == (moves == 2) and len(left_by_it) == 2 + (moves == 2)
    with whole_output(tmp_path / "out") as folder:
        assert set(os.listdir(tmp_path / "out")) == {LOCK, folder.parent.name}
        (folder / "new").touch()
    assert os.listdir(tmp_path / "out") == ["new"]


def test_two_runs_do_not_write_to_one_folder(call, tmp_path):
    processes = [call(tmp_path / "out") for _ in range(2)]
    codes, errors = zip(*[finish(process) for process in processes])
    assert sorted(codes) == [0, 1]
    refused = codes.index(1)
    here = f"process {processes[1 - refused].pid} on this host has been writing here for"
    assert here in errors[refused] or "not empty" in errors[refused], errors[refused]
