"""A training on few known normals is refused where the new model would be worse than the served one."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monailabel.config import settings
from PIL import Image

from monai_ddad.label import served
from tests.label.loaded import loaded
from tests.test_model_file import save_model

PNG = io.BytesIO()
Image.new("L", (16, 16)).save(PNG, "PNG")
PLUS = {"scores": "plus", "score": "ddad_plus"}
REC = {"scores": "plus", "score": "rec"}
INSTEAD = PLUS | {"score": "rec", "wanted_score": "ddad_plus", "left_out": {"ddad_plus": "it takes more"}}
LEARN, CALIBRATE = "ddad_plus is to decide", "the served model is calibrated"


@pytest.mark.parametrize(
    "model, normals, pretrained, reason",
    [
        (PLUS, 19, True, LEARN),
        (PLUS, 20, True, ""),
        (PLUS | {"calibration_images": 9}, 38, True, CALIBRATE),
        (PLUS | {"calibration_images": 9}, 20, False, ""),  # by features, which set none aside
        (PLUS | {"calibration_images": 9}, 39, True, ""),
        (PLUS | {"calibration_volumes": 9}, 38, True, CALIBRATE),
        (REC, 2, True, ""),
        (REC, 19, False, LEARN),  # as the bundle's default preset wants it
        (REC | {"calibration_images": 9}, 20, True, CALIBRATE),
        (INSTEAD, 2, True, ""),
        (INSTEAD, 2, False, ""),
        (None, 2, True, ""),
    ],
)
def test_a_training_that_would_make_a_worse_model_is_refused(model, normals, pretrained, reason, tmp_path, monkeypatch):
    started: list[dict[str, Any]] = []
    target = "monailabel.utils.async_tasks.task.run_background_task"
    monkeypatch.setattr(target, lambda request, *_: started.append(request) or {"id": "1", "status": "SUBMITTED"})
    (tmp_path / "run/models").mkdir(parents=True)
    (tmp_path / "studies").mkdir()
    if model is not None:
        save_model(tmp_path / "run/models", "ddad_cxr", **model)
    for number in range(normals + 3):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(tmp_path / f"studies/{number}.png")
    with loaded(tmp_path, "ddad_cxr", tmp_path / "run") as client:
        from monailabel.interfaces.utils.app import app_instance

        (tmp_path / "empty.png").write_bytes(PNG.getvalue())
        for number in range(normals):
            app_instance().datastore().save_label(str(number), str(tmp_path / "empty.png"), "final", {})
        answer = client.post("/train/ddad_cxr_training", json={"pretrained": pretrained})
        if not reason:
            assert answer.status_code == 200, answer.text
        else:
            detail = answer.json()["detail"]
            assert answer.status_code == 409 and detail.startswith(reason)
            assert f"It takes 20 known normals to learn from, and {39 if pretrained else 20} to calibrate" in detail
        assert bool(started) is not bool(reason)


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, NotADirectoryError])
def test_a_folder_that_goes_or_is_closed_counts_as_changed(error, tmp_path, monkeypatch):
    before = served._size_and_time(str(tmp_path))

    def fail(path: str) -> list[str]:
        raise error

    monkeypatch.setattr(os, "listdir", fail)
    assert served._size_and_time(str(tmp_path)) == (0, 0) != before
    assert served._size_and_time(str(tmp_path / "absent")) == (0, 0)
    assert served._size_and_time(str(Path(__file__)))[0] > 0


def test_replies_of_another_server_stay_and_those_of_a_killed_one_are_removed(tmp_path):
    (tmp_path / "run/models").mkdir(parents=True)
    (tmp_path / "studies").mkdir()
    save_model(tmp_path / "run/models", "ddad_brain")
    Image.new("L", (64, 64)).save(tmp_path / "studies/0.png")
    with loaded(tmp_path, "ddad_brain", tmp_path / "run") as client:
        from monailabel.interfaces.utils.app import app_instance

        app = app_instance()
        file = Path(app.infer({"model": "ddad_brain", "image": "0"})["file"])
        assert file.is_relative_to(tmp_path / "app/results") and file.parent.stat().st_mode & 0o077 == 0
        assert client.post("/infer/ddad_brain?image=0").status_code == 200
        assert list(file.parent.iterdir()) == [file]
        sent = Path(tempfile.mkdtemp(), "image.png")  # as a request has it while it is answered
        sent.touch()
        assert sent.is_relative_to(file.parent)
        killed = tmp_path / "app/results/.results.0123abcd.tmp"
        shutil.copytree(file.parents[1], killed)
        second = type(app)(app.app_dir, app.studies, settings.MONAI_LABEL_APP_CONF)
        second.on_init_complete()
        assert file.is_file() and second.results != app.results and not killed.exists()
        second.datastore()._observer.stop()
