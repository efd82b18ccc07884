"""What holds for all bundles: layout, configs, metadata, and a small run of each with its built-in images."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image

from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.decision.finding import Unreadable
from monai_ddad.io.errors import root_cause
from monai_ddad.networks import build_model
from monai_ddad.serving.predictor import Predictor
from tests.transforms.encodings import dataset

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ["ddad_brain", "ddad_cxr", "ddad_fundus"]
KINDS = {"ddad_brain": "brain", "ddad_cxr": "chest", "ddad_fundus": "fundus"}
CONFIGS = [
    "train.json",
    "multi_gpu_train.json",
    "evaluate.json",
    "inference.json",
    "inference_trt.json",
    "metadata.json",
]

every_bundle = pytest.mark.parametrize("bundle", NAMES)
every_config = pytest.mark.parametrize("config", CONFIGS)


@every_bundle
def test_bundle_has_the_standard_layout(bundle):
    expected = [f"configs/{name}" for name in [*CONFIGS, "logging.conf"]] + [
        "docs/README.md",
        "LICENSE",
        "large_files.yml",
    ]
    assert [name for name in expected if not (BUNDLES / bundle / name).is_file()] == []
    for name in [*CONFIGS, "logging.conf"]:
        assert (BUNDLES / bundle / name).read_bytes() == (BUNDLES / bundle / "configs" / name).read_bytes()


@every_bundle
def test_files_are_what_the_templates_give(bundle):
    spec = importlib.util.spec_from_file_location("build", BUNDLES / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    for name, text in build.render(bundle).items():
        assert (BUNDLES / bundle / name).read_text() == text, f"{name}: run python bundles/build.py"
        assert not (BUNDLES / bundle / name).is_symlink()


def monai_components() -> SimpleNamespace:
    """What a ``_target_`` without a dot may be here."""
    modules = (monai.data, monai.engines, monai.handlers, monai.inferers, monai.transforms)
    return SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


@every_bundle
@every_config
def test_expressions_import_nothing_and_stay_short(bundle, config):
    text = (BUNDLES / bundle / "configs" / config).read_text()
    if config == "inference_trt.json":
        text = text.replace("$import torch_tensorrt", "", 1)  # which registers what its engines need
    expressions = re.findall(r'"(\$(?:[^"\\]|\\.)*)"', text)
    assert [code for code in expressions if re.search(r"import|__|subprocess|\bos\.|\beval\(|exec|open\(", code)] == []
    assert [code for code in expressions if len(code) > 100] == []
    targets = re.findall(r'"_target_":\s*"([^"]*)"', text)
    ours = ("monai_ddad.", "torch.optim.", "ignite.distributed.")
    assert [name for name in targets if not name.startswith(ours) and not hasattr(monai_components(), name)] == []


@every_bundle
@every_config
def test_no_key_stands_twice(bundle, config):
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [key for key, _ in pairs]
        return dict(pairs)

    json.loads((BUNDLES / bundle / "configs" / config).read_text(), object_pairs_hook=check)


@every_bundle
def test_metadata_follows_the_schema_and_names_the_outputs(bundle, tmp_path):
    schema = str(BUNDLES / "metadata_schema.json")
    verify_metadata(meta_file=str(BUNDLES / bundle / "configs/metadata.json"), filepath=schema)
    metadata = json.loads((BUNDLES / bundle / "configs/metadata.json").read_text())
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(channels.values()) == build_model().map_names
    del metadata["changelog"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="changelog"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=schema)


@every_bundle
@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_takes_and_gives_what_the_metadata_says(bundle, config, tmp_path):
    verify_net_in_out(
        net_id="network_def",
        config_file=str(BUNDLES / bundle / f"configs/{config}.json"),
        meta_file=str(BUNDLES / bundle / "configs/metadata.json"),
        device="cpu",
        output_dir=str(tmp_path),
    )


@every_bundle
def test_evaluate_and_inference_take_every_setting_of_the_preparation_from_the_training(bundle):
    train, evaluate, inference = (
        json.loads((BUNDLES / bundle / f"configs/{name}.json").read_text())
        for name in ("train", "evaluate", "inference")
    )
    names = set(train["preparation"])
    assert names == set(evaluate["untrained"]) == set(inference["untrained"])
    assert {name: evaluate.get(name) for name in names} == {name: f"$@prepared['{name}']" for name in names}
    assert [name for name in names if f"@prepared['{name}']" not in json.dumps(inference)] == []
    steps = json.dumps([train["train"]["preprocessing"], train["squares"]])
    assert [name for name in names if f"@{name}" not in steps] == []
    assert set(train["modality_settings"]) == names - {
        "preprocess",
        "modalities",
        "body_parts",
        "slice_area",
        "slice_height",
    }


def run(bundle: str, configs: list[str], **settings: Any) -> ConfigWorkflow:
    files = [str(BUNDLES / bundle / f"configs/{name}.json") for name in configs]
    workflow = ConfigWorkflow(files, logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture(scope="module", params=[(name, how) for name in NAMES for how in ("plain", "modality")], ids="-".join)
def trained(request, tmp_path_factory, small) -> tuple[str, str, Path, Path]:
    """Bundle, preparation, synthetic data and output folder of a small run."""
    bundle, preprocess = request.param
    data = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom_dataset(data, kind=KINDS[bundle], normal=20, unlabeled=20, test=3, side=64)
    output = tmp_path_factory.mktemp("output")
    settings = small | {"unlabeled_size": 20, "preprocess": preprocess, "scores": "plus"}
    run(bundle, ["train"], output_dir=str(output), dataset_dir=str(data), **settings)
    return bundle, preprocess, data, output


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_evaluation_and_inference_prepare_images_as_the_training_did(trained):
    bundle, preprocess, data, output = trained
    record = json.loads((output / "models/run.json").read_text())
    assert record["preparation"]["preprocess"] == preprocess
    assert record["network"]["masked"] == (bundle == "ddad_fundus" and preprocess == "modality")
    first = table(output / "eval/scores.csv")
    run(bundle, ["train", "evaluate"], output_dir=str(output), dataset_dir=str(data))
    assert table(output / "eval/scores.csv") == first
    tests = json.loads((data / "data.json").read_text())["test"]
    paths = [str(data / "images" / name) for name in tests["0"] + tests["1"]]
    run(bundle, ["inference"], output_dir=str(output), dataset_dir=paths)
    for row, again in zip(first, table(output / "eval/inference/scores.csv"), strict=True):
        for name in build_model(scores="plus").score_names:
            assert math.isclose(float(row[name]), float(again[name]), rel_tol=1e-5, abs_tol=1e-5)
    with Image.open(paths[0]) as image, Image.open(output / "eval/inference/overlays/000000.png") as overlay:
        assert overlay.width > image.width and overlay.height >= image.height


def test_the_predictor_finds_what_inference_writes(trained):
    bundle, _, data, output = trained
    paths = sorted(str(path) for path in (data / "images").iterdir())[:5]
    run(bundle, ["inference"], output_dir=str(output), dataset_dir=paths, map_format="npz")
    predictor = Predictor(BUNDLES / bundle, output / "models")
    *findings, unreadable = predictor.find([*paths, str(data / "data.json")])
    assert isinstance(unreadable, Unreadable) and unreadable.position == 5
    for found, row in zip(findings, table(output / "eval/inference/scores.csv"), strict=True):
        result, position = found.result, found.position
        for name, score in result.scores.items():
            assert math.isclose(score, float(row[name]), rel_tol=1e-5, abs_tol=1e-5)
        assert result.out_of_protocol == row["out_of_protocol"]
        assert result.p_value is result.flagged is None and result.slices == 0  # nothing was set aside
        heat = found.heat_map()
        with np.load(output / f"eval/inference/maps/{position:06d}_{result.map}.npz") as saved:
            np.testing.assert_allclose(heat.values, saved["map"], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="the map must be one of"):
        findings[0].heat_map("other")


def test_a_trained_models_settings_can_be_trained_on_with(trained):
    bundle, preprocess, _, output = trained
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs/train.json"))
    parser.update({"preset": "trained", "models_dir": str(output / "models")})
    again = {part: parser.get_parsed_content(part) for part in ("network_def", "settings", "preparation")}
    record = json.loads((output / "models/run.json").read_text())
    assert again["preparation"] == record["preparation"] and again["preparation"]["preprocess"] == preprocess
    assert again["network_def"].discrepancy.settings.used().items() <= record["network"].items()
    differing = {name for name, value in record["settings"].items() if again["settings"][name] != value}
    assert differing <= {"preset", "synthetic_data", "device", "precision", "epochs"}


def test_unreadable_files_are_listed_and_the_others_are_scored(trained, tmp_path):
    bundle, _, data, output = trained
    good = sorted((data / "images").iterdir())[:2]
    bad = tmp_path / "Muster_Erika.png"
    bad.write_text("no image")
    with pytest.raises(RuntimeError) as caught:
        paths = [str(good[0]), str(bad), str(good[1])]
        run(bundle, ["inference"], output_dir=str(output), dataset_dir=paths)
    error = root_cause(caught.value)
    assert "1 of 3 items could not be read" in str(error)
    results = output / "eval/inference"
    assert [row["position"] for row in table(results / "scores.csv")] == ["0", "2"]
    (unreadable,) = table(results / "unreadable.csv")
    assert unreadable["position"] == "1" and "not an image" in unreadable["reason"] and "Muster" not in str(unreadable)
    assert sorted(path.name for path in (results / "overlays").iterdir()) == ["000000.png", "000002.png"]


def test_nothing_of_a_header_or_a_path_is_written(small, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    canary = "Muster^Erika"
    texts = ("PatientName", "PatientID", "StudyDescription", "InstitutionName", "ImageComments")
    named = tmp_path / canary
    groups = ["normal"] * 8 + ["unlabeled"] * 6 + ["test/normal"] * 2 + ["test/abnormal"] * 2
    for number, group in enumerate(groups):
        film = dataset(np.random.default_rng(number).integers(0, 4096, (40, 40), dtype=np.uint16))
        film.Modality = "CR"
        for keyword in texts:
            setattr(film, keyword, canary)
        path = named / group / f"{canary}_{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        film.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    (named / "unlabeled" / f"{canary}.dcm").write_bytes(whole[:-500])
    output = tmp_path / "out"
    with pytest.raises(RuntimeError):
        run("ddad_cxr", ["train"], output_dir=str(output), dataset_dir=str(named), **small)
    (named / "unlabeled" / f"{canary}.dcm").rename(named / "test" / f"{canary}.dcm")
    run("ddad_cxr", ["train"], output_dir=str(output), dataset_dir=str(named), preprocess="modality", **small)
    with pytest.raises(RuntimeError):
        run("ddad_cxr", ["inference"], output_dir=str(output), dataset_dir=str(named / "test"))
    written = [path for path in output.rglob("*") if path.is_file()]
    assert len(written) > 15 and (output / "eval/inference/unreadable.csv").read_text().count("\n") == 2
    assert [path.name for path in written if b"Muster" in path.read_bytes() or "Muster" in path.name] == []
    assert any(record.levelno == logging.DEBUG for record in caplog.records)
    assert "Muster" not in caplog.text + "".join(capfd.readouterr())
