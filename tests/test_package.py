"""What a user gets who has not cloned the repository: a zip file of it, or the wheel in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from monai_ddad import packaged
from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.packaged import bundle_files
from monai_ddad.program import find_root
from tests.small_models import BUNDLES, KINDS

REPOSITORY = Path(__file__).resolve().parents[1]
IGNORED = [".git", *(line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines())]
TINY: dict[str, object] = {"preset": "paper", "members": 2, "image_size": 16, "latent_size": 4, "width": 2}
TINY |= {
    "hidden_size": 8,
    "epochs": 1,
    "learning_rate": 0.01,
    "refine_epochs": 1,
    "unlabeled_size": 10,
    "batch_size": 8,
}
TINY |= {"phases": "['ndm','udm','refine']"}  # inference writes the report, too
SMALL = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]


def entries(folder: Path) -> Iterator[Path]:
    """Find the files and links of the repository in a checkout."""
    for path in sorted(folder.iterdir()):
        if any(path.match(pattern) for pattern in IGNORED):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from entries(path)
        else:
            yield path


def call(folder: Path, *command: str | Path, code: int = 0) -> str:
    """Run a command in a folder, without the paths of this process, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small set of the built-in images."""
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", normal=16, unlabeled=10, test=2, side=32)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The repository from a zip file."""
    folder = tmp_path_factory.mktemp("zip")
    with ZipFile(folder / "repository.zip", "w") as archive:
        for path in entries(REPOSITORY):
            archive.write(path, Path("monai_ddad-main") / path.relative_to(REPOSITORY))
    with ZipFile(folder / "repository.zip") as archive:
        archive.extractall(folder)
    return folder / "monai_ddad-main"


@pytest.fixture(scope="module")
def fresh(unpacked, tmp_path_factory) -> Path:
    """Folder of an environment's programs, with the wheel, and this environment's packages for what it needs."""
    folder = tmp_path_factory.mktemp("fresh")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(folder, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, unpacked)
    venv.create(folder / "env", symlinks=True)
    programs = folder / "env" / "bin"
    packages = Path(
        call(folder, programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[:-1]
    )
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files do not count
    (wheel,) = folder.glob("*.whl")
    call(folder, *pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
    return programs


def test_no_file_of_the_repository_is_a_link():
    found = list(entries(REPOSITORY))
    assert len(found) > 300 and [path for path in found if path.is_symlink()] == []


def test_the_command_of_the_readme_runs_in_an_unpacked_zip_file(unpacked, data):
    command = "-W ignore -m monai.bundle run --config_file bundles/ddad_brain/train.json"
    call(unpacked, sys.executable, *command.split(), "--dataset_dir", data, *SMALL)
    assert (unpacked / "bundles/ddad_brain/models/model.pt").is_file()


def test_the_wheel_says_what_it_is_and_has_the_bundles(fresh):
    (wheel,) = fresh.parents[1].glob("*.whl")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("/METADATA")]
        carried = {name: archive.read(name) for name in names if "/bundles/" in name}
    assert carried == {
        f"monai_ddad/bundles/{bundle}/{file}": (BUNDLES / bundle / file).read_bytes()
        for bundle in KINDS
        for file in bundle_files(BUNDLES / bundle)
    }
    for line in (
        "Author: The monai_ddad developers",
        "License-Expression: Apache-2.0",
        "Classifier: Programming Language :: Python :: 3.11",
        "Requires-Python: >=3.11",
    ):
        assert f"{line}\n" in metadata


def test_the_wheel_trains_and_scores_with_a_bundle_of_any_name(fresh, data, tmp_path):
    python = [fresh / "python", "-W", "ignore"]
    package = Path(call(tmp_path, *python, "-c", "import monai_ddad; print(monai_ddad.__file__)").strip()).parent
    assert package.is_relative_to(fresh.parent)
    call(tmp_path, fresh / "monai-ddad", "bundle", "ddad_brain", "b")
    run = [*python, "-m", "monai.bundle", "run", "--config_file"]
    call(tmp_path, *run, "b/train.json", "--dataset_dir", data, *SMALL)
    film = min((data / "images").iterdir())
    call(tmp_path, *run, "b/inference.json", "--dataset_dir", film)
    assert len((tmp_path / "b/eval/inference/scores.csv").read_text().splitlines()) == 2
    assert (tmp_path / "b/eval/inference/report.html").is_file()
    assert os.listdir(tmp_path) == ["b"]
    assert set(bundle_files(package / "bundles/ddad_brain")) == {
        path.relative_to(package / "bundles/ddad_brain").as_posix()
        for path in (package / "bundles/ddad_brain").rglob("*")
        if path.is_file()
    }


def test_a_bundle_within_the_installed_package_is_not_written_to(monkeypatch):
    monkeypatch.setattr(packaged, "INSTALLED", BUNDLES)
    monkeypatch.setattr(sys, "argv", ["", "run", "--config_file", str(BUNDLES / "ddad_brain/train.json")])
    with pytest.raises(ValueError, match="copy it with monai-ddad bundle"):
        find_root("ddad_brain")
    monkeypatch.setattr(packaged, "INSTALLED", BUNDLES / "elsewhere")
    assert find_root("ddad_brain") == str(BUNDLES / "ddad_brain")
