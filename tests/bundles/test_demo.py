"""The command of the README on the built-in data keeps what the README says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from monai_ddad.networks import build_model


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_main_job_on_the_built_in_data_ranks_lesions_above_reconstruction_error(bundle, seed):
    command = ["-m", "monai.bundle", "run", "--config_file", "bundles/ddad_brain/train.json", "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=bundle.parents[1],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SYNTHETIC" in done.stdout
    rows = [line.split()[4] for line in done.stdout.splitlines() if line.startswith("all ")]
    assert rows == build_model(scores="plus").score_names
    figures = json.loads((bundle / "eval" / "metrics.json").read_text())["splits"]["all"]["scores"]
    assert figures["r_dual"]["auroc"] >= 0.85
    assert figures["r_dual"]["auroc"] > figures["rec"]["auroc"]
    assert figures["inter"]["auroc"] > figures["rec"]["auroc"]
    areas = {name: values["auroc"] for name, values in figures.items()}
    assert areas["ddad_plus"] > max(areas[name] for name in ("r_dual", "inter", "intra", "rec"))
    assert areas["ddad_plus"] > areas["maha_rec"]
