"""What is read of a run, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_ddad.evaluation.report import write_report
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.evaluation.report.units import find_units
from monai_ddad.io.errors import DataError


def replace(run, name, old, new):
    path = run / "eval" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", ["metrics.json", "scores.csv"])
def test_a_run_without_an_evaluation_is_refused(make_run, name):
    run = make_run()
    (run / "eval" / name).unlink()
    with pytest.raises(DataError, match=f"no evaluation .{name} is missing.: evaluate first"):
        write_report(run)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="evaluate first"):
        write_report(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", "metrics.json is damaged .it is no JSON"),
        ("metrics.json", "[]", r"metrics.json is damaged .\$ is not"),
        ("metrics.json", "\xff", "metrics.json is damaged"),
        ("scores.csv", "", "scores.csv is damaged .its rows differ"),
        ("scores.csv", "position,label,rec\n0,1\n", "scores.csv is damaged .its rows differ"),
        ("scores.csv", 'position,label,rec\n0,1,"0.1\n', "scores.csv is damaged .it is no CSV"),
        ("scores.csv", "position,label,rec\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,label\n0,1\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,rec\n0,0.5\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,label,rec\n0,2,0.5\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,label,rec\n0,1,nan\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,label,rec\n0,1,high\n", "scores.csv is damaged .a column"),
        ("scores.csv", "position,label,rec,p_value,flagged\n0,1,0.5,0.1,1\n", "scores.csv is damaged .a column"),
        ("volumes.csv", "position,label,r_dual\n0,1,0.5\n", "volumes.csv is damaged .a column"),
    ],
)
def test_damaged_files_are_refused_by_name(make_run, name, content, message):
    run = make_run()
    (run / "eval" / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        write_report(run)
    assert str(run) not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("splits", "all", "normal"), -1),
        (("splits", "all", "scores", "rec", "auroc"), "high"),
        (("splits", "all", "scores", "rec", "auroc_interval"), [0.5]),
        (("splits", "all", "operating_points", "rec", "points"), [{"alpha": 0.1}]),
        (("decision", "alpha"), 2),
        (("warnings",), "one"),
        (("training", "settings"), None),
        (("images",), {}),
    ],
)
def test_a_metrics_file_of_another_shape_is_refused_with_the_place(make_run, change_metrics, place, value):
    def edit(content):
        for name in place[:-1]:
            content = content[name]
        content[place[-1]] = value

    run = make_run(gallery=False)
    change_metrics(run, edit)
    with pytest.raises(DataError, match=r"metrics.json is damaged \(\$\." + place[0]):
        write_report(run)


def test_files_of_different_evaluations_are_refused(make_run):
    run = make_run(gallery=False)
    path = run / "eval/scores.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match="79 rows and metrics.json counts 80 images"):
        write_report(run)


def test_decisions_in_one_file_only_are_refused(make_run, change_metrics):
    run = make_run(gallery=False)
    change_metrics(run, lambda content: content.update(decision=None))
    with pytest.raises(DataError, match="disagree on how it was decided"):
        write_report(run)


def test_a_table_comes_back_as_it_was_written(make_run):
    run = read_run(make_run(file_names=True))
    assert run.table.label.tolist() == [0, 1] * 40
    assert run.table.cell("image", 3) == "scans/patient_3.png"
    assert run.table.cell("slice", 3) == ""
    assert run.score == "r_dual"
    np.testing.assert_array_equal(run.table.flagged, run.table.p_value <= np.float32(0.1))
    assert run.unreadable == [["position", "reason"], ["81", "it is no image"]]
    assert not run.retrained


def test_line_breaks_and_commas_in_a_cell_do_not_move_the_others(make_run):
    run = make_run(reasons=('a "strange" one,\u2028 in\x85 two\r\nlines',))
    assert read_run(run).table.columns["out_of_protocol"][7] == 'a "strange" one,\u2028 in\x85 two\r\nlines'


def test_pictures_of_rows_that_do_not_exist_and_overlays_alone_are_left_out(make_run):
    run = make_run()
    gallery = run / "eval/gallery"
    rows = set(read_run(run).pictures)
    (gallery / "000080_image.png").write_bytes(b"of an earlier evaluation")
    (gallery / f"{min(rows):06d}_image.png").unlink()
    (gallery / "notes.png").write_bytes(b"")
    assert set(read_run(run).pictures) == rows - {min(rows)}


def test_the_folder_of_an_evaluation_is_taken_like_that_of_the_run(make_run):
    run = make_run()
    (run / "eval").rename(run / "inference")
    (run / "eval").mkdir()
    (run / "inference").rename(run / "eval/inference")  # where inference.json writes
    found = read_run(run / "eval/inference")
    assert len(found.table) == 80 and found.pictures and not found.retrained
    (run / "models/run.json").write_text("{}")
    assert read_run(run / "eval/inference").retrained
    with pytest.raises(DataError, match="evaluate first"):
        read_run(run)


def test_a_model_that_was_trained_anew_is_noticed(make_run):
    run = make_run(gallery=False)
    record = json.loads((run / "models/run.json").read_text())
    record["settings"]["seed"] = 1
    (run / "models/run.json").write_text(json.dumps(record))
    assert read_run(run).retrained


def test_slices_count_within_their_volume_only(make_run):
    (volumes,) = find_units(read_run(make_run(volumes=True)))
    assert volumes.name == "volumes"
    assert len(volumes.table) == 20
    assert volumes.main["normal"] + volumes.main["abnormal"] == 20


def test_flagged_shares_and_the_threshold_equal_a_plain_count(make_run):
    run = read_run(make_run())
    (unit,) = find_units(run)
    rows = list(zip(run.table.label, run.table.columns["flagged"], run.table.scores["r_dual"]))
    for label in (0, 1):
        share = unit.flagged(label)
        assert share.count == sum(flag == "1" for known, flag, _ in rows if known == label)
        assert share.total == 40
    threshold = unit.threshold("r_dual")
    assert threshold == min(score for _, flag, score in rows if flag == "1")
    assert threshold > max(score for _, flag, score in rows if flag == "0")
