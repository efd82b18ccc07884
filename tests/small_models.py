"""Small models of the three bundles, for tests of what serves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_ddad.data.phantom import PhantomKind, write_phantom_dataset

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
KINDS: dict[str, PhantomKind] = {"ddad_brain": "brain", "ddad_cxr": "chest", "ddad_fundus": "fundus"}
SMALL = {"preset": "phantom", "members": 2, "image_size": 32, "width": 2, "hidden_size": 8, "epochs": 2}
SMALL |= {"refine_epochs": 1, "batch_size": 8, "calibration_minimum": 10, "unlabeled_size": 10}


def run(bundle: str, *configs: str, **settings: Any) -> None:
    """Run configs of a bundle, named without their ending, as ``python -m monai.bundle run`` does."""
    files = [str(BUNDLES / bundle / "configs" / f"{name}.json") for name in configs]
    workflow = ConfigWorkflow(files, logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def features_model(folder: Path, bundle: str = "ddad_cxr") -> Path:
    """Train a small model of features in a folder, on phantoms in ``phantom/images`` in it."""
    write_phantom_dataset(folder / "phantom", kind=KINDS[bundle], normal=30, unlabeled=24, test=6, side=64)
    run(bundle, "train", dataset_dir=str(folder / "phantom"), output_dir=str(folder), preset="features", image_size=64)
    return folder


def small_models(make_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """Return a function that gives the output folder of a small run of a bundle, with 10 calibration images."""
    folders: dict[str, Path] = {}

    def train(bundle: str) -> Path:
        if bundle not in folders:
            folder = make_folder(bundle)
            write_phantom_dataset(folder / "phantom", kind=KINDS[bundle], normal=30, unlabeled=10, test=6, side=64)
            run(bundle, "train", dataset_dir=str(folder / "phantom"), output_dir=str(folder), **SMALL)
            folders[bundle] = folder
        return folders[bundle]

    return train
