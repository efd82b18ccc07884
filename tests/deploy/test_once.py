"""An image is read, decoded, prepared and scored once, all its objects included."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.counting import counted
from tests.deploy.conftest import film, picture, save
from tests.small_models import BUNDLES

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")


def test_every_object_of_a_study_comes_of_one_reading(trained, tmp_path):
    from monai_ddad.deploy.__main__ import main
    from monai_ddad.deploy.kinds import KINDS

    folder, output = save(tmp_path / "in", *(film(number) for number in range(9))), tmp_path / "out"
    Image.fromarray(picture(10)).save(folder / "a.png")
    arguments = ["-i", str(folder), "-o", str(output), "-m", str(BUNDLES / "ddad_cxr"), "--objects", *KINDS]
    with counted() as counts:
        assert main([*arguments, "--models_dir", str(trained("ddad_cxr") / "models")]) == 0
    rows = json.loads((output / "results.json").read_text())["images"]
    assert len(rows) == 10 and sum(len(row["written"]) for row in rows) == 9 * len(KINDS) + 1
    assert counts == dict.fromkeys(("read", "decoded", "prepared", "scored"), 10)
