"""Real films, a series and volumes through the server have the score and the map of the bundle's own inference."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai.bundle import ConfigWorkflow

from tests.label.conftest import BUNDLES

pytestmark = pytest.mark.real_data


@pytest.fixture
def files(real_data, trained, tmp_path) -> dict[str, dict[str, Path]]:
    """By bundle and image id: a picture, and what else it takes."""
    pictures = {
        bundle: sorted((trained(bundle) / "phantom/images").glob("normal*.png"))[0]
        for bundle in ("ddad_brain", "ddad_cxr", "ddad_fundus")
    }
    photograph = sorted((real_data / "fundus/images").iterdir())[0]
    films = {path.stem: path for path in (real_data / "dicom/chest_cr").glob("*.dcm")}
    assert len(films) == 3
    return {
        "ddad_brain": {
            "picture": pictures["ddad_brain"],
            "series": real_data / "dicom/mr_brain_series",
            "anatomical": real_data / "nifti/anatomical.nii",
        },
        "ddad_cxr": {"picture": pictures["ddad_cxr"], **films},
        "ddad_fundus": {"picture": pictures["ddad_fundus"], "photograph": photograph},
    }


@pytest.mark.parametrize("bundle", ["ddad_brain", "ddad_cxr", "ddad_fundus"])
def test_every_kind_of_file_has_the_score_and_map_of_the_bundle(bundle, files, trained, start, tmp_path):
    run, studies = trained(bundle), tmp_path / "studies"
    studies.mkdir()
    for name, path in files[bundle].items():
        if path.is_dir():
            shutil.copytree(path, studies / name)
        else:
            shutil.copy(path, studies / f"{name}{''.join(path.suffixes)}")
    server = start(bundle, studies, models=str(run / "models"), versions=str(tmp_path / "versions"))
    for name, path in files[bundle].items():
        output = tmp_path / name
        shutil.copytree(run / "models", output / "models")
        workflow = ConfigWorkflow(
            str(BUNDLES / bundle / "configs/inference.json"),
            logging_file=False,
            output_dir=str(output),
            dataset_dir=str(path),
            map_format="nifti",
        )
        workflow.initialize()
        workflow.run()
        folder = output / "eval/inference"
        table = folder / ("volumes.csv" if (folder / "volumes.csv").is_file() else "scores.csv")
        with table.open() as file:
            (row,) = csv.DictReader(file)
        found = server.infer(name).json()
        assert found["score"] == pytest.approx(float(row[found["score_name"]]), rel=1e-5)
        (tmp_path / "heat.nii.gz").write_bytes(server.result(name))
        heat, (saved,) = nib.load(tmp_path / "heat.nii.gz"), folder.glob("maps/*.nii.gz")
        np.testing.assert_allclose(heat.get_fdata(), nib.load(saved).get_fdata(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(heat.affine, nib.load(saved).affine)
        if path.suffix == ".nii":
            assert heat.shape == nib.load(path).shape and np.allclose(heat.affine, nib.load(path).affine)
        region = server.result(name, f"{bundle}_region")
        assert region.startswith(b"\x89PNG" if "slices" not in row else b"\x1f\x8b")
