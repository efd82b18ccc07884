"""The overlay for TensorRT, with the network as TorchScript in the engine's place and a stub of its package."""

from __future__ import annotations

import csv
import inspect
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, trt_export

from monai_ddad.bundle import network_settings
from monai_ddad.io.checkpoints import load_weights
from monai_ddad.io.errors import root_cause
from monai_ddad.networks import Deciding, build_model
from tests.small_models import KINDS

REPOSITORY = Path(__file__).resolve().parents[2]


def scores(folder: Path) -> np.ndarray:
    """Read what a model computes: its training may have left out scores that so few images cannot teach."""
    names = build_model(network_settings(str(folder / "models"))).score_names
    assert "ddad_plus" in names
    with (folder / "eval/inference/scores.csv").open() as file:
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def infer(bundle: str, configs: list[str], output: Path, images: Path) -> np.ndarray:
    files = [str(REPOSITORY / f"bundles/{bundle}/configs/{name}.json") for name in configs]
    settings = {"output_dir": str(output), "dataset_dir": str(images), "device": torch.device("cpu")}
    workflow = ConfigWorkflow(files, logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return scores(output)


def test_the_overlay_scores_with_the_network_in_its_file(trained, tmp_path, monkeypatch):
    bundle = "ddad_cxr"
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs/torch_tensorrt.py").write_text("Device = object\n")
    monkeypatch.syspath_prepend(tmp_path / "stubs")
    models = shutil.copytree(trained(bundle) / "models", tmp_path / "models")
    images = trained(bundle) / "phantom/images"
    plain = infer(bundle, ["inference"], tmp_path, images)
    network = load_weights(build_model(network_settings(str(models))), models / "model.pt")
    torch.jit.script(Deciding(network)).save(models / "model_trt.ts")
    np.testing.assert_allclose(
        infer(bundle, ["inference", "inference_trt"], tmp_path, images), plain, rtol=1e-5, atol=1e-5
    )

    with torch.no_grad():
        network.discrepancy.ndm.members[0].decoder[-1].weight.mul_(1.5)
    torch.jit.script(Deciding(network)).save(models / "model_trt.ts")
    changed = infer(bundle, ["inference", "inference_trt"], tmp_path, images)
    assert np.abs(changed - plain).max() > 1e-3  # it is that file which computes


def test_without_the_package_the_overlay_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    shutil.copytree(trained("ddad_cxr") / "models", tmp_path / "models")
    with pytest.raises(RuntimeError) as caught:
        infer("ddad_cxr", ["inference", "inference_trt"], tmp_path, trained("ddad_cxr") / "phantom/images")
    error = root_cause(caught.value)
    assert "import torch_tensorrt" in str(error) and not isinstance(error, ValueError)


def test_the_documented_commands_are_those_of_monai_and_of_the_overlay():
    page = (REPOSITORY / "docs/quickstart.md").read_text()
    export, run = (shlex.split(line) for line in re.findall(r"^python .*trt.*$", page, re.MULTILINE))
    assert export[:5] == ["python", "-m", "monai.bundle", "trt_export", "deciding_def"]
    options = dict(zip(export[5::2], export[6::2]))
    known = {f"--{name}" for name in inspect.signature(trt_export).parameters} | {"--output_dir"}
    assert set(options) <= known and options["--filepath"] == "runs/mine/models/model_trt.ts"
    assert run[:4] == ["python", "-m", "monai.bundle", "run"]
    parser = ConfigParser()
    parser.read_config([str(REPOSITORY / name) for name in re.findall(r"'([^']+)'", run[5])])
    parser["output_dir"] = dict(zip(run[4::2], run[5::2]))["--output_dir"]
    assert parser.get_parsed_content("trt_file") == options["--filepath"]


@pytest.mark.parametrize("bundle", KINDS)
def test_the_engines_input_is_that_of_the_metadata(bundle):
    parser = ConfigParser()
    parser.read_config(str(REPOSITORY / f"bundles/{bundle}/configs/inference.json"))
    parser.read_meta(str(REPOSITORY / f"bundles/{bundle}/configs/metadata.json"))
    image = parser["_meta_#network_data_format#inputs#image"]
    network = parser.get_parsed_content("network_def")
    assert (image["num_channels"], *image["spatial_shape"]) == network.discrepancy.image_shape
