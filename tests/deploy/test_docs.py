"""The commands of docs/deploy.md run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from monai_ddad.deploy.dicom_objects import OBJECTS
from tests.deploy.conftest import film, save, slices

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/deploy.md").read_text()


def test_the_page_names_every_object():
    assert set(re.findall(r"`000000_(\w+)\.dcm`", PAGE)) == set(OBJECTS)


def test_the_command_of_the_page_scores_a_study(trained, tmp_path):
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    install, command = block.splitlines()
    assert install == "make .venv-deploy/installed"  # what this environment was made by
    (tmp_path / ".venv-deploy").symlink_to(sys.prefix)
    (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    shutil.copytree(trained("ddad_cxr") / "models", tmp_path / "runs/mine/models")
    save(tmp_path / "studies", film(0))
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "results/results.json").read_text())["images"]) == 1


def test_the_rules_of_the_page_select_one_sequence(run, tmp_path):
    (rules,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.json").write_text(rules)
    kinds = [slices(6, SeriesDescription=name) for name in ("AX T1 SE", "AX T2 FSE")]
    folder = save(tmp_path / "in", *kinds[0], *kinds[1])
    done = run("ddad_brain", folder, "--rules", str(tmp_path / "rules.json"))
    assert [row["files"] for row in done.results["images"]] == [list(range(6))]
    assert [one["files"] for one in done.results["unusable"]] == [list(range(6, 12))]
