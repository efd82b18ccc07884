"""The benchmarks run, on small data."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from monai_ddad.data.phantom import PhantomKind, write_phantom_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {
    "preset": "phantom",
    "members": 2,
    "refine": "none",
    "image_size": 32,
    "width": 2,
    "hidden_size": 8,
    "epochs": 1,
}


def table(name: str, monkeypatch, capsys, *arguments: str) -> list[list[str]]:
    """Run a benchmark and return the cells of the table that it prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(REPOSITORY / "benchmarks" / name), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Output folder of a run with 10 calibration images."""
    folder = tmp_path_factory.mktemp("run")
    write_phantom_dataset(folder / "phantom", normal=30, unlabeled=10, test=6, side=32)
    settings = SMALL | {"calibration_minimum": 10, "unlabeled_size": 10, "output_dir": str(folder)}
    config = str(REPOSITORY / "bundles/ddad_brain/configs/train.json")
    workflow = ConfigWorkflow(config, logging_file=False, dataset_dir=str(folder / "phantom"), **settings)
    workflow.initialize()
    workflow.run()
    return folder


def test_new_phantoms_are_flagged_at_about_the_promised_rate(trained, monkeypatch, capsys):
    options = ("--resamplings", "60", "--calibration", "9")
    rows = table("promised_rate.py", monkeypatch, capsys, str(trained), *options)
    assert [row[:3] for row in rows[1:5]] == [["`inter`", "0.01", "0.0000"], ["`inter`", "0.05", "0.0000"]] + [
        ["`inter`", alpha, f"{float(alpha):.4f}"] for alpha in ("0.1", "0.2")
    ]
    for row in rows[1:]:
        rate = float(row[3].split()[0])
        assert rate <= 0.45 and (rate > 0.02 or row[1] != "0.2")  # a fifth is expected of 60, and none at .01 and .05
        assert rate == 0 or row[1] in ("0.1", "0.2")


def test_realised_rates_are_laid_out_a_row_a_score(trained, monkeypatch, capsys):
    rows = table("realised_rates.py", monkeypatch, capsys, str(trained))
    assert [row[2] for row in rows] == ["score", "`inter`", "`intra`", "`rec`", "by chance"]
    assert all(row[1].startswith("all (6)") for row in rows[1:])


def test_kinds_out_of_protocol_have_a_row_each(tmp_path, monkeypatch, capsys):
    kinds: dict[str, PhantomKind] = {"brain_mri": "brain", "chest_xray": "chest", "fundus": "fundus"}
    for name, kind in kinds.items():
        write_phantom_dataset(tmp_path / name, kind=kind, normal=14, unlabeled=8, test=2, side=64)
    options = ("--data", str(tmp_path), "--sets", "chest_xray", "--preparations", "plain")
    rows = {row[0]: row[1] for row in table("out_of_protocol.py", monkeypatch, capsys, *options)}
    assert rows["Share flagged, %"] == "chest plain" and len(rows) > 24
    assert rows["all white"] == rows["noise"] == "100"
