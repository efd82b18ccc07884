"""A file that goes or changes after it was scored costs nothing, and before it was read its own overlay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.deploy.conftest import film, picture, save
from tests.small_models import BUNDLES

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")


@pytest.mark.parametrize("when", ["before it is read", "after it was scored"])
@pytest.mark.parametrize("fate", ["gone", "another"])
def test_one_image_that_goes_costs_its_own_overlay_at_most_and_all_that_is_written_is_private(
    trained, tmp_path, monkeypatch, fate, when
):
    from monai_ddad.deploy.__main__ import main
    from monai_ddad.deploy.findings import Model

    folder, output = save(tmp_path / "in", film(0)), tmp_path / "out"
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(picture(3 + number)).save(folder / name)
    find = Model.find

    def find_and_lose(model, images):
        found = find(model, images)
        if when == "after it was scored":
            found = iter([*found])
        if fate == "gone":
            Path(folder / "b.png").unlink()
        else:
            Image.fromarray(picture(9)).save(folder / "b.png")
        return found

    monkeypatch.setattr(Model, "find", find_and_lose)
    arguments = ["-i", str(folder), "-o", str(output), "-m", str(BUNDLES / "ddad_cxr")]
    before = os.umask(0)
    try:
        assert main([*arguments, "--models_dir", str(trained("ddad_cxr") / "models")]) == 0
    finally:
        os.umask(before)
    results = json.loads((output / "results.json").read_text())
    lost = fate == "gone" and when == "before it is read"
    assert [row["reason"] for row in results["unusable"]] == ["no such file"] * lost
    assert all("score" in row and row["written"] for row in results["images"])
    assert len(results["images"]) == 3 - lost
    written = {name for row in results["images"] for name in row["written"]} | {"results.json"}
    assert {path.name for path in output.iterdir()} == written and len(written) > 3 - lost
    assert all(path.stat().st_mode & 0o077 == 0 for path in (output, *output.iterdir()))


def test_what_a_killed_run_left_does_not_make_the_output_folder_unusable(trained, tmp_path):
    from monai_ddad.deploy.__main__ import main

    folder, output = save(tmp_path / "in", film(0)), tmp_path / "out"
    (output / ".results.0123abcd.tmp/new").mkdir(parents=True)
    (output / ".results.0123abcd.tmp/lock").touch()
    (output / ".results.0123abcd.tmp/new/000000_overlay.dcm").write_bytes(b"pixels")
    arguments = ["-i", str(folder), "-o", str(output), "-m", str(BUNDLES / "ddad_cxr")]
    assert main([*arguments, "--models_dir", str(trained("ddad_cxr") / "models")]) == 0
    assert not list(output.rglob("*.tmp"))
