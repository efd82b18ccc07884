"""The images that methods are compared on, prepared as a bundle prepares them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measured import Settings
from monai.bundle import ConfigParser

from monai_ddad.bundle import choose_preset, run_record
from monai_ddad.data import ResidentDataset, audit, load_datalist
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.io.errors import DataError
from monai_ddad.placement import choose_precision

__all__ = ["Prepared", "read_data", "read_trained"]

TRAINED = ("epochs", "batch_size", "learning_rate", "latent_size", "width", "hidden_size")


@dataclass(frozen=True)
class Prepared:
    """Images and how to train on them.

    Attributes:
        known, pool, test: (N, C, H, W) uint8 known normals (those set aside for calibration, too), unlabelled and test
            images.
        labels: of the test images, 0 or 1.
        near_copy: whether each test image has a near copy in the training.
        settings: of the bundle or run.
    """

    known: torch.Tensor
    pool: torch.Tensor
    test: torch.Tensor
    labels: list[int]
    near_copy: list[bool]
    settings: Settings

    @property
    def sha256(self) -> str:
        """Hash of the test images."""
        return hashlib.sha256(self.test.numpy().tobytes()).hexdigest()

    @property
    def training_sha256(self) -> str:
        """Hash of the known normals and the unlabelled images."""
        return hashlib.sha256(self.known.numpy().tobytes() + self.pool.numpy().tobytes()).hexdigest()


def read_trained(bundle: Path, run: Path, data: Path) -> Prepared:
    """Read the images of an evaluated run.

    Args:
        bundle: its folder.
        run: folder of ``models/`` and ``eval/``.
        data: folder or JSON file of the data set.

    Raises:
        ValueError: the run was evaluated on other images.
        CheckpointError, DataError: nothing was trained or evaluated, or the data set cannot be used.
    """
    evaluation, record = read_run(run), run_record(str(run / "models"))
    trained = record["network"] | record["settings"]
    training, test = _read(bundle, run / "models", data, trained["unlabeled_size"], trained["abnormal_rate"])
    table = evaluation.table
    near_copy = [table.cell("near_copy", row) == "1" for row in range(len(table))]
    lengths = {name: trained.get(name) for name in TRAINED}  # of which features have none but the epochs
    settings = Settings(trained["seed"], precision=trained["precision"], **lengths)
    found = _split(training, test, near_copy, settings)
    if evaluation.metrics["images"]["sha256"] != found.sha256 or not np.array_equal(table.label, found.labels):
        raise ValueError(f"{run} was evaluated on other images than those of {data}.")
    return found


def read_data(bundle: Path, data: Path, seed: int = 0, epochs: int | None = None) -> Prepared:
    """Read a data set for which nothing is trained, prepared by modality.

    Args:
        bundle: folder of the bundle for such images.
        data: folder or JSON file of the data set.
        seed: of the methods' trainings.
        epochs: of them; None takes those of the bundle's preset ``pixels``, as is the rest.

    Raises:
        DataError: the data set cannot be used.
    """
    preset = choose_preset(ConfigParser.load_config_file(str(bundle / "configs" / "train.json"))["presets"], "pixels")
    size, rate = preset["unlabeled_size"], preset["abnormal_rate"]
    training, test = _read(bundle, bundle / "untrained", data, size, rate, preprocess=preset["preprocess"])
    near_copy = audit(training, test, test_required=True).near_copy
    chosen = {name: preset[name] for name in TRAINED} | ({} if epochs is None else {"epochs": epochs})
    return _split(
        training, test, near_copy, Settings(seed, precision=choose_precision(preset["precision"], "cpu"), **chosen)
    )


def _read(
    bundle: Path, models: Path, data: Path, size: int | None, rate: float | None, **settings: str
) -> tuple[ResidentDataset, ResidentDataset]:
    """Read the training and test images, prepared as a model's were."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "models_dir": str(models), **settings})
    transform = parser.get_parsed_content("preprocessing")
    items = load_datalist(data, size, rate)
    return ResidentDataset(items["training"], transform), ResidentDataset(items["test"], transform)


def _split(training: ResidentDataset, test: ResidentDataset, near_copy: list[bool], settings: Settings) -> Prepared:
    labels = [label for label in test.labels if label is not None]
    if len(labels) < len(test):
        raise DataError(f"{len(test) - len(labels)} of {len(test)} test images have no label 0 or 1: leave them out.")
    known = torch.tensor([label == 0 for label in training.labels])
    return Prepared(training.images[known], training.images[~known], test.images, labels, near_copy, settings)
