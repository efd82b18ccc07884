"""A disk that is full at any moment costs no earlier result, and is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler")
def test_a_full_disk_leaves_the_last_good_results_and_a_clear_message(tmp_path):
    library = tmp_path / "full_disk.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, HERE / "full_disk.c", "-ldl"], check=True)
    jobs = ["train", "evaluate", "inference", "score", "report", "comparison", "audit", "datalist", "prepare"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.full_disk.jobs", tmp_path / "runs", "2", *jobs],
        env=os.environ | {"LD_PRELOAD": str(library)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in jobs:
        found = json.loads((tmp_path / "runs" / f"{name}.json").read_text())
        print(f"{name}: {found}")
        assert found["wrong"] == [] and found["failed"] + found["passed"] == found["tested"] == 2
        assert found["calls"] >= 5 and found["failed"] > 0
