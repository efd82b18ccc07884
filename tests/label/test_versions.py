"""Versions of a model are its bundle's own, wherever they stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.label import APP
from monai_ddad.label.versions import ModelVersions
from monai_ddad.serving.predictor import Predictor
from tests.small_models import BUNDLES
from tests.test_model_file import CANARIES, save_model


def test_versions_of_another_bundle_are_left_out(tmp_path, caplog):
    shared = tmp_path / "versions"
    models = {bundle: save_model(tmp_path / bundle, bundle) for bundle in ("ddad_brain", "ddad_cxr")}
    versions = {bundle: ModelVersions(BUNDLES / bundle, folder, shared) for bundle, folder in models.items()}
    for number, bundle in enumerate(("ddad_brain", "ddad_cxr", "ddad_cxr"), 1):
        with versions[bundle].start() as folder:
            save_model(folder / "models", bundle, seed=number)
            assert versions[bundle].finish(folder) == number
    assert versions["ddad_brain"].current == (1, shared / "0001/models")
    assert versions["ddad_cxr"].current == (3, shared / "0003/models")
    assert "version 3" in caplog.text and "ddad_brain" in caplog.text and "of ddad_cxr" in caplog.text
    with versions["ddad_brain"].start() as folder:
        save_model(folder / "models", "ddad_cxr")
        with pytest.raises(CheckpointError, match="ddad_cxr and cannot be used by ddad_brain"):
            versions["ddad_brain"].finish(folder)
    assert sorted(path.name for path in shared.iterdir()) == ["0001", "0002", "0003"]


def test_what_bundles_write_beside_their_versions_is_their_own(tmp_path):
    app_of = {
        bundle: app(
            tmp_path,
            bundle=str(BUNDLES / bundle),
            models=str(save_model(tmp_path / f"{bundle}_model", bundle)),
            versions=str(tmp_path / "versions"),
        )
        for bundle in ("ddad_brain", "ddad_cxr")
    }
    assert len({one.init_batch_infer().table for one in app_of.values()}) == 2
    with app_of["ddad_brain"].versions.start() as folder:
        (folder / "progress.json").write_text('{"epoch": 3, "total_epochs": 9}')
        stats = {name: one.init_trainers()[f"{name}_training"].stats() for name, one in app_of.items()}
    assert stats["ddad_brain"] == {"epoch": 3, "total_epochs": 9} and stats["ddad_cxr"]["epoch"] == 0


def test_a_training_removes_what_killed_ones_of_its_bundle_left_and_nothing_else(tmp_path):
    ours = "unfinished-ddad_cxr-0_abcdef"
    others = ["unfinished-thesis", "unfinished-thesis-12345678", f"{ours}-notes", "unfinished-ddad_cxr-NOTES_01"]
    for name in (ours, *others):
        (tmp_path / "versions" / name).mkdir(parents=True)
    with ModelVersions(BUNDLES / "ddad_cxr", tmp_path / "models", tmp_path / "versions").start():
        pass
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == sorted(others)


def test_a_damaged_version_is_not_passed_over(tmp_path):
    versions = ModelVersions(BUNDLES / "ddad_cxr", save_model(tmp_path / "models"), tmp_path / "versions")
    (tmp_path / "versions/0001/models").mkdir(parents=True)
    (tmp_path / "versions/0001/models/model.pt").write_bytes(b"no model")
    assert versions.current[0] == 1
    with pytest.raises(CheckpointError):
        Predictor(versions.bundle, versions.current[1])


def app(tmp_path: Path, **conf: str) -> object:
    pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")
    spec = importlib.util.spec_from_file_location("ddad_app", APP / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "studies").mkdir(exist_ok=True)
    return module.DDADApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)


def test_apps_whose_models_stand_side_by_side_have_versions_of_their_own(tmp_path):
    places = set()
    for bundle in ("ddad_brain", "ddad_cxr"):
        served = app(
            tmp_path, bundle=str(BUNDLES / bundle), models=str(save_model(tmp_path / f"{bundle}_model", bundle))
        )
        places.add(served.versions.versions_dir)
    assert len(places) == 2


@pytest.mark.parametrize("name", ["bundle", "models", "versions", "alpha"])
@pytest.mark.parametrize("text", CANARIES[:3])
def test_conf_is_never_evaluated(name, text, tmp_path):
    (tmp_path / "canaries").mkdir()
    conf = {"bundle": str(BUNDLES / "ddad_cxr"), name: text.format(tmp_path / "canaries/file")}
    with pytest.raises(ValueError, match=f"--conf {name} holds an expression"):
        app(tmp_path, **conf)
    assert not list((tmp_path / "canaries").iterdir())
