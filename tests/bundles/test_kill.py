"""A run that is killed and started again ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 10


@pytest.mark.slow
def test_killed_at_random_moments_and_restarted_gives_the_same_weights(repository, dataset_dir, small, tmp_path):
    settings = small | {"epochs": 12, "refine_epochs": 12, "dataset_dir": str(dataset_dir)}
    script = Path(__file__).with_name("kill_run.py")
    config = repository / "bundles" / "ddad_brain" / "configs" / "train.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(config), str(tmp_path), str(KILLS), json.dumps(settings)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},  # a fork must find no threads
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"moment"')]
    assert len(results) == KILLS
    assert all(result["equal"] for result in results)
    assert sum(result["killed"] for result in results) >= KILLS // 2
    assert len({tuple(result["left"]) for result in results}) >= 2  # killed in different phases
