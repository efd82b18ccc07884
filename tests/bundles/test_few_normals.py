"""Trainings on few known normals, as a user runs them: what decides, and what every output says of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.io.errors import DataError, root_cause
from monai_ddad.serving.archive import score_archive
from monai_ddad.serving.predictor import Predictor

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "ddad_brain"
SMALL = {
    "preset": "phantom",
    "members": 2,
    "image_size": 32,
    "width": 2,
    "hidden_size": 8,
    "epochs": 2,
    "device": "cpu",
}
SMALL |= {"refine": "none", "batch_size": 8, "unlabeled_size": 25}


def run(*configs: str, **settings: Any) -> ConfigWorkflow:
    files = [str(BUNDLE / "configs" / f"{config}.json") for config in configs]
    workflow = ConfigWorkflow(files, logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_phantom_dataset(tmp_path_factory.mktemp("data"), normal=60, unlabeled=25, test=8, side=32)


def part(data: Path, normals: int) -> Path:
    """Return the datalist of a set with so many of its known normals."""
    listed = json.loads((data / "data.json").read_text())
    images = [data / "images" / name for name in listed["train"]["0"][:normals]]
    training = [{"image": str(image), "label": 0} for image in images]
    training += [
        {"image": str(data / "images" / name)} for names in listed["train"]["unlabeled"].values() for name in names
    ]
    test = [
        {"image": str(data / "images" / name), "label": int(label)}
        for label, names in listed["test"].items()
        for name in names
    ]
    file = data / f"few_{normals}.json"
    file.write_text(json.dumps({"training": training, "test": test}))
    return file


@pytest.fixture(scope="module")
def few(data, tmp_path_factory) -> Path:
    """Output folder of a training on 14 known normals."""
    output = tmp_path_factory.mktemp("few")
    run("train", dataset_dir=str(part(data, 14)), output_dir=str(output), **SMALL)
    return output


def test_training_evaluation_and_inference_say_in_every_output_what_decides_instead(few, data):
    images = str(data / "images")
    run("inference", dataset_dir=images, output_dir=str(few))
    evaluated = {"output_dir": str(few), "eval_dir": str(few / "eval/again"), "alpha": 0.2}
    run("train", "evaluate", dataset_dir=str(part(data, 14)), **evaluated)
    for folder in (few / "eval", few / "eval/inference", few / "eval/again"):
        metrics = json.loads((folder / "metrics.json").read_text())
        with (folder / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert np.ptp([float(row[metrics["score"]]) for row in rows]) > 0
        assert metrics["score"] == "rec" and "ddad_plus" in metrics["left_out"]
        assert "ddad_plus" not in rows[0] and "flagged" not in rows[0]
        said = " ".join(metrics["warnings"])
        assert "14 are left for it. rec decides instead of ddad_plus." in said
        report = (folder / "report.html").read_text()
        assert "14 are left for it" in report and "rec decides instead of ddad_plus" in report
    predictor = Predictor(BUNDLE, few / "models")
    found = [one.result for one in predictor.find(sorted((data / "images").iterdir())[:3])]
    assert [result.score for result in found] == ["rec"] * 3 and found[0].flagged is None
    assert found[0].summary()["notes"][-1] == "rec decides instead of ddad_plus."


def test_the_table_of_an_archive_says_so_too(few, data, tmp_path, caplog):
    parquet = pytest.importorskip("pyarrow.parquet")
    score_archive([data / "images"], tmp_path / "scores.parquet", BUNDLE, few / "models", num_workers=1)
    table = parquet.read_table(tmp_path / "scores.parquet")
    said = json.loads(table.schema.metadata[b"monai_ddad"])
    assert said["score"] == "rec" and said["notes"][-1] == "rec decides instead of ddad_plus."
    assert "ddad_plus" not in table.column_names and "rec decides instead" in caplog.text


def test_the_score_that_could_not_be_learnt_cannot_be_asked_for(few, data):
    with pytest.raises(RuntimeError) as error:
        Predictor(BUNDLE, few / "models", score="ddad_plus")
    assert "ddad_plus could not be learnt" in str(root_cause(error.value)) and "14 are left" in str(
        root_cause(error.value)
    )
    assert Predictor(BUNDLE, few / "models", score="inter").network.score == "inter"


def test_a_model_that_must_not_become_worse_is_not_trained(few, data, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("train", dataset_dir=str(part(data, 14)), output_dir=str(tmp_path), instead=False, **SMALL)
    assert isinstance(root_cause(error.value), DataError) and "14 are left for it" in str(root_cause(error.value))
    assert not (tmp_path / "models/model.pt").exists()


@pytest.mark.parametrize(("normals", "set_aside"), [(30, 0), (60, 30)])
def test_with_normals_enough_the_score_decides_also_in_a_training_that_goes_on(few, data, tmp_path, normals, set_aside):
    settings = {name: value for name, value in SMALL.items() if name in ("epochs", "batch_size", "device")}
    settings |= {"preset": "trained", "models_dir": str(tmp_path / "models"), "unlabeled_size": None}
    settings |= {"defaults#models_dir": str(few / "models"), "start_from": str(few / "models/model.pt")}
    run("train", dataset_dir=str(part(data, normals)), output_dir=str(tmp_path), **settings)
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert metrics["score"] == "ddad_plus" and metrics["left_out"] == {}
    assert (metrics["decision"] or {"calibration_normals": 0})["calibration_normals"] == set_aside
