"""What the report of an evaluation says."""

from __future__ import annotations

import base64
import itertools
import json
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from monai_ddad.evaluation.metrics import expected_rates
from monai_ddad.evaluation.report import write_report
from monai_ddad.evaluation.report.read import read_run

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)">'"&{{ 7 * 7 }}"""


def test_the_first_line_says_what_it_is_and_that_it_is_no_diagnosis(report):
    page = report(gallery=False)
    assert page.texts("h1") == ["DDAD (dual-distribution discrepancy) anomaly detection: evaluation report"]
    assert page.texts("title") == page.texts("h1")
    assert "This is not a diagnosis." in page.texts("header/p")[0]


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_named_where_it_is(report, synthetic):
    assert ("SYNTHETIC" in report(gallery=False, synthetic_data=synthetic).source) == synthetic


def test_the_summary_equals_scikit_learn_and_scipy_on_the_table(written_run, report):
    table = read_run(written_run(gallery=False)).table
    flags = np.array(table.columns["flagged"]) == "1"
    area = roc_auc_score(table.label, table.scores["r_dual"])
    told = {}
    for name, text in report(gallery=False).summary:
        told.setdefault(name, text)
    assert told["Deciding score"] == "r_dual"
    assert told["AUROC"].startswith(f"{area:.3f} (95 % interval ")
    assert "on 40 normal and 40 abnormal images" in told["AUROC"]
    assert told["Promised false-positive rate"] == "10 % of normal images, by comparison with 39 calibration normals"
    for label, name, kind in ((0, "Realised false-positive rate", "normal"), (1, "Sensitivity at it", "abnormal")):
        count = int(flags[table.label == label].sum())
        low, high = binomtest(count, 40).proportion_ci(method="exact")
        percents = [f"{100 * share:.1f}".removesuffix(".0") for share in (count / 40, low, high)]
        expected = "{} % ({} % to {} %)".format(*percents)
        assert told[name].startswith(f"{expected}, {count} of 40 {kind} images")
    assert told["Flagged"] == f"{flags.sum()} of 80 images"
    assert told["Out of protocol"] == "4 of 80 scored images"


@pytest.mark.parametrize(("rate", "verdict"), [(0.0, "above"), (1.0, "within"), (0.9, "below")])
def test_the_summary_says_whether_the_realised_rate_can_be_chance(make_run, change_metrics, read_page, rate, verdict):
    run = make_run(gallery=False)
    change_metrics(run, lambda content: content["decision"].update(alpha=rate))
    if rate == 1.0:  # all are flagged, as promised
        path = run / "eval/scores.csv"
        path.write_text(re.sub(r",[01],([^,\n]*)$", r",1,\1", path.read_text(), flags=re.MULTILINE))
    told = dict(read_page(write_report(run)).summary)
    assert f"that is {verdict} what chance allows with so many" in told["Realised false-positive rate"]


def test_a_promise_that_the_calibration_images_cannot_test_is_named(report):
    told = dict(report(gallery=False, alpha=0.01).summary)
    assert told["Promised false-positive rate"].endswith("with so few nothing can be flagged below 2.5 %")
    assert told["Flagged"] == "0 of 80 images"


def test_the_tables_hold_every_figure_of_the_evaluation(written_run, report):
    metrics = json.loads((written_run(gallery=False) / "eval/metrics.json").read_text())
    tables = report(gallery=False).tables
    for caption, split in (
        ("all images: 40 normal, 40 abnormal", "all"),
        ("without near copies of training images: 32 normal, 32 abnormal", "without_near_copies"),
    ):
        rows = {row[0]: row for row in tables[f"Figures, {caption}"]}
        for name, found in metrics["splits"][split]["scores"].items():
            values = [(found[key], *found[f"{key}_interval"]) for key in found if not key.endswith("_interval")]
            assert rows[name][1:] == ["{:.3f} ({:.3f} to {:.3f})".format(*value) for value in values]
    rates = tables["False-positive rates, all images: 40 normal, 40 abnormal"]
    points = metrics["splits"]["all"]["operating_points"]["inter"]["points"]
    found = [row for row in rates if row[0] == "inter"]
    assert [row[1] for row in found] == ["1 %", "5 %", "10 %", "20 %"]
    for row, point in zip(found, points):
        assert row[2].startswith(f"{100 * point['false_positive_rate']:.1f}".removesuffix(".0") + " % (")
        low, high = (f"{100 * bound:.1f}".removesuffix(".0") for bound in expected_rates(39, 40, point["alpha"]))
        assert row[3] == f"{low} % to {high} %"
        assert row[4].startswith(f"{100 * point['sensitivity']:.1f}".removesuffix(".0") + " % (")
    distances = dict(tables["Mean distance of realised from wanted rates, images"][1:])
    assert distances["rec"] == f"{metrics['splits']['all']['operating_points']['rec']['calibration_error']:.3f}"
    pixels = tables["Anomaly maps against masks of lesions, pixel by pixel; the threshold is chosen on the same masks"]
    assert pixels == [
        ["Score", "Pixel AUROC", "Best Dice", "Threshold of the best Dice"],
        ["r_dual", "0.910", "0.400", "0.310"],
    ]


def test_the_record_of_the_training_is_shown(report):
    tables = report(gallery=False).tables
    assert ["normal", "998"] in tables["Training images"]
    assert ["sha256", "1209e233" * 8] in tables["Training images"]
    assert ["map names", "r_dual, inter, intra, rec"] in tables["Network"]
    assert ["modalities", "none"] in tables["Preparation of the images"]
    assert ["learning rate", "0.0005"] in tables["Settings"]
    assert ["ensembles", "42 min 53 s"] in tables["Training time"]
    assert ["torch", "2.13.0+cpu"] in tables["Versions"]
    assert ["sha256", "6ff4aa51" * 8] in tables["Evaluated images"]


def test_plots_say_their_figures_and_load_from_the_page_itself(written_run, report):
    run, page = written_run(), report()
    metrics = json.loads((run / "eval/metrics.json").read_text())
    plots = {"".join(figure.itertext()).strip(): figure.find("img").attrib for figure in page.all("figure")}
    assert list(plots)[:3] == [
        "Calibration of r_dual on normal images",
        "ROC curves, images",
        "Precision-recall curves, images",
    ]
    assert sum(title.startswith("Histogram") for title in plots) == 4
    found = metrics["splits"]["all"]["scores"]
    for title, key in (("ROC curves, images", "auroc"), ("Precision-recall curves, images", "average_precision")):
        for name in found:
            assert f"{name} has an" in plots[title]["alt"]
            assert f"{found[name][key]:.3f}" in plots[title]["alt"]
    threshold = min(v for v, flag in zip(*_column(run, "r_dual", "flagged")) if flag)
    assert f"flagged are scores from {threshold:.4g}." in plots["Histogram of r_dual, images"]["alt"]
    assert "flagged" not in plots["Histogram of rec, images"]["alt"]
    for image in page.all("img"):
        assert image.attrib["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        assert image.attrib["alt"]


def _column(run, *names):
    table = read_run(run).table
    return [[float(cell) for cell in table.columns[name]] for name in names]


def test_equal_evaluations_give_equal_pages(make_run):
    pages = [write_report(make_run(name, gallery=False)).read_bytes() for name in ("first", "second")]
    assert pages[0] == pages[1]


def test_colours_of_plots_follow_dark_surroundings(report):
    for image in report(gallery=False).all("figure/img"):
        picture = base64.b64decode(image.attrib["src"].split(",")[1]).decode()
        dark = set(re.findall(r"(--c[0-9a-f]{6}):#", picture))
        used = set(re.findall(r"var\((--c[0-9a-f]{6}), #", picture))
        assert "prefers-color-scheme:dark" in picture
        assert used and used <= dark
        assert not re.search(r"(?:fill|stroke): ?(?! |none|var|url\(#)", picture)


KINDS = {
    (True, True): {"true-positive", "false-positive", "false-negative", "true-negative"},
    (False, True): {"flagged", "not-flagged"},
    (True, False): {"most-anomalous", "least-anomalous"},
    (False, False): {"most-anomalous", "least-anomalous"},
}


@pytest.mark.parametrize(("labelled", "calibrated"), KINDS)
@pytest.mark.parametrize("volumes", [False, True])
def test_the_gallery_shows_each_picture_with_its_kind_and_numbers(written_run, report, labelled, calibrated, volumes):
    options = {"labelled": labelled, "calibrated": calibrated, "volumes": volumes}
    run, page = read_run(written_run(**options)), report(**options)
    cards = page.all("li[@class='card']")
    kinds = KINDS[labelled, calibrated]
    if volumes and labelled and calibrated:  # not every slice of an abnormal volume shows something
        kinds = {"flagged", "not-flagged", "false-positive", "true-negative"}
    assert {card.attrib["data-kind"] for card in cards} == kinds
    assert [int(card.attrib["data-row"]) for card in cards] == list(run.pictures)
    median = np.median(run.table.scores["r_dual"])
    for card, (row, pictures) in zip(cards, run.pictures.items()):
        images = [base64.b64decode(image.attrib["src"].split(",")[1]) for image in card.iter("img")]
        assert images == [pictures["image"], pictures["overlay"]]
        details = {div.find("dt").text: div.find("dd").text for div in card.find("dl")}
        label = {0: "normal", 1: "abnormal", -1: "unknown"}[int(run.table.label[row])]
        assert details["Label"] == label + " volume" * volumes
        assert float(details["r_dual"]) == pytest.approx(run.table.scores["r_dual"][row], rel=1e-3)
        assert details.get("Out of protocol", "") == run.table.columns["out_of_protocol"][row]
        kind, title = card.attrib["data-kind"], "".join(card.find("h3").itertext())
        if calibrated:
            assert float(details["p-value"]) == pytest.approx(run.table.p_value[row], rel=1e-2)
            assert float(details["Percentile"]) == pytest.approx(float(run.table.columns["percentile"][row]), abs=0.06)
        else:
            assert "p-value" not in details
            assert (kind == "most-anomalous") == (run.table.scores["r_dual"][row] > median)
        flagged, abnormal = (calibrated and run.table.flagged[row]), run.table.label[row] == 1
        if volumes and labelled and calibrated and abnormal:
            assert kind == ("flagged" if flagged else "not-flagged")
        elif labelled and calibrated:
            assert kind.endswith("positive") == flagged
            assert kind.startswith("true") == (flagged == abnormal)
        assert title.endswith(f"Position {row // 4}, slice\xa0{row % 4}" if volumes else f"Position {row}")


def test_missing_parts_are_left_out_and_the_links_with_them(report):
    page = report(gallery=False, labelled=False, calibrated=False, warnings=(), reasons=("",))
    assert page.texts("h2") == [
        "Summary",
        "Figures",
        "Histograms",
        "Gallery",
        "Out of protocol",
        "Training and evaluation",
    ]
    assert [link.attrib["href"] for link in page.all("nav//a")] == [f"#{h.attrib['id']}" for h in page.all("h2")]
    assert ("AUROC", "none: 0 images are labelled normal and 0 abnormal, and both are needed") in page.summary
    assert ("Out of protocol", "no image") in page.summary
    assert "This evaluation left no pictures." in page.texts("section/p")
    assert list(page.tables)[1] == "Items that could not be read"


def test_an_evaluation_without_the_newer_parts_has_a_report(make_run, change_metrics, read_page):
    run = make_run(calibrated=False, gallery=False)

    def forget(content):
        for name in (
            "pixels",
            "decision",
            "protocol_checked",
            "out_of_protocol",
            "warnings",
            "training",
            "evaluation_seconds",
            "intervals",
        ):
            del content[name]

    change_metrics(run, forget)
    (run / "models/run.json").unlink()
    (run / "eval/unreadable.csv").unlink()
    path = run / "eval/scores.csv"
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()) + "\n")
    assert read_page(write_report(run)).summary[-1] == ("Out of protocol", "not checked")


def test_volumes_are_counted_and_drawn_once_each(report):
    page = report(volumes=True)
    assert ("Flagged slices", page.summary[-2][1]) == page.summary[-2]
    assert page.summary[-2][1].endswith("of 80 slices")
    assert any(text.endswith("of 20 volumes") for name, text in page.summary if name == "Flagged")
    assert "Figures, volumes: 10 normal, 10 abnormal" in page.tables
    assert "ROC curves, volumes" in page.texts("figcaption")
    assert "ROC curves, images" not in page.texts("figcaption")
    assert any(
        "Slices of an abnormal volume count as neither right nor wrong" in text for text in page.texts("section/p")
    )


def test_images_out_of_protocol_are_listed_by_position(report):
    tables = report(gallery=False, reasons=("too dark", "too bright")).tables
    (caption,) = (name for name in tables if name.startswith("Images out of protocol"))
    assert caption == "Images out of protocol (too dark: 2; too bright: 2)"
    assert tables[caption][1:] == [["7", "too dark"], ["27", "too bright"], ["47", "too dark"], ["67", "too bright"]]


def test_file_names_are_shown_only_where_the_table_has_them(report):
    assert "scans/patient_7.png" in report(file_names=True).source
    page = report()
    assert "patient_" not in page.source
    assert ".png" not in page.source


def test_no_path_is_written(written_run, report):
    assert str(written_run().parent) not in report().source


def test_hostile_text_stays_text(make_run, change_metrics, read_page):
    run = make_run(file_names=True, warnings=(HOSTILE,), reasons=(HOSTILE,), preset=HOSTILE)
    change_metrics(run, lambda content: content["training"]["versions"].update({HOSTILE: HOSTILE}))
    page = read_page(write_report(run))
    assert len(page.all("script")) == 1
    assert all(not name.startswith("on") for element in page.root.iter() for name in element.attrib)
    assert page.texts("ul[@class='warnings']/li")[-1] == HOSTILE
    assert ["preset", HOSTILE] in page.tables["Settings"]
    assert any(HOSTILE in row for caption, rows in page.tables.items() for row in rows if "protocol" in caption)


def test_the_page_forbids_all_but_its_own_style_and_program(report):
    page = report(gallery=False)
    (policy,) = (meta.attrib["content"] for meta in page.all("meta") if "http-equiv" in meta.attrib)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    assert not re.search(r"""(?:src|href)=(?!"#|"data:)""", page.source)
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_headings_go_down_one_level_at_a_time_and_tables_name_their_cells(report):
    page = report()
    levels = [int(element.tag[1]) for element in page.root.iter() if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.root.attrib["lang"] == "en"
    for table in page.all("table"):
        assert table.find("caption") is not None
        assert {cell.attrib["scope"] for cell in table.iter("th")} == {"col", "row"}
    identities = [element.attrib["id"] for element in page.root.iter() if "id" in element.attrib]
    assert len(identities) == len(set(identities))


def test_the_report_goes_where_it_is_told(make_run, tmp_path):
    run = make_run(gallery=False)
    assert write_report(run) == run / "eval/report.html"
    assert write_report(run, tmp_path / "deep/er/page.html").read_bytes() == (run / "eval/report.html").read_bytes()


def test_a_model_that_was_trained_anew_is_a_warning(make_run, read_page):
    run = make_run(gallery=False)
    (run / "models/run.json").write_text("{}")
    assert read_page(write_report(run)).texts("ul[@class='warnings']/li")[0].startswith("The model was trained anew")
