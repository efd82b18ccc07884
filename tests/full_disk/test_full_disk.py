"""A disk that is full at any moment costs no earlier result, and is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


needs_compiler = pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler")


def on_full_disk(folder: Path, points: int, *jobs: str) -> dict[str, dict[str, Any]]:
    """Do jobs in a process of their own, whose disk is full at some of the calls that write; see ``disturb``.

    The environment variable ``MONAI_DDAD_CALLS`` asks for other numbers of calls than the tests do.
    """
    points = points and int(os.environ.get("MONAI_DDAD_CALLS", points))
    library = folder / "full_disk.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, HERE / "full_disk.c", "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.full_disk.jobs", folder / "runs", str(points), *jobs],
        env=os.environ | {"LD_PRELOAD": str(library)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {name: json.loads((folder / "runs" / f"{name}.json").read_text()) for name in jobs}
    print(found)
    return found


@pytest.mark.slow
@needs_compiler
def test_a_full_disk_leaves_the_last_good_results_and_a_clear_message(tmp_path):
    jobs = (
        "train",
        "features",
        "evaluate",
        "inference",
        "score",
        "report",
        "comparison",
        "audit",
        "datalist",
        "prepare",
    )
    one_file = ("report", "datalist")  # made, written, flushed to the disk and renamed: four calls
    for name, found in on_full_disk(tmp_path, 2, *jobs).items():
        assert found["wrong"] == [] and found["failed"] + found["passed"] == found["tested"] >= 2
        assert found["calls"] >= (4 if name in one_file else 5) and found["failed"] > 0
