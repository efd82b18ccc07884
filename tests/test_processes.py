"""Processes end with the one that has started them, and a call that was killed is made good by the same call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_ddad.data.prepare import _mapping
from monai_ddad.serving.archive import listing as listing_module
from monai_ddad.serving.archive import score_archive
from monai_ddad.serving.archive.listing import Listing
from monai_ddad.serving.archive.reading import read_chunks
from tests.kills import KILLS, alive, left, moments, temporary_files
from tests.processes import start
from tests.small_models import BUNDLES

WAIT = 120  # seconds until processes must have started


def read_ahead(reached: Path) -> None:
    """Have two processes read more than a pipe holds, and take none of it but the first."""
    listing = Listing.of([f"{number}.png"] for number in range(6 * listing_module.CHUNK))
    found = read_chunks(listing, range(6), lambda item: {"image": torch.zeros(1, 32, 32)}, num_workers=2)
    next(found)
    time.sleep(0.5)
    reached.touch()
    time.sleep(600)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def map_in_processes(reached: Path) -> None:
    """Have two processes that convert images."""
    with _mapping(2) as mapping:
        results = mapping(sleep, [*[0] * 4, *[600] * 20])  # four at a time
        next(results)
        reached.touch()
        list(results)


@pytest.mark.parametrize("work", [read_ahead, map_in_processes])
def test_processes_end_with_the_one_that_has_started_them(tmp_path, work: Callable[[Path], None]):
    def lead() -> None:
        os.setsid()
        work(tmp_path / "reached")

    process = start(lead)
    limit = time.monotonic() + WAIT
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert len(alive(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not left(process.pid)


@pytest.mark.parametrize("killed_before", [False, True])
def test_a_process_that_was_started_as_a_program_ends_with_its_parent_too(tmp_path, killed_before):
    watch = "import os, sys, time; from monai_ddad.processes import end_with_process\n"
    watch += "open(sys.argv[2], 'w').close(); time.sleep(float(sys.argv[3]))\n"
    watch += "end_with_process(int(sys.argv[1])); time.sleep(600)"
    reached = tmp_path / "reached"

    def lead() -> None:
        os.setsid()
        subprocess.run([sys.executable, "-c", watch, str(os.getpid()), str(reached), "1" if killed_before else "0"])

    process = start(lead)
    limit = time.monotonic() + WAIT
    while not reached.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0 if killed_before else 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not left(process.pid)


@pytest.fixture
def score(trained, tmp_path) -> Callable[[str], Callable[[], None]]:
    """Return a function that gives a call of ``score`` on 600 pictures in chunks that are more than a pipe holds."""
    for number in range(600):
        path = tmp_path / "films" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40), np.uint8)).save(path)
    (tmp_path / "films" / "300.png").write_bytes(b"no picture")
    models = trained("ddad_cxr") / "models"

    def make(output: str) -> Callable[[], None]:
        def call() -> None:
            os.setsid()
            listing_module.CHUNK = 60
            options = {"device": "cpu", "num_workers": 2}
            score_archive([tmp_path / "films"], tmp_path / output, BUNDLES / "ddad_cxr", models, **options)

        return call

    return make


@pytest.mark.slow
def test_score_killed_at_random_moments_leaves_nothing_and_ends_as_one_undisturbed(score, tmp_path):
    def finish(output: str) -> tuple[bytes, bytes]:
        process = start(score(output))
        process.join(WAIT)
        assert process.exitcode == 0
        return tuple((tmp_path / f"{output[:-8]}{end}.parquet").read_bytes() for end in ("", "_unreadable"))

    expected = finish("whole.parquet")
    started = time.monotonic()
    assert finish("again.parquet") == expected
    duration = time.monotonic() - started  # of a run after the first, as those that are killed
    killed = 0
    for number, moment in enumerate(moments(KILLS, duration)):
        process = start(score(f"{number}.parquet"))
        process.join(moment)
        killed += process.exitcode is None
        process.kill()
        process.join()
        assert not left(process.pid)
        if not (tmp_path / f"{number}.parquet").exists():
            assert finish(f"{number}.parquet") == expected
        assert not temporary_files(tmp_path)
    assert killed >= KILLS // 2
