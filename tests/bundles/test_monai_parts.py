"""MONAI's own data sets, and a user's postprocessing, in the place of the bundle's."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.small_models import run


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (48 + number, 40), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def found(trained: Any, films: Path, output: Path, **settings: Any) -> tuple[list[list[str]], list[bytes]]:
    """Return the rows of the scores, and the overlays, of the bundle's inference."""
    models = str(trained("ddad_cxr") / "models")
    run("ddad_cxr", "inference", dataset_dir=str(films), models_dir=models, output_dir=str(output), **settings)
    results = output / "eval/inference"
    with (results / "scores.csv").open() as file:
        rows = list(csv.reader(file))
    return rows, [path.read_bytes() for path in sorted((results / "overlays").iterdir())]


@pytest.mark.parametrize("kind", ["Dataset", "CacheDataset", "PersistentDataset"])
def test_monais_data_sets_take_the_place_of_the_bundles(trained, films, tmp_path, kind):
    expected = found(trained, films, tmp_path / "ours")
    data = {"_target_": "monai_ddad.data.list_images", "source": "@source"}
    dataset: dict[str, Any] = {"_target_": kind, "data": data, "transform": "@item_preparation"}
    if kind == "PersistentDataset":
        dataset |= {"cache_dir": str(tmp_path / "cache"), "track_meta": True, "weights_only": False}
    for number in range(2):  # the second time from the cache
        rows, overlays = found(trained, films, tmp_path / f"theirs_{number}", dataset=dataset)
        assert (rows, overlays) == expected and len(overlays) == 3


def test_monais_loader_may_read_in_processes(trained, films, tmp_path):
    expected = found(trained, films, tmp_path / "ours")
    assert found(trained, films, tmp_path / "theirs", **{"dataloader#num_workers": 2}) == expected
