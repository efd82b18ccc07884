"""The application takes what all commands take of a folder, and counts the same as left out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from tests.hostile_folder import as_user, hostile_folder
from tests.small_models import BUNDLES


def test_the_application_uses_the_same_images_and_counts_the_same_as_left_out(trained, tmp_path):
    models = trained("ddad_cxr") / "models"
    with hostile_folder(tmp_path) as (folder, images, left_out):
        command = ["-m", "monai_ddad.deploy", "-i", str(folder), "-o", str(tmp_path / "out")]
        command += ["-m", str(BUNDLES / "ddad_cxr"), "--models_dir", str(models)]
        done = subprocess.run(as_user(sys.executable, *command), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["left_out"] == left_out
    positions = [place for row in results["images"] + results["unusable"] for place in row["files"]]
    assert sorted(positions) == list(range(len(images)))
    reasons = {place: row["reason"] for row in results["unusable"] for place in row["files"]}
    names = sorted(images, key=lambda name: name.split("/"))
    assert reasons[names.index("interrupted.dcm")] == "the DICOM file is filled with zeros: an interrupted copy"
    assert reasons[names.index("secret")] == "the file cannot be opened: not allowed"
    assert str(tmp_path) not in done.stderr and ".png" not in done.stderr
