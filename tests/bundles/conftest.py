"""A small data set and the settings of a run that takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from monai_ddad.data.phantom import write_phantom_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "device": "cpu",
    "preset": "paper",
    "members": 2,
    "image_size": 16,
    "latent_size": 4,
    "epochs": 2,
    "learning_rate": 0.01,  # with the usual one, r_dual is the same for all images after so few steps, and left out
    "refine_epochs": 1,
    "batch_size": 8,
    "unlabeled_size": 10,
    "val_interval": 1,
    "checkpoint_interval": 1,
}


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Settings of a run that takes a second or two."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic data set of 16 + 10 training and 6 + 6 test images."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    return write_phantom_dataset(folder, normal=16, unlabeled=10, test=6, side=32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Copy of the brain bundle, as it is in the repository, below ``bundles`` of a fresh folder."""
    target = tmp_path / "elsewhere" / "bundles" / "ddad_brain"
    ignored = shutil.ignore_patterns("models", "eval", "phantom")
    shutil.copytree(REPOSITORY / "bundles" / "ddad_brain", target, ignore=ignored)
    return target
