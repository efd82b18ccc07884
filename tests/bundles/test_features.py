"""The preset ``features``: training, evaluation and inference, and one score from all that serve it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ddad.bundle import model_record
from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.evaluation.report.words import FEATURE_SCORE_NAMES, SCORE_NAMES
from monai_ddad.io.checkpoints import load_file
from monai_ddad.networks import FEATURE_SCORES
from monai_ddad.serving import Predictor
from tests.small_models import BUNDLES, KINDS, run

SMALL = {"preset": "features", "image_size": 64, "calibration_minimum": 10}


@pytest.fixture(scope="module", params=["ddad_brain", "ddad_fundus"])
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    """A bundle, and the folder of its outputs."""
    bundle, folder = request.param, tmp_path_factory.mktemp(request.param)
    write_phantom_dataset(folder / "phantom", kind=KINDS[bundle], normal=40, unlabeled=30, test=8, side=64)
    run(bundle, "train", dataset_dir=str(folder / "phantom"), output_dir=str(folder), **SMALL)
    return bundle, folder


def test_a_training_leaves_a_small_model_that_knows_its_encoder(trained):
    bundle, folder = trained
    file = folder / "models" / "model.pt"
    record = model_record(folder / "models", bundle)
    assert record.network["encoder_digest"].startswith("57934424")
    assert record.map_names == ["inter", "rec", "ratio"] and record.network["score"] == "ddad_plus"
    assert record.score_names == [*record.map_names, *FEATURE_SCORES]
    assert file.stat().st_size < 5_000_000 and not any("encoder" in name for name in load_file(file))
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    assert metrics["splits"]["all"]["scores"]["ddad_plus"]["auroc"] > 0.7
    assert metrics["decision"]["calibration_normals"] == 10
    page = (folder / "eval" / "report.html").read_text()
    assert all(text.replace("'", "&#39;") in page for text in FEATURE_SCORE_NAMES.values())
    assert not any(text in page for text in SCORE_NAMES.values())  # which explain those of ensembles


def test_an_evaluation_of_the_model_gives_the_same_scores(trained, tmp_path):
    bundle, folder = trained
    settings = {"dataset_dir": str(folder / "phantom"), "models_dir": str(folder / "models")}
    run(bundle, "train", "evaluate", output_dir=str(tmp_path), **settings)
    first, second = ((place / "eval" / "scores.csv").read_text() for place in (folder, tmp_path))
    assert first == second


def test_a_second_training_gives_the_same_weights(trained, tmp_path):
    bundle, folder = trained
    run(bundle, "train", dataset_dir=str(folder / "phantom"), output_dir=str(tmp_path), **SMALL)
    first, second = (load_file(place / "models" / "model.pt") for place in (folder, tmp_path))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_inference_writes_findings_and_overlays(trained, tmp_path):
    bundle, folder = trained
    images = sorted((folder / "phantom" / "images").glob("*.png"))[:3]
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / "images" / image.name).write_bytes(image.read_bytes())
    settings = {"dataset_dir": str(tmp_path / "images"), "models_dir": str(folder / "models")}
    run(bundle, "inference", output_dir=str(tmp_path), **settings)
    assert len(list((tmp_path / "eval" / "inference" / "overlays").glob("*.png"))) == 3
    found = [one.result.scores for one in Predictor(BUNDLES / bundle, folder / "models").find(images)]
    table = np.genfromtxt(tmp_path / "eval" / "inference" / "scores.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["ddad_plus"], [one["ddad_plus"] for one in found], rtol=1e-4, atol=1e-4)


def test_onnx_gives_the_scores_and_maps_of_pytorch(trained):
    bundle, folder = trained
    images = sorted((folder / "phantom" / "images").glob("*.png"))[:10]
    ways = {runtime: Predictor(BUNDLES / bundle, folder / "models", runtime=runtime) for runtime in ("torch", "onnx")}
    found = {runtime: list(predictor.find(images)) for runtime, predictor in ways.items()}
    for name in found["torch"][0].result.scores:
        one, other = (np.array([item.result.scores[name] for item in found[way]]) for way in found)
        np.testing.assert_allclose(one, other, atol=1e-3 * one.std() + 1e-6, err_msg=name)
    for one, other in zip(found["torch"], found["onnx"]):
        assert one.result.flagged == other.result.flagged
        torch.testing.assert_close(one.maps, other.maps, rtol=1e-2, atol=1e-3)
