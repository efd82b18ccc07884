"""The app serves a model of features, and trains one on what has been submitted."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai_ddad.io.checkpoints import load_file
from monai_ddad.serving import Predictor
from tests.label.loaded import loaded
from tests.small_models import BUNDLES, features_model


def test_replies_are_those_of_the_predictor_and_a_training_adds_a_version(tmp_path):
    run = features_model(tmp_path / "run")
    images = sorted((run / "phantom" / "images").glob("*.png"))
    (tmp_path / "studies").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "studies")
    predictor = Predictor(BUNDLES / "ddad_cxr", run / "models")
    expected = [found.result for found in predictor.find(images[:8])]
    spread = np.std([result.scores["ddad_plus"] for result in expected])
    with loaded(tmp_path, "ddad_cxr", run) as client:
        from monailabel.interfaces.utils.app import app_instance

        for image, result in zip(images, expected):
            found = client.post(f"/infer/ddad_cxr?image={image.stem}&output=json").json()
            found = found.get("params", found)
            assert found["score_name"] == "ddad_plus" and found["p_value"] == pytest.approx(result.p_value)
            assert found["score"] == pytest.approx(result.scores["ddad_plus"], abs=1e-4 * spread)
        app, empty = app_instance(), io.BytesIO()
        Image.new("L", (64, 64)).save(empty, "PNG")
        (tmp_path / "empty.png").write_bytes(empty.getvalue())
        for image in images[:22]:
            app.datastore().save_label(image.stem, str(tmp_path / "empty.png"), "final", {})
        task = app._trainers["ddad_cxr_training"]
        for pretrained in (True, False):
            version = task({"pretrained": pretrained}, app.datastore())["version"]
            models = tmp_path / "versions" / f"{version:04d}" / "models"
            weights = load_file(models / "model.pt")
            assert weights["calibration.images.scores"].shape[1] == 22
            assert not (models / "features").exists()
        shared = tmp_path / "versions" / "features_ddad_cxr"
        assert len(list(shared.glob("*.pt"))) > 1  # of both versions
