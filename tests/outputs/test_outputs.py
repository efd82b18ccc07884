"""Tables, plots and overlays."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from monai_ddad.outputs import (
    evaluate_scores,
    overlay_heat_map,
    plot_gallery,
    plot_histograms,
    plot_roc,
    volume_scores,
    write_json,
    write_scores,
)


@pytest.fixture
def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"index": np.arange(20), "label": np.repeat([0, 1], 10), "rec": rng.random(20), "inter": rng.random(20)}


def test_images_with_unknown_label_or_left_out_do_not_count(table):
    table["label"][3] = -1
    keep = np.ones(20, dtype=bool)
    keep[[0, 15]] = False
    figures = evaluate_scores(table, ["rec"], keep, resamples=10)
    assert (figures["normal"], figures["abnormal"]) == (8, 9)
    rest = np.setdiff1d(np.arange(20), [0, 3, 15])
    pairs = [
        float(table["rec"][a] > table["rec"][n])
        for a in rest[table["label"][rest] == 1]
        for n in rest[table["label"][rest] == 0]
    ]
    assert figures["scores"]["rec"]["auroc"] == pytest.approx(np.mean(pairs))


def test_one_class_gives_counts_and_no_figures(table):
    figures = evaluate_scores(table, ["rec"], table["label"] == 0)
    assert figures == {"normal": 10, "abnormal": 0, "scores": {}}


def test_score_table_holds_every_image_once_in_order(table, tmp_path):
    table["label"][0] = -1
    columns = {"position": range(20), "duplicate": np.arange(20) % 2}
    write_scores(table, ["inter", "rec"], tmp_path / "scores.csv", columns)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["position", "duplicate", "label", "inter", "rec"]
    assert [int(row["position"]) for row in rows] == list(range(20))
    assert rows[0]["label"] == "" and rows[19]["label"] == "1" and rows[1]["duplicate"] == "1"
    np.testing.assert_allclose([float(row["rec"]) for row in rows], table["rec"], rtol=1e-7)


def test_volumes_get_the_mean_and_the_highest_score_of_their_slices(table):
    volumes = [None] * 4 + [5] * 10 + [2] * 6
    joined = volume_scores(table, ["rec", "inter"], volumes)
    assert joined["index"].tolist() == [5, 2] and joined["slices"].tolist() == [10, 6]
    assert joined["label"].tolist() == [table["label"][4], table["label"][14]]
    for name in ("rec", "inter"):
        np.testing.assert_allclose(joined[name], [table[name][4:14].mean(), table[name][14:].mean()])
        np.testing.assert_allclose(joined[f"{name}_max"], [table[name][4:14].max(), table[name][14:].max()])


def test_nan_in_json_is_an_error_and_leaves_the_old_file(tmp_path):
    write_json({"a": 1.0}, tmp_path / "metrics.json")
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": float("nan")}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 1.0}


@pytest.mark.parametrize("constant", [False, True])
def test_plots_are_pictures_also_of_constant_scores(table, constant, tmp_path):
    if constant:
        table["rec"][:] = 0.1
        table["inter"][:] = 0
    plot_roc(table, ["rec", "inter"], tmp_path / "roc.png")
    plot_histograms(table, ["rec", "inter"], tmp_path / "histograms.png")
    maps = np.random.default_rng(0).random((3, 2, 8, 8))
    plot_gallery(np.zeros((3, 3, 8, 8)), maps, ["rec", "inter"], ["a", "b", "c"], [1, 1], tmp_path / "gallery.png")
    for name in ("roc", "histograms", "gallery"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.convert("L").getextrema()[0] < 100


def test_overlay_leaves_cold_pixels_and_colours_hot_ones():
    image = Image.new("L", (40, 20), 100)
    heat = np.zeros((20, 40))
    heat[:, 30:] = 1.0
    overlay = np.asarray(overlay_heat_map(image, heat, limit=1.0, opacity=0.5))
    assert overlay.shape == (20, 40, 3)
    assert (overlay[:, :30] == 100).all()
    assert (overlay[:, 30:, 0] > 150).all() and (overlay[:, 30:, 2] > 60).all()
