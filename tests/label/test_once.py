"""An image that a client asks about is read, decoded, prepared and scored once, its region included."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai_ddad.label.batch import AnomalyBatchInfer
from monai_ddad.label.infer import AnomalyInfer
from monai_ddad.label.served import ServedModel
from monai_ddad.label.versions import ModelVersions
from tests.counting import counted
from tests.small_models import BUNDLES


@pytest.fixture
def served(trained, tmp_path) -> ServedModel:
    models = trained("ddad_cxr") / "models"
    served = ServedModel(ModelVersions(BUNDLES / "ddad_cxr", models, tmp_path / "versions"))
    served.predictor()
    return served


@pytest.fixture
def films(tmp_path, write_dicom, write_image) -> list[Path]:
    return [write_dicom("films/film.dcm"), write_image("films/picture.png")]


@pytest.mark.parametrize("result", ["map", "region"])
def test_inference_handles_an_image_once(served, films, tmp_path, result):
    task = AnomalyInfer(served, tmp_path, result)
    with counted() as counts:
        for film in films:
            file, found = task({"image": str(film)})
            assert Path(file).stat().st_size > 0 and found["slices"] == 0
    assert counts == dict.fromkeys(("read", "decoded", "prepared", "scored"), 2)


def test_batch_inference_handles_an_image_once(served, films, tmp_path):
    class Store:
        def list_images(self) -> list[str]:
            return [film.name for film in films]

        def get_image_uri(self, image: str) -> str:
            return str(films[0].parent / image)

        def save_label(self, *label: object) -> None:
            saved.append(label)

    saved: list[object] = []
    task = AnomalyBatchInfer(served, tmp_path / "table.csv")
    with counted() as counts:
        task({"images": "all"}, Store(), lambda request: None)
    assert counts == dict.fromkeys(("read", "decoded", "prepared", "scored"), 2) and len(saved) == 2
