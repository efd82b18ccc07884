"""The preset ``features``: training, evaluation and inference, and one score from all that serve it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ddad.__main__ import main
from monai_ddad.bundle import model_record
from monai_ddad.data.items import prepare
from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.decision import Finding
from monai_ddad.evaluation.report.words import FEATURE_SCORE_NAMES, SCORE_NAMES
from monai_ddad.io.checkpoints import load_file, save_file
from monai_ddad.io.errors import root_cause
from monai_ddad.networks import FEATURE_SCORES
from monai_ddad.networks.encoder import _import_timm
from monai_ddad.serving import Predictor
from tests.small_models import BUNDLES, KINDS, run

SMALL = {"preset": "features", "image_size": 64}
timm = _import_timm()


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
    assert record.map_names == ["r_inter", "inter", "rec", "ratio"] and record.network["score"] == "ddad_plus"
    assert record.score_names == [*record.map_names, *FEATURE_SCORES]
    assert file.stat().st_size < 5_000_000 and not any("encoder.network" in name for name in load_file(file))
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    assert metrics["splits"]["all"]["scores"]["ddad_plus"]["auroc"] > 0.7
    assert metrics["decision"]["calibration_normals"] == 40
    page = (folder / "eval" / "report.html").read_text()
    assert "False-positive rate aimed at" in page and "Promised false-positive rate" not in page
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


def assert_same(found: dict[str, list[Finding]], tolerance: float = 1e-4) -> None:
    """Compare the findings of some ways with those of the first, in standard deviations of each score."""
    first, *others = found
    for name in found[first][0].result.scores:
        expected = np.array([item.result.scores[name] for item in found[first]])
        for way in others:
            values = np.array([item.result.scores[name] for item in found[way]])
            np.testing.assert_allclose(values, expected, atol=tolerance * expected.std(), err_msg=f"{way}: {name}")
    for way in others:
        for one, other in zip(found[first], found[way]):
            assert one.result.flagged == other.result.flagged and one.result.p_value == other.result.p_value
            torch.testing.assert_close(one.maps, other.maps, rtol=1e-2, atol=1e-3)


def test_every_runtime_gives_one_score(trained):
    bundle, folder = trained
    images = sorted((folder / "phantom" / "images").glob("*.png"))[:10]
    assert_same(
        {
            runtime: list(Predictor(BUNDLES / bundle, folder / "models", runtime=runtime).find(images))
            for runtime in ("torch", "torchscript", "onnx")
        }
    )


def test_an_exported_program_gives_that_score_and_needs_nothing_of_this_package(trained, tmp_path):
    bundle, folder = trained
    assert main(["export", str(folder / "models"), str(tmp_path / "model.pt2")]) == 0
    extra = {"record": ""}
    program = torch.export.load(str(tmp_path / "model.pt2"), extra_files=extra).module()
    assert json.loads(extra["record"])["bundle"] == bundle
    predictor = Predictor(BUNDLES / bundle, folder / "models")
    images = sorted((folder / "phantom" / "images").glob("*.png"))[:10]
    parts = [part for image in images for part in prepare(predictor.transform, {"image": str(image)})]
    prepared = torch.stack([part["image"].as_tensor() for part in parts])
    with torch.no_grad():
        found, expected = program(prepared), predictor.network.decide(prepared)
    spread = expected.scores.std(dim=0)
    assert ((found["scores"] - expected.scores).abs() <= 1e-4 * spread).all()
    torch.testing.assert_close(found["maps"], expected.maps, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found["p_values"], expected.p_values)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        texts = b"".join(archive.read(name) for name in archive.namelist())
    assert b"monai_ddad" not in texts.replace(b"monai_ddad_record", b"") and b"site-packages" not in texts


def test_an_encoder_of_a_file_stands_beside_its_model(tmp_path):
    network = timm.create_model("resnet18", pretrained=False)
    save_file(dict(network.state_dict()), tmp_path / "own.pth")
    write_phantom_dataset(tmp_path / "phantom", kind="brain", normal=30, unlabeled=25, test=4, side=64)
    own = {"encoder": "resnet18", "encoder_file": str(tmp_path / "own.pth")}
    run("ddad_brain", "train", dataset_dir=str(tmp_path / "phantom"), output_dir=str(tmp_path), **SMALL, **own)
    (tmp_path / "own.pth").unlink()
    models, images = tmp_path / "models", sorted((tmp_path / "phantom" / "images").glob("*.png"))[:3]
    (weights,) = models.glob("encoder_*.pth")
    found = [one.result.p_value for one in Predictor(BUNDLES / "ddad_brain", models).find(images)]
    assert np.isfinite(found).all()
    run("ddad_brain", "train", "evaluate", dataset_dir=str(tmp_path / "phantom"), output_dir=str(tmp_path))
    settings = ["--bundle", str(BUNDLES / "ddad_brain"), "--models", str(models), "--num_workers", "0"]
    assert main(["score", str(images[0]), "--output", str(tmp_path / "scores.parquet"), *settings]) == 0
    weights.write_bytes(b"damaged")
    with pytest.raises(RuntimeError) as damaged:
        Predictor(BUNDLES / "ddad_brain", models)
    weights.unlink()
    with pytest.raises(RuntimeError) as missing:
        Predictor(BUNDLES / "ddad_brain", models)
    assert "other weights" in str(root_cause(damaged.value))
    assert "come with no package" in str(root_cause(missing.value))
