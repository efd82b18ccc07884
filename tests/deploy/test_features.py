"""A model of features gives DICOM studies the scores that the predictor gives their files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_ddad.serving import Predictor
from tests.deploy.conftest import film, save
from tests.small_models import BUNDLES, features_model

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")


def test_results_are_those_of_the_predictor(tmp_path):
    from monai_ddad.deploy.__main__ import main

    models = features_model(tmp_path / "run") / "models"
    folder, output = save(tmp_path / "in", *(film(number) for number in range(5))), tmp_path / "out"
    arguments = ["-i", str(folder), "-o", str(output), "-m", str(BUNDLES / "ddad_cxr"), "--models_dir", str(models)]
    assert main([*arguments, "--objects", "overlay", "report", "segmentation", "parametric_map"]) == 0
    rows = json.loads((output / "results.json").read_text())["images"]
    found = [one.result for one in Predictor(BUNDLES / "ddad_cxr", models).find(sorted(folder.iterdir()))]
    spread = np.std([result.scores["ddad_plus"] for result in found])
    assert len(rows) == 5 and all(len(row["written"]) == 4 for row in rows)
    for row, result in zip(
        sorted(rows, key=lambda row: row["score"]), sorted(found, key=lambda one: one.scores["ddad_plus"])
    ):
        assert row["score"] == pytest.approx(result.scores["ddad_plus"], abs=1e-4 * spread)
        assert row["p_value"] == pytest.approx(result.p_value)
