"""``python -m monai.bundle run`` as a user types it: where outputs go, and how errors end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import python_m


def bundle_run(config: str, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    return python_m("monai.bundle", "run", "--config_file", config, *arguments, cwd=folder, OMP_WAIT_POLICY="PASSIVE")


@pytest.mark.parametrize(
    ("start", "config"),
    [
        ("top", "bundles/ddad_brain/train.json"),
        pytest.param("bundle", "train.json", marks=pytest.mark.slow),
        ("bundle", "configs/train.json"),
        pytest.param("other", "{bundle}/train.json", marks=pytest.mark.slow),
        pytest.param("repository", "{bundle}/configs/train.json", marks=pytest.mark.slow),
    ],
)
def test_outputs_go_into_the_bundle_wherever_it_is_started(
    start, config, bundle, repository, dataset_dir, small, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    folders = {"top": bundle.parents[1], "bundle": bundle, "other": other, "repository": repository}
    before = {folder: sorted(folder.iterdir()) for folder in (other, bundle.parents[1])}
    done = bundle_run(config.format(bundle=bundle), folders[start], dataset_dir=dataset_dir, **small)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "r_dual" in done.stdout
    assert (bundle / "models" / "model.pt").is_file() and (bundle / "eval" / "metrics.json").is_file()
    assert {folder: sorted(folder.iterdir()) for folder in before} == before


def test_unreadable_images_end_in_one_message_without_paths(bundle, tmp_path, small, dataset_dir):
    folder = tmp_path / "Muster^Erika"
    for place in ("normal", "unlabeled", "test/normal", "test/abnormal"):
        (folder / place).mkdir(parents=True)
    sources = sorted((dataset_dir / "images").glob("*.png"))
    for i in range(4):
        (folder / "normal" / f"{i}.png").write_bytes(sources[i].read_bytes())
        (folder / "unlabeled" / f"{i}.png").write_bytes(sources[10 + i].read_bytes())
    (folder / "normal" / "1.png").write_text("not an image")
    (folder / "test" / "abnormal" / "x.jpg").write_bytes(b"")
    done = bundle_run(str(bundle / "train.json"), tmp_path, dataset_dir=folder, **small)
    assert done.returncode != 0
    assert "training item 1:" in done.stdout and "test item 0:" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Muster" not in done.stdout + done.stderr


def test_a_training_that_diverges_ends_in_one_message(bundle, tmp_path, small, dataset_dir):
    settings = small | {"dataset_dir": dataset_dir, "learning_rate": 1e30}
    done = bundle_run(str(bundle / "train.json"), tmp_path, **settings)
    assert done.returncode != 0 and "is not finite at epoch 1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (bundle / "models" / "model.pt").exists()


def test_a_setting_that_does_not_exist_is_refused(bundle, tmp_path, small, dataset_dir):
    done = bundle_run(str(bundle / "train.json"), tmp_path, dataset_dir=dataset_dir, unlabelled_size=3, **small)
    assert done.returncode != 0 and "no setting unlabelled_size: did you mean unlabeled_size?" in done.stdout
    assert not (bundle / "models").exists()


def test_settings_of_monai_are_not_refused(bundle, tmp_path, small, dataset_dir):
    (tmp_path / "overlay.yaml").write_text("my_own: 1\n")
    settings = {"dataset_dir": dataset_dir, "run_id": "run", "run_name": "a", "experiment_name": "b", "my-own": 2}
    settings |= small | {"train#trainer#seed": 3, "bundle_root": bundle}
    done = bundle_run(f"['{bundle}/train.json', '{tmp_path}/overlay.yaml']", tmp_path, phases=[], **settings)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_config_outside_a_bundle_does_not_write_to_the_current_folder(bundle, tmp_path, small, dataset_dir):
    (tmp_path / "my.json").write_bytes((bundle / "train.json").read_bytes())
    (tmp_path / "here").mkdir()
    done = bundle_run("../my.json", tmp_path / "here", dataset_dir=dataset_dir, **small)
    assert done.returncode != 0 and "--output_dir" in done.stdout + done.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_an_error_from_elsewhere_is_shown_once_and_short(bundle, tmp_path, small, dataset_dir):
    settings = small | {"dataset_dir": dataset_dir, "device": "cuda:99"}
    done = bundle_run(str(bundle / "train.json"), tmp_path, **settings)
    assert done.returncode != 0 and "cuda" in done.stderr.lower()
    assert done.stderr.count("Traceback") == 1 and len(done.stderr.splitlines()) < 20


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_missing_or_empty_folder_ends_in_one_message(kind, bundle, tmp_path, small):
    folder = tmp_path / "folder"
    if kind == "empty":
        folder.mkdir()
    done = bundle_run(str(bundle / "train.json"), tmp_path, dataset_dir=folder, **small)
    assert done.returncode != 0
    assert "dataset_dir" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_a_setting_without_effect_is_refused(bundle, tmp_path, small, dataset_dir):
    settings = small | {"dataset_dir": dataset_dir, "deviations": 4}
    done = bundle_run(str(bundle / "train.json"), tmp_path, **settings)
    assert done.returncode != 0 and "deviations has no effect on plain images" in done.stdout + done.stderr
    done = bundle_run(str(bundle / "train.json"), tmp_path, preprocess="modality", modalities="any", **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"deviations": 4' in (bundle / "models" / "run.json").read_text()
