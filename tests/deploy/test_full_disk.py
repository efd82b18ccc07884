"""A disk that is full at any moment leaves nothing of a run, and is named."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from tests.full_disk.test_full_disk import needs_compiler, on_full_disk


@pytest.mark.slow
@needs_compiler
def test_a_full_disk_leaves_nothing_and_a_clear_message(trained, tmp_path):
    shutil.copytree(trained("ddad_cxr") / "models", tmp_path / "runs/trained/run/models")  # else the job trains one
    found = on_full_disk(tmp_path, 8, "deploy")["deploy"]
    assert found["wrong"] == [] and found["failed"] + found["passed"] == found["tested"] >= 8
    assert found["calls"] >= 30 and found["failed"] >= 6
