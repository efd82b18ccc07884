"""What a bundle's preprocessing gives is what its metadata promises, to MONAI's data sets as to ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import CacheDataset, DataLoader, Dataset
from scipy.stats import spearmanr

from monai_ddad.data import ResidentDataset, collate_items, normalise
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import root_cause
from monai_ddad.networks import build_model
from monai_ddad.serving.inferer import DecidingInferer
from monai_ddad.serving.predictor import Predictor
from monai_ddad.serving.runtimes import RUNTIMES, Runtime
from tests.small_models import BUNDLES, KINDS


def pictures(folder: Path) -> list[dict[str, Any]]:
    return [{"image": str(path)} for path in sorted((folder / "phantom/images").glob("*.png"))[:12]]


@pytest.mark.parametrize("bundle", KINDS)
@pytest.mark.parametrize("preprocess", ["plain", "modality"])
def test_preprocessing_gives_what_the_metadata_says(bundle, preprocess, trained):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs/inference.json"))
    parser.update({"bundle_root": str(BUNDLES / bundle), "models_dir": "none", "preprocess": preprocess})
    metadata = json.loads((BUNDLES / bundle / "configs/metadata.json").read_text())
    expected = metadata["network_data_format"]["inputs"]["image"]
    low, high = expected["value_range"]
    dataset = Dataset(pictures(trained(bundle)), parser.get_parsed_content("preprocessing"))
    for image in torch.cat([batch["image"] for batch in DataLoader(dataset, batch_size=4)]):
        assert image.shape == (expected["num_channels"], *expected["spatial_shape"])
        assert str(image.dtype) == f"torch.{expected['dtype']}"
        assert low <= image.min() < (low + high) / 2 < image.max() <= high


@pytest.mark.parametrize("bundle", KINDS)
@pytest.mark.parametrize("kind", [Dataset, CacheDataset])
def test_monais_data_sets_give_the_scores_of_ours(bundle, kind, trained):
    predictor, items = Predictor(BUNDLES / bundle, trained(bundle) / "models"), pictures(trained(bundle))
    loader = DataLoader(kind(items, predictor.transform), batch_size=4, collate_fn=collate_items)
    theirs = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(normalise(ResidentDataset(items, predictor.transform).images), theirs)
    found = predictor.runtime.decide(theirs)[1].numpy()
    results = [one.result for one in predictor.find([item["image"] for item in items])]
    for channel, name in enumerate(predictor.network.score_names):
        expected = [results[place].scores[name] for place in range(len(items))]
        assert abs(found[:, channel] - expected).max() < 1e-4
        if np.ptp(expected) or name in predictor.network.map_names:  # not a score that so few images cannot teach
            assert spearmanr(found[:, channel], expected).statistic > 0.999


@pytest.mark.parametrize("runtime", RUNTIMES[:2])
def test_a_runtime_refuses_a_network_without_weights(runtime, tiny, images):
    network, other = build_model(**tiny).eval(), build_model(**tiny)
    run = Runtime(network, runtime)
    for call in (run, run.decide, lambda image: DecidingInferer()(image[:1], network)):
        with pytest.raises(CheckpointError, match="no trained weights"):
            call(images)
    run.load_state_dict(other.state_dict())
    assert run(images).shape == (5, 4, 32, 32)


def test_a_run_without_its_weights_scores_nothing(trained, tmp_path):
    shutil.copytree(trained("ddad_cxr") / "models", tmp_path / "models")
    workflow = ConfigWorkflow(
        str(BUNDLES / "ddad_cxr/configs/inference.json"),
        logging_file=False,
        output_dir=str(tmp_path),
        dataset_dir=str(trained("ddad_cxr") / "phantom/images"),
        **{"handlers#0#_disabled_": True},
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    error = root_cause(caught.value)
    assert isinstance(error, CheckpointError) and "no trained weights" in str(error)
    assert not (tmp_path / "eval/inference/scores.csv").exists()
