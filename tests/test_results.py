"""What a run leaves: complete, private, and without the files that went or changed on the way."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_ddad.evaluation.report.read import read_run
from monai_ddad.evaluation.survey import write_report as write_audit
from monai_ddad.io.errors import DataError
from monai_ddad.serving.predictor import Predictor
from monai_ddad.transforms import ReadImage
from tests.small_models import BUNDLES

CHEST = BUNDLES / "ddad_cxr" / "configs"


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)


def gone(path: Path) -> None:
    path.unlink()


def another(path: Path) -> None:
    Image.fromarray(picture(99)).save(path)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FATES = [gone, another, damaged, a_folder]


def prepare(*configs: str, **settings: Any) -> ConfigWorkflow:
    """Read the images of a run, and stop before it starts."""
    files = [str(CHEST / name) for name in configs]
    workflow = ConfigWorkflow(files, meta_file=str(CHEST / "metadata.json"), logging_file=False, **settings)
    workflow.initialize()
    workflow.parser.get_parsed_content("dataset")
    return workflow


def failure(workflow: ConfigWorkflow) -> BaseException:
    """Run, and return the error that it ends with."""
    try:
        workflow.run()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return cause
    raise AssertionError("it ended well")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return folder


def on_event(workflow: ConfigWorkflow, event: Any, call: Callable[[], Any]) -> None:
    """Have something happen at the first such event of a run."""
    evaluator = workflow.parser.get_parsed_content("evaluator")

    def once(engine: Any) -> None:
        handle.remove()
        call()

    handle = evaluator.add_event_handler(event, once)


@pytest.mark.parametrize("fate", FATES)
def test_a_file_that_goes_when_it_was_read_costs_nothing(trained, films, tmp_path, fate):
    models = str(trained("ddad_cxr") / "models")
    workflow = prepare("inference.json", dataset_dir=str(films), models_dir=models, output_dir=str(tmp_path / "run"))
    with Image.open(films / "1.png") as image:
        shown = np.asarray(image).astype(int)
    on_event(workflow, Events.GET_BATCH_COMPLETED, lambda: fate(films / "1.png"))
    workflow.run()
    results = tmp_path / "run/eval/inference"
    assert [row["position"] for row in table(results / "scores.csv")] == ["0", "1", "2", "3"]
    assert table(results / "unreadable.csv") == []
    assert sorted(path.name for path in (results / "overlays").iterdir()) == [f"00000{n}.png" for n in range(4)]
    with Image.open(results / "overlays/000001.png") as overlay:
        drawn = np.asarray(overlay.convert("L"))[:48, :40].astype(int)
    assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.5  # the picture that was scored
    assert (results / "report.html").is_file() and not list(results.rglob("*.tmp"))


@pytest.mark.parametrize("fate, why", [(gone, "no such file"), (damaged, ""), (a_folder, "folder")])
def test_a_file_that_goes_before_it_is_read_costs_its_own_row(trained, films, tmp_path, caplog, fate, why):
    models = str(trained("ddad_cxr") / "models")
    workflow = prepare("inference.json", dataset_dir=str(films), models_dir=models, output_dir=str(tmp_path / "run"))
    on_event(workflow, Events.STARTED, lambda: fate(films / "1.png"))
    with caplog.at_level(logging.INFO):
        error = failure(workflow)
    assert isinstance(error, DataError) and "1 of 4 items" in str(error)
    results = tmp_path / "run/eval/inference"
    assert [row["position"] for row in table(results / "scores.csv")] == ["0", "2", "3"]
    (lost,) = table(results / "unreadable.csv")
    assert lost["position"] == "1" and why in lost["reason"]
    assert sorted(path.name for path in (results / "overlays").iterdir()) == [f"00000{n}.png" for n in (0, 2, 3)]
    assert "1 of 4 input items cannot be read, and are left out." in caplog.text
    assert any("1 of 4 input items" in warning for warning in read_run(results).metrics["warnings"])


def test_pictures_and_masks_that_go_while_a_set_is_evaluated_cost_nothing(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained("ddad_cxr"), run)
    data = run / "phantom"
    workflow = prepare("train.json", "evaluate.json", dataset_dir=str(data), output_dir=str(run))
    workflow.parser.get_parsed_content("audit")
    items = workflow.parser.get_parsed_content("dataset").data
    masked = [position for position, item in enumerate(items) if "mask" in item]
    before = json.loads((run / "eval/metrics.json").read_text())

    def go() -> None:
        os.remove(items[0]["image"])
        os.remove(items[masked[0]]["mask"])
        another(Path(items[masked[1]]["mask"]))

    on_event(workflow, Events.EPOCH_STARTED, go)
    workflow.run()
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert table(run / "eval/unreadable.csv") == []
    assert metrics["pixels"] == before["pixels"] and metrics["images"] == before["images"]


@pytest.mark.parametrize("fate", FATES)
def test_a_served_model_has_the_map_of_what_it_scored(trained, films, fate):
    predictor = Predictor(BUNDLES / "ddad_cxr", trained("ddad_cxr") / "models")
    expected = [found.heat_map().values for found in predictor.find(sorted(films.iterdir()))]
    findings = list(predictor.find(sorted(films.iterdir())))
    fate(films / "2.png")
    for found, values in zip(findings, expected, strict=True):
        np.testing.assert_array_equal(found.heat_map().values, values)
        assert values.shape == (48, 40)


def on_read(fate: Callable[[Path], None], name: str) -> Callable[..., Any]:
    """Make the first reading of a file the last that finds it as it was."""
    read, done = ReadImage.__call__, []

    def call(self: ReadImage, source: Any) -> Any:
        image = read(self, source)
        if not done and str(source).endswith(name):
            done.append(name)
            fate(Path(source))
        return image

    return call


@pytest.mark.parametrize("fate", [gone, another, a_folder])
def test_a_file_that_goes_during_an_audit_costs_its_own_row(tmp_path, monkeypatch, fate):
    for number, folder in enumerate(("normal", "unlabeled", "test/normal", "test/abnormal")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(picture(10 * number + k)).save(tmp_path / "data" / folder / f"{folder[-6:]}{k}.png")
    monkeypatch.setattr(ReadImage, "__call__", on_read(fate, "abeled1.png"))
    found = write_audit(str(tmp_path / "data"), str(tmp_path / "audit"))
    (lost,) = found["splits"]["unlabelled"]["unreadable"]
    assert "while it was read" in lost["reason"] and found["splits"]["unlabelled"]["images"] == 2
    assert found["warnings"][0] == "1 of 8 images cannot be read."


def test_names_that_are_no_text_or_formulas_end_nothing(trained, films, tmp_path, monkeypatch):
    names = [b"=1+1.png", b"caf\xe9.png", b"a\nb.png", b"@SUM(1).png"]
    for path, name in zip(sorted(films.iterdir()), names):
        os.rename(path, os.path.join(os.fsencode(films), name))
    (films / "-2+3.png").write_bytes(b"no picture")
    models, run = str(trained("ddad_cxr") / "models"), tmp_path / "run"
    earlier = run / "eval/inference/scores.csv"
    given = {"models_dir": models, "output_dir": str(run), "file_names": True}
    monkeypatch.chdir(films)  # names relative to it are whole cells
    workflow = prepare("inference.json", dataset_dir=".", **given)
    assert isinstance(failure(workflow), DataError)
    cells = [row["image"] for row in table(earlier)] + [
        row["image"] for row in table(earlier.with_name("unreadable.csv"))
    ]
    assert not any(cell[0] in "=+-@" for cell in cells)
    assert any("caf\\udce9.png" in cell for cell in cells)
    shown = (earlier.with_name("report.html")).read_text(encoding="utf-8")
    assert "caf\\udce9.png" in shown and "&#39;=1+1" not in shown


def test_all_that_a_run_writes_is_the_users_alone_whatever_the_umask(trained, films, tmp_path):
    before = os.umask(0)
    try:
        models = trained("ddad_cxr") / "models"
        given = {"dataset_dir": str(films), "models_dir": str(models), "output_dir": str(tmp_path / "run")}
        prepare("inference.json", map_format="nifti", **given).run()
    finally:
        os.umask(before)
    written = list((tmp_path / "run").rglob("*"))
    assert len(written) > 25 and all(path.stat().st_mode & 0o077 == 0 for path in written)
    run = [trained("ddad_cxr") / name for name in ("models", "eval")]
    files = [path for folder in run for path in (folder, *folder.rglob("*")) if "tensorboard" not in str(path)]
    assert len(files) > 20 and all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_pictures_of_a_killed_run_go_with_the_next_one(trained, films, tmp_path):
    results = tmp_path / "run/eval/inference"
    left = [results / name for name in ("gallery/.000001_image.png.0123abcd.tmp", "overlays/.000003.png.0123abcd.tmp")]
    left += [
        results / ".scores.csv.0123abcd.tmp",
        results / "overlays/000007.png",
        results / "gallery/000009_image.png",
    ]
    kept = [results / "mine.png", results / "gallery/mine.png", results / "maps/mine.nii.gz"]
    for path in left + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    models = str(trained("ddad_cxr") / "models")
    prepare("inference.json", dataset_dir=str(films), models_dir=models, output_dir=str(tmp_path / "run")).run()
    assert not any(path.exists() for path in left) and all(path.read_bytes() == b"pixels" for path in kept)


def test_a_run_that_fails_at_its_end_leaves_the_earlier_results(trained, films, tmp_path, monkeypatch):
    models = str(trained("ddad_cxr") / "models")
    given = {"dataset_dir": str(films), "models_dir": models, "output_dir": str(tmp_path / "run")}
    prepare("inference.json", **given).run()
    results = tmp_path / "run/eval/inference"
    earlier = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    (films / "0.png").unlink()
    workflow = prepare("inference.json", **given)
    monkeypatch.setattr("monai_ddad.evaluation.write_evaluation.write_report", lambda folder: 1 / 0)
    assert isinstance(failure(workflow), ZeroDivisionError)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == earlier
