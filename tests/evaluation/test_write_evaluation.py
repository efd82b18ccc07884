"""What an evaluation writes is what its evaluator found."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ddad.data import BatchItem, DataError, collate_items
from monai_ddad.decision import Judge
from monai_ddad.evaluation import ImageScores, ItemEvaluator, WriteEvaluation
from monai_ddad.transforms.eight_bit import eight_bits, normalise

LABELS = [0, 1, 0, 1, None]


@pytest.fixture
def pictures(images) -> list[dict[str, Any]]:
    return [{"image": normalise(eight_bits(image)), "label": label} for image, label in zip(images, LABELS)]


def evaluate(network: Any, batches: list[dict[str, Any]], folder: Path, alpha: float | None = None) -> dict[str, Any]:
    """Run an evaluator; return ``metrics.json``."""
    writer = WriteEvaluation(network, str(folder), str(folder / "run.json"), resamples=20)
    handlers = [ImageScores(network), writer]
    judge = Judge(network, alpha)
    evaluator = ItemEvaluator("cpu", batches, network, len(batches), judge=judge, val_handlers=handlers)
    evaluator.run()
    return json.loads((folder / "metrics.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_figures_and_pictures_are_those_of_the_images(make_net, pictures, tmp_path):
    network = make_net()
    network.calibration.images.fit(torch.rand(30, len(network.score_names)), range(30))
    batches = [collate_items(pictures[:3]), collate_items([BatchItem({}, error="the file is empty"), *pictures[3:]])]
    metrics = evaluate(network, batches, tmp_path, alpha=0.5)
    rows = table(tmp_path / "scores.csv")
    stacked = torch.stack([item["image"] for item in pictures])
    expected = network.decide(stacked).scores.detach()
    assert [row["position"] for row in rows] == ["0", "1", "2", "4", "5"]
    assert [row["label"] for row in rows] == ["0", "1", "0", "1", ""]
    for column, name in enumerate(network.score_names):
        np.testing.assert_allclose([float(row[name]) for row in rows], expected[:, column], rtol=1e-5, atol=1e-7)
    p_values = network.calibration.images.p_values(expected)[:, network.score_names.index(network.score)]
    np.testing.assert_allclose([float(row["p_value"]) for row in rows], p_values, rtol=1e-5)
    assert [row["flagged"] for row in rows] == [str(int(value <= 0.5)) for value in p_values.tolist()]
    assert table(tmp_path / "unreadable.csv") == [{"position": "3", "reason": "the file is empty"}]
    assert metrics["images"]["scored"] == 5 and metrics["decision"]["flagged"] == sum(p_values <= 0.5)
    assert metrics["images"]["sha256"] == hashlib.sha256(eight_bits(stacked).numpy().tobytes()).hexdigest()
    assert metrics["splits"]["all"]["normal"] == metrics["splits"]["all"]["abnormal"] == 2
    assert "1 of 6 input items cannot be read, and are left out." in metrics["warnings"]
    shown = sorted((tmp_path / "gallery").glob("*_image.png"))
    assert [path.name for path in shown] == [f"{row:06d}_image.png" for row in range(5)]  # rows, not positions
    with Image.open(shown[3]) as picture:
        enlarged = np.asarray(picture)
    assert np.corrcoef(enlarged[3::6, 3::6].ravel(), eight_bits(stacked[3, 0]).numpy().ravel())[0, 1] > 0.99
    assert {"gallery.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_volumes_have_rows_for_slices_and_one_of_their_own(make_net, images, tmp_path):
    network = make_net()
    volumes = [
        [{"image": MetaTensor(image, meta={"slice": 4 + k}), "label": label} for k, image in enumerate(part)]
        for part, label in ((images[:3], 0), (images[3:], 1))
    ]
    metrics = evaluate(network, [collate_items(volumes)], tmp_path)
    slices, rows = table(tmp_path / "scores.csv"), table(tmp_path / "volumes.csv")
    assert [row["slice"] for row in slices] == ["4", "5", "6", "4", "5"] and metrics["volume_decision"] is None
    assert [row["slices"] for row in rows] == ["3", "2"]
    for name in network.score_names:
        values = [float(row[name]) for row in slices]
        assert float(rows[0][name]) == pytest.approx(np.mean(values[:3]), rel=1e-6)
        assert float(rows[1][f"{name}_max"]) == pytest.approx(max(values[3:]), rel=1e-6)


def test_where_nothing_can_be_read_earlier_results_stay(make_net, pictures, tmp_path):
    network = make_net()
    evaluate(network, [collate_items(pictures)], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="- input item 0: no such file"):
        evaluate(network, [collate_items([BatchItem({}, error="no such file")])], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_gallery_of_none_is_refused(make_net, tmp_path):
    with pytest.raises(ValueError, match="gallery_size must be at least 1"):
        WriteEvaluation(make_net(), str(tmp_path), "run.json", gallery_size=0)
