"""Volumes are set aside, decided on and reported as wholes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_ddad.serving.predictor import Predictor

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "ddad_brain" / "configs"
SLICES = 5


@pytest.fixture
def volumes(tmp_path) -> Path:
    """Heads of noise as NIfTI files: 8 normal, 6 unlabelled, 2 + 2 to test on."""
    rng = np.random.default_rng(0)
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in (32, 32, SLICES)), indexing="ij")
    groups = ["normal"] * 8 + ["unlabeled"] * 6 + ["test/normal"] * 2 + ["test/abnormal"] * 2
    for number, group in enumerate(groups):
        head = (x**2 + y**2 + 0.2 * z**2 < 0.8) * rng.uniform(0.5, 1, x.shape)
        (tmp_path / "heads" / group).mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(head.astype(np.float32), np.diag([7.0, 7.0, 20.0, 1.0]))
        image.to_filename(tmp_path / "heads" / group / f"{number}.nii.gz")
    return tmp_path / "heads"


def test_volumes_are_calibrated_and_decided_on_as_wholes(volumes, small, tmp_path, caplog):
    settings = small | {"calibration_share": 0.5, "calibration_minimum": 0, "score": "rec", "members": 2}
    workflow = ConfigWorkflow(
        str(CONFIGS / "train.json"),
        logging_file=False,
        dataset_dir=str(volumes),
        output_dir=str(tmp_path / "out"),
        **settings,
    )
    workflow.initialize()
    with caplog.at_level("INFO"):
        workflow.run()
    workflow.finalize()
    metrics = json.loads((tmp_path / "out/eval/metrics.json").read_text())
    slices, whole = metrics["decision"], metrics["volume_decision"]
    assert slices["calibration_normals"] > slices["calibration_groups"] == whole["calibration_normals"] == 4
    assert slices["smallest_alpha"] == whole["smallest_alpha"] == pytest.approx(0.2)
    assert metrics["score"] == metrics["training"]["network"]["score"] == "rec"
    assert f"{whole['flagged']} of 4 volumes are flagged: their p-value by rec" in caplog.text
    assert f"{slices['flagged']} of {metrics['images']['scored']} images are flagged" in caplog.text
    assert caplog.text.count("the smallest alpha that can is 0.2000") == 2
    page = (tmp_path / "out/eval/report.html").read_text()
    assert "by comparison with 4 calibration normals" in page and "true-positive" not in page.split("<main", 1)[-1]

    paths = sorted(str(path) for path in (volumes / "unlabeled").iterdir())
    inference = ConfigWorkflow(
        str(CONFIGS / "inference.json"), logging_file=False, output_dir=str(tmp_path / "out"), dataset_dir=paths
    )
    inference.initialize()
    inference.run()
    inference.finalize()
    with (tmp_path / "out/eval/inference/volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    predictor = Predictor(CONFIGS.parent, tmp_path / "out/models", alpha=0.3)
    for found, row in zip(predictor.find(paths), rows, strict=True):
        result, position = found.result, found.position
        assert result.score == "rec" and position == int(row["position"]) and result.slices == int(row["slices"])
        assert result.scores["rec"] == pytest.approx(float(row["rec"]), rel=1e-5)
        assert result.p_value == pytest.approx(float(row["p_value"]), rel=1e-5)
        assert result.percentile == pytest.approx(float(row["percentile"]), abs=1e-3)
        assert result.flagged == (result.p_value <= 0.3)
        heat = found.heat_map()
        saved = nib.load(tmp_path / f"out/eval/inference/maps/{position:06d}_rec.nii.gz")
        np.testing.assert_allclose(heat.values, saved.get_fdata(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(heat.affine, saved.affine)
        assert heat.values.shape == (32, 32, SLICES) and 0 <= heat.slice < SLICES
