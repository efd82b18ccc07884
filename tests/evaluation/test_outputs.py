"""Tables, plots and overlays."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from monai_ddad.decision.decisions import doubt_refinement
from monai_ddad.decision.overlay import add_colour_bar, overlay_heat_map
from monai_ddad.evaluation.gallery import choose_rows, write_gallery
from monai_ddad.evaluation.plots import plot_gallery
from monai_ddad.evaluation.tables import evaluate_scores, operating_points, volume_scores, write_json, write_scores


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


def test_the_gallery_is_a_picture(tmp_path):
    maps = np.random.default_rng(0).random((3, 2, 8, 8))
    plot_gallery(np.zeros((3, 3, 8, 8)), maps, ["rec", "inter"], ["a", "b", "c"], [1, 1], tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.convert("L").getextrema()[0] < 100


def test_overlay_leaves_cold_pixels_and_colours_hot_ones():
    image = Image.new("L", (40, 20), 100)
    heat = np.zeros((20, 40))
    heat[:, 30:] = 99.9
    overlay = np.asarray(overlay_heat_map(image, heat, opacity=0.5))
    assert overlay.shape == (20, 40, 3)
    assert (overlay[:, :30] == 100).all()
    assert (overlay[:, 30:, 0] > 150).all() and (overlay[:, 30:, 2] > 60).all()


def test_overlay_is_stronger_where_fewer_normal_pixels_reach_as_high():
    image = Image.new("L", (40, 8), 0)
    levels = np.repeat([0.0, 50, 90, 99, 99.9, 100, 100, 100], 5)
    weight = np.asarray(overlay_heat_map(image, np.tile(levels, (8, 1)), opacity=1.0)).astype(int).sum(axis=-1)[0, ::5]
    assert weight[0] == 0 and (np.diff(weight[:5]) > 0).all() and (weight[4:] == weight[4]).all()


@pytest.mark.parametrize("size", [(30, 20), (640, 400)])
def test_a_colour_bar_stands_beside_the_overlay_and_leaves_it_as_it_is(size):
    overlay = Image.effect_noise(size, 80).convert("RGB")
    shown = add_colour_bar(overlay)
    assert shown.width > overlay.width and shown.height >= overlay.height
    assert np.array_equal(np.asarray(shown.crop((0, 0, *size))), np.asarray(overlay))
    bar = np.asarray(shown)[:, overlay.width :].astype(int).sum(axis=-1)
    assert bar.max() > 700 and len(np.unique(bar)) > 50  # white figures, and colours


def test_the_gallery_shows_the_clearest_and_the_worst_decisions_of_each_kind():
    scores, labels = np.arange(12.0), np.array([0, 1, -1] * 4)
    flagged = scores >= 6
    assert choose_rows(scores, labels, flagged, 1) == [0, 1, 2, 9, 10, 11]
    assert choose_rows(scores, labels, flagged, 5) == list(range(12))
    assert choose_rows(scores, labels, None, 1) == [0, 1, 2, 9, 10, 11]


def test_the_gallery_has_two_files_an_image_of_a_size_that_can_be_seen(tmp_path):
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    write_gallery(images, np.zeros((2, 16, 16)), [4, 9], tmp_path)
    names = ["000004_image.png", "000004_overlay.png", "000009_image.png", "000009_overlay.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with Image.open(tmp_path / "000009_image.png") as picture:
        assert picture.size == (192, 192)
        np.testing.assert_allclose(np.asarray(picture).mean(axis=(0, 1)), images[1].float().mean(dim=(1, 2)), atol=4)


@pytest.mark.parametrize("abnormal", [0, 30])
def test_operating_points_are_counted(abnormal):
    rng = np.random.default_rng(0)
    values, labels = rng.random(50 + abnormal).astype(np.float32), np.repeat([0, 1], [50, abnormal])
    found = operating_points(values, labels, [0.1, 0.5])
    for point in found["points"]:
        assert point["false_positive_rate"] == (values[:50] <= point["alpha"]).mean()
        low, high = point["false_positive_rate_interval"]
        assert 0 <= low <= point["false_positive_rate"] <= high <= 1
        assert ("sensitivity" in point) == bool(abnormal)
        if abnormal:
            assert point["sensitivity"] == (values[50:] <= point["alpha"]).mean()
    assert 0 < found["calibration_error"] < 0.2


def test_a_refined_score_that_falls_where_inter_rises_is_doubted():
    rng = np.random.default_rng(0)
    inter = rng.gamma(2.0, size=60)
    noisy = inter + rng.normal(scale=0.5, size=60)
    assert doubt_refinement(noisy, inter, True) == "" and doubt_refinement(np.ones(60), inter, True) == ""
    assert f"rank correlation {spearmanr(-noisy, inter).statistic:.2f}" in doubt_refinement(-noisy, inter, True)
    assert "--score inter" in doubt_refinement(-noisy, inter, True)
    assert "--score" not in doubt_refinement(-noisy, inter, False)
    assert doubt_refinement(1 - 1e-7 * noisy, inter, True) == ""  # ties, up to rounding
    unrelated = sum(doubt_refinement(rng.normal(size=20), rng.normal(size=20), True) != "" for _ in range(500))
    assert unrelated <= 5
