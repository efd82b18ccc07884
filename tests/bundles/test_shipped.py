"""The models that come with the bundles: what they are, what they find, and that they can be made anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ddad.bundle import model_record, run_record
from monai_ddad.data.datalist import read_split
from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.serving import Predictor
from tests.small_models import BUNDLES, run

SETS = {"ddad_brain": "brain_mri", "ddad_cxr": "chest_xray", "ddad_fundus": "fundus"}


@pytest.mark.parametrize("bundle", SETS)
def test_a_bundle_carries_a_small_model_of_the_packaged_encoder(bundle):
    folder = BUNDLES / bundle / "shipped"
    record = model_record(folder, bundle)
    assert record.network["encoder_digest"].startswith("57934424") and record.network["score"] == "ddad_plus"
    assert record.network["left_out"] == {} and record.preparation["preprocess"] == "modality"
    assert run_record(folder)["data"]["normal"] == record.network["calibration_images"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    assert "Licence of the images" in (BUNDLES / bundle / "docs" / "data_license.txt").read_text()


@pytest.mark.parametrize("bundle", SETS)
def test_it_scores_without_a_training_and_tells_images_of_another_kind(bundle, tmp_path):
    kind = "brain" if bundle == "ddad_cxr" else "chest"
    write_phantom_dataset(tmp_path / "phantom", kind=kind, normal=2, unlabeled=2, test=2, side=64)
    images, shipped = str(tmp_path / "phantom" / "images"), str(BUNDLES / bundle / "shipped")
    run(bundle, "inference", dataset_dir=images, models_dir=shipped, output_dir=str(tmp_path))
    assert (tmp_path / "eval" / "inference" / "report.html").is_file()
    found = Predictor(BUNDLES / bundle, shipped).find(sorted((tmp_path / "phantom" / "images").iterdir()))
    assert sum(bool(one.result.out_of_protocol) for one in found) >= 7  # of 8


@pytest.mark.real_data
@pytest.mark.parametrize("bundle", SETS)
def test_it_flags_real_abnormal_images_and_few_normal_ones(bundle, real_data):
    folder = real_data / SETS[bundle]
    split = read_split(folder / "data.json")
    predictor = Predictor(BUNDLES / bundle, BUNDLES / bundle / "shipped")
    shares = []
    for group in ("test normal", "test abnormal"):
        found = [one.result for one in predictor.find([folder / "images" / name for name in split[group][:24]])]
        shares.append(sum(result.flagged for result in found) / len(found))
        assert sum(bool(result.out_of_protocol) for result in found) <= 3
    assert shares[0] <= 0.2 and shares[1] >= 0.5


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("bundle", SETS)
def test_it_is_made_anew_bit_by_bit(bundle, real_data, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(BUNDLES / bundle / "train.json")]
    settings = ["--dataset_dir", str(real_data / SETS[bundle]), "--output_dir", str(tmp_path)]
    subprocess.run([*command, *settings], check=True, timeout=1800)
    first, second = (
        Path(folder, "model.pt").read_bytes() for folder in (BUNDLES / bundle / "shipped", tmp_path / "models")
    )
    assert first == second
