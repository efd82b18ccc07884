"""Whichever way an item goes, it is read, decoded, prepared and scored once, its map on its own grid included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ddad.data import load_datalist
from monai_ddad.serving.archive import score_archive
from monai_ddad.serving.predictor import Predictor
from tests.counting import counted
from tests.small_models import BUNDLES, run
from tests.transforms.encodings import dataset

ONCE = dict.fromkeys(("read", "decoded", "prepared", "scored"), 11)


@pytest.fixture
def films(tmp_path) -> Path:
    """Eleven films, ten pictures and a DICOM file: more than one batch."""
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(rng.integers(0, 256, (48, 40), dtype=np.uint8)).save(folder / f"{number}.png")
    film = dataset(rng.integers(0, 4096, (48, 40), dtype=np.uint16), Modality="DX")
    film.save_as(folder / "film.dcm", enforce_file_format=True)
    return folder


def test_inference_handles_an_item_once(trained, films, tmp_path):
    models = str(trained("ddad_cxr") / "models")
    with counted() as counts:
        run("ddad_cxr", "inference", dataset_dir=str(films), models_dir=models, output_dir=str(tmp_path / "run"))
    assert counts == ONCE
    assert len(list((tmp_path / "run/eval/inference/overlays").iterdir())) == 11


def test_the_predictor_handles_an_item_once(trained, films):
    predictor = Predictor(BUNDLES / "ddad_cxr", trained("ddad_cxr") / "models")
    with counted() as counts:
        for found in predictor.find(sorted(films.iterdir())):
            assert found.heat_map().values.shape == found.heat_map("rec").values.shape == (48, 40)
    assert counts == ONCE


def test_an_archive_handles_an_item_once(trained, films, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra archive")
    with counted() as counts:
        models = trained("ddad_cxr") / "models"
        score_archive([films], tmp_path / "a.parquet", BUNDLES / "ddad_cxr", models, num_workers=0)
    assert counts == ONCE


def test_an_evaluation_handles_an_item_once(trained, tmp_path):
    models = trained("ddad_cxr") / "models"
    data = models.parent / "phantom"
    with counted() as counts:
        given = {"dataset_dir": str(data), "models_dir": str(models), "output_dir": str(tmp_path / "run")}
        run("ddad_cxr", "train", "evaluate", **given)
    lists = load_datalist(data)
    pictures, masks = sum(map(len, lists.values())), sum("mask" in item for item in lists["test"])
    assert counts["scored"] == len(lists["test"]) and masks > 0
    assert counts["prepared"] == pictures  # those of the training, too, of which some may be copies
    assert counts["read"] == counts["decoded"] == pictures + masks
