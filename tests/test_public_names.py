"""What ``import monai_ddad`` offers, and that it stays quick."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.transforms import MapTransform

import monai_ddad
from monai_ddad import transforms
from monai_ddad.io.checkpoints import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_import_loads_no_other_module():
    code = "import sys; before = {*sys.modules}; import monai_ddad; print({*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "{'monai_ddad'}"


def test_every_name_is_found_where_it_stands_and_others_are_not():
    for name in monai_ddad.__all__:
        assert getattr(monai_ddad, name) is getattr(
            importlib.import_module(f"monai_ddad.{monai_ddad.PLACES[name]}"), name
        )
    assert set(monai_ddad.__all__) < set(dir(monai_ddad)) and "os" not in dir(monai_ddad)
    assert {"load", "Predictor", "Result", "DDADModel", "ReadImage", "ReadImaged"} < set(monai_ddad.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'ReadFilm'"):
        monai_ddad.ReadFilm  # noqa: B018
    with pytest.raises(ImportError):
        exec("from monai_ddad import ReadFilm")


def test_the_dictionary_form_of_every_transform_has_monais_three_names():
    forms = [
        name
        for name, value in vars(transforms).items()
        if name == getattr(value, "__name__", "") and inspect.isclass(value) and issubclass(value, MapTransform)
    ]
    assert len(forms) == 7
    for name in forms:
        stem = name.removesuffix("d")
        names = [name, f"{stem}D", f"{stem}Dict"]
        assert {getattr(place, name) for place in (transforms, monai_ddad) for name in names} == {
            getattr(transforms, name)
        }
        assert {*names, stem} <= {*transforms.__all__} & {*monai_ddad.__all__}


def test_load_takes_the_name_of_a_bundle_or_a_folder(trained, monkeypatch, tmp_path):
    models = trained("ddad_cxr") / "models"
    monkeypatch.chdir(tmp_path)
    named = monai_ddad.load("ddad_cxr", models, device="cpu", alpha=0.2)
    monai_ddad.packaged.copy_bundle("ddad_cxr", "other")
    os.symlink(models, "other/models")
    by_folder = monai_ddad.load("other")
    assert isinstance(named, monai_ddad.Predictor) and named.alpha == 0.2 and named.device == torch.device("cpu")
    images = sorted((models.parent / "phantom/images").iterdir())[:2]
    found, again = ([one.result for one in predictor.find(images)] for predictor in (named, by_folder))
    assert (
        [one.scores for one in found] == [one.scores for one in again]
        and len(found) == 2
        and isinstance(found[0], monai_ddad.Result)
    )
    unreadable, read = named.find(["absent.png", images[0]])
    assert isinstance(unreadable, monai_ddad.Unreadable) and unreadable.reason == "no such file"
    assert isinstance(read, monai_ddad.Finding) and read.position == 1
    (tmp_path / "ddad_cxr").mkdir()  # no bundle
    monai_ddad.load("ddad_cxr", models)
    with pytest.raises(CheckpointError, match="train first"):
        monai_ddad.load("ddad_cxr", tmp_path)
    with pytest.raises(ValueError, match="no setting colour"):
        monai_ddad.load("ddad_cxr", models, colour="red")
