"""Two runs side by side."""

from __future__ import annotations

import json

import pytest

from monai_ddad.evaluation.metrics import auroc, paired_bootstrap
from monai_ddad.evaluation.report import write_comparison
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.io.errors import DataError


@pytest.fixture
def compare(make_run, read_page, tmp_path):
    def make(first, second):
        runs = [make_run(name, gallery=False, **options) for name, options in (("first", first), ("second", second))]
        return runs, read_page(write_comparison(*runs, tmp_path / "comparison.html"))

    return make


def test_differences_are_those_of_the_paired_bootstrap(compare):
    runs, page = compare({}, {"seed": 3})
    first, second = (read_run(run).table for run in runs)
    keep = [row for row in range(80) if row % 5]
    for caption, rows in (
        ("Figures, all images", list(range(80))),
        ("Figures, without near copies of training images", keep),
    ):
        for name in first.scores:
            found = paired_bootstrap(
                auroc, first.scores[name][rows], second.scores[name][rows], first.label[rows], resamples=1000
            )
            (cells,) = [row[-2:] for row in page.tables[caption] if row[:2] == [name, "AUROC"]]
            numbers = f"{found.difference:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"
            assert cells[0].replace("\u2212", "-") == numbers.replace("+0.000", "0.000").replace("-0.000", "0.000")
            assert cells[1] == f"{found.p_value:.3g}"
    assert "32 differences are tested" in page.texts("section/p")[0]
    assert (
        "Comparison",
        "both scored the same images with the same labels: differences are tested in pairs",
    ) in page.summary


def test_figures_of_both_runs_stand_in_the_right_column(compare):
    runs, page = compare({}, {"seed": 3})
    figures = [json.loads((run / "eval/metrics.json").read_text())["splits"]["all"]["scores"]["rec"] for run in runs]
    (row,) = (row for row in page.tables["Figures, all images"] if row[:2] == ["rec", "Average precision"])
    for cell, found in zip(row[2:4], figures):
        assert cell.startswith(f"{found['average_precision']:.3f} (")


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"images": "ab" * 32}, "scored different images"),
        ({"labelled": False}, "their labels differ"),
        ({"volumes": True}, "one run scored pictures and the other volumes"),
    ],
)
def test_nothing_is_tested_where_the_images_or_labels_differ(compare, second, why):
    _, page = compare({}, second)
    assert why in dict(page.summary)["Comparison"]
    assert all(
        row[-1] == "" for caption in page.tables if caption == "Figures, all images" for row in page.tables[caption][1:]
    )
    assert "differences are tested" not in page.source


def test_nothing_is_tested_on_splits_that_left_out_different_images(make_run, read_page, tmp_path):
    runs = [make_run(name, gallery=False) for name in ("first", "second")]
    path = runs[1] / "eval/scores.csv"
    lines = path.read_text().splitlines()
    lines[1], lines[2] = lines[1].replace("0,1,", "0,0,", 1), lines[2].replace("1,0,", "1,1,", 1)
    path.write_text("\n".join(lines) + "\n")
    tables = read_page(write_comparison(*runs, tmp_path / "comparison.html")).tables
    assert all(row[-1] for row in tables["Figures, all images"])
    assert all(row[-1] == "" for row in tables["Figures, without near copies of training images"][1:])


def test_volumes_are_compared_as_wholes(compare):
    runs, page = compare({"volumes": True}, {"volumes": True, "seed": 3})
    first, second = (read_run(run).volumes for run in runs)
    found = paired_bootstrap(auroc, first.scores["rec"], second.scores["rec"], first.label, resamples=1000)
    (row,) = (row for row in page.tables["Figures, volumes"] if row[:2] == ["rec", "AUROC"])
    assert row[-1] == f"{found.p_value:.3g}"


def test_a_score_of_one_run_only_stands_alone(make_run, change_metrics, read_page, tmp_path):
    runs = [make_run(name, gallery=False, calibrated=False) for name in ("first", "second")]
    path = runs[1] / "eval/scores.csv"
    path.write_text(path.read_text().replace(",r_dual,", ",r_intra,", 1))

    def rename(content):
        content["score"] = "r_intra"
        for split in content["splits"].values():
            split["scores"] = {name.replace("r_dual", "r_intra"): found for name, found in split["scores"].items()}

    change_metrics(runs[1], rename)
    page = read_page(write_comparison(*runs, tmp_path / "comparison.html"))
    rows = {row[0]: row for row in page.tables["Figures, all images"] if row[1] == "AUROC"}
    assert rows["r_dual"][3:] == ["", "", ""]
    assert rows["r_intra"][2] == "" and rows["r_intra"][3] and rows["r_intra"][4:] == ["", ""]
    assert rows["rec"][-1]
    assert "ROC curves of r_dual and r_intra, images" in page.texts("figcaption")


def test_only_the_settings_that_differ_are_listed(compare):
    _, page = compare({}, {"learning_rate": 0.001, "images": "ab" * 32, "extra": 7})
    assert page.tables["What was trained and evaluated differently"][1:] == [
        ["Settings", "learning rate", "0.0005", "0.001"],
        ["Settings", "extra", "none", "7"],
        ["Evaluated images", "sha256", "6ff4aa51" * 8, "ab" * 32],
    ]


def test_equal_runs_differ_in_nothing(compare):
    _, page = compare({}, {})
    assert "All that was recorded of the two trainings is equal." in page.texts("section/p")
    assert {row[-1] for row in page.tables["Figures, all images"][1:]} == {"1"}
    assert {row[-2] for row in page.tables["Figures, all images"][1:]} == {"0.000 (0.000 to 0.000)"}


def test_decisions_of_both_runs_are_listed(compare):
    runs, page = compare({}, {"alpha": 0.2})
    rows = page.tables["Decisions, with exact 95\xa0% binomial intervals"][1:]
    assert [row[0] for row in rows] == ["Run A, images", "Run B, images"]
    assert [row[3] for row in rows] == ["10 %", "20 %"]
    for run, row in zip(runs, rows):
        assert row[2] == f"{int(read_run(run).table.flagged.sum())} of 80"


@pytest.mark.parametrize("missing", [0, 1])
def test_a_run_without_an_evaluation_is_refused(make_run, tmp_path, missing):
    runs = [make_run(name, gallery=False) for name in ("first", "second")]
    runs[missing] = tmp_path / "none"
    with pytest.raises(DataError, match="evaluate first"):
        write_comparison(*runs, tmp_path / "comparison.html")
    assert not (tmp_path / "comparison.html").exists()
