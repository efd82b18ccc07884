"""The bundles on real DICOM and NIfTI files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_ddad.data.phantom import PhantomKind, write_phantom_dataset
from monai_ddad.io.errors import root_cause
from monai_ddad.transforms import ReadImage
from tests.small_models import run

pytestmark = pytest.mark.real_data


def train(bundle: str, kind: PhantomKind, folder: Path, small: dict[str, Any]) -> Path:
    write_phantom_dataset(folder / "phantom", kind=kind, normal=8, unlabeled=10, test=2, side=64)
    settings = small | {"output_dir": str(folder), "dataset_dir": str(folder / "phantom"), "preprocess": "modality"}
    run(bundle, "train", **settings)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def brain(tmp_path_factory, small) -> Path:
    return train("ddad_brain", "brain", tmp_path_factory.mktemp("brain"), small)


@pytest.fixture(scope="module")
def chest(tmp_path_factory, small) -> Path:
    return train("ddad_cxr", "chest", tmp_path_factory.mktemp("chest"), small)


def test_a_dicom_series_gets_slice_scores_and_a_map_on_its_own_grid(brain, real_data):
    series = real_data / "dicom" / "mr_brain_series"
    run("ddad_brain", "inference", output_dir=str(brain), dataset_dir=str(series))
    results = brain / "eval/inference"
    slices = table(results / "scores.csv")
    assert {row["position"] for row in slices} == {"0"} and 12 <= len(slices) < 20
    numbers = [int(row["slice"]) for row in slices]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    (volume,) = table(results / "volumes.csv")
    assert int(volume["slices"]) == len(slices)
    assert np.isclose(float(volume["rec"]), np.mean([float(row["rec"]) for row in slices]), rtol=1e-5)
    assert np.isclose(float(volume["rec_max"]), max(float(row["rec"]) for row in slices), rtol=1e-5)
    image = ReadImage()([str(path) for path in series.iterdir()])
    heat = nib.load(results / "maps/000000_r_dual.nii.gz")
    assert heat.shape == tuple(image.shape[1:]) and np.allclose(heat.affine, image.affine)
    head = np.asarray(image[0]) > 0.1
    values = heat.get_fdata()
    assert values[head].mean() > 0 and (values > 0)[head].mean() > 0.5
    (overlay,) = (results / "overlays").iterdir()
    with Image.open(overlay) as picture:
        assert min(picture.size) > 200


def test_nifti_volumes_are_scored_and_other_files_refused(brain, real_data):
    with pytest.raises(RuntimeError):
        run("ddad_brain", "inference", output_dir=str(brain), dataset_dir=str(real_data / "nifti"))
    results = brain / "eval/inference"
    assert [row["position"] for row in table(results / "volumes.csv")] == ["0", "1"]
    reasons = {row["position"]: row["reason"] for row in table(results / "unreadable.csv")}
    assert list(reasons) == ["2", "3"] and "several volumes" in reasons["2"]
    for position, name in enumerate(("anatomical.nii", "avg152T1_LR_nifti.nii.gz")):
        source, heat = nib.load(real_data / "nifti" / name), nib.load(results / f"maps/{position:06d}_r_dual.nii.gz")
        assert heat.shape == source.shape and np.allclose(heat.affine, source.affine)


def test_chest_films_are_scored_and_an_mr_image_is_refused(chest, brain, real_data):
    films = sorted(str(path) for path in (real_data / "dicom/chest_cr").iterdir())
    slice_of_a_head = str(next((real_data / "dicom/mr_brain_series").iterdir()))
    with pytest.raises(RuntimeError):
        run("ddad_cxr", "inference", output_dir=str(chest), dataset_dir=[*films, slice_of_a_head])
    results = chest / "eval/inference"
    scores = [float(row["rec"]) for row in table(results / "scores.csv")]
    assert len(scores) == 3 and abs(scores[1] - scores[2]) > 1e-4  # one film and its negative
    (refused,) = table(results / "unreadable.csv")
    assert refused["position"] == "3" and "another modality than CR or DX or RG" in refused["reason"]
    with pytest.raises(RuntimeError) as caught:
        run("ddad_brain", "inference", output_dir=str(brain), dataset_dir=films[0])
    error = root_cause(caught.value)
    assert "another modality than MR" in str(error)
