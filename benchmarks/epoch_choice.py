"""Whether an epoch of DDAD (dual-distribution discrepancy) can be chosen without labels, on sets with labels.

    python benchmarks/epoch_choice.py --run bundles/ddad_brain runs/brain data/brain_mri --epochs 50 --write

Trains each run that is not trained yet, with images set aside for the choice, and takes down every few epochs for each
score the AUCp (known normals against unlabelled images), once with the unlabelled images that were set aside and once
with those that the UDM trains on, and the AUROC on the test images, which enters nothing but these tables. Prints
Markdown tables; with ``--write`` they go into ``docs/scores.md``.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from pages import add_runs

from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.engines import calibrate

FILE = "epoch_choice.npz"


class Observer:
    """Take down the scores of all parts of the data as a model of that epoch would give them, in a file."""

    def __init__(self, content: Any, file: Path) -> None:
        self.training, self.calibration = content("train#images"), content("train#calibration")
        pool = self.training.subset([i for i, label in enumerate(self.training.labels) if label is None])
        self.parts: dict[str, ResidentDataset] = {
            "normals": content("train#selection_normals")[1],
            "pool": content("train#selection_pool")[1],
            "trained_pool": pool,
            "test": content("validate#dataset"),
        }
        self.file = file
        self.found: dict[str, Any] = {"labels": np.array(self.parts["test"].labels)}

    @torch.no_grad()
    def __call__(self, engine: Any) -> None:
        network = copy.deepcopy(engine.network)
        calibrate(network, self.training, self.calibration)
        for name, part in self.parts.items():
            scores = [network.image_scores(normalise(batch)) for batch in part.images.split(64)]
            self.found[f"{engine.state.epoch}/{name}"] = torch.cat(scores).numpy()
        np.savez(self.file, names=network.score_names, **self.found)


def train(bundle: Path, output: Path, data: Path, settings: dict[str, Any], interval: int) -> None:
    """Train a bundle and leave what was taken down beside its models."""
    config = str(bundle / "configs" / "train.json")
    options = {"dataset_dir": str(data), "output_dir": str(output), "val_interval": interval, **settings}
    workflow = ConfigWorkflow(config, logging_file=str(bundle / "configs" / "logging.conf"), **options)
    workflow.initialize()
    content = workflow.parser.get_parsed_content
    observer = Observer(content, output / FILE)
    content("train#trainer").add_event_handler(Events.EPOCH_COMPLETED(every=interval), observer)
    workflow.run()


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--epochs", type=int, default=50, help="of runs that are not trained yet")
    parser.add_argument("--interval", type=int, default=5, help="epochs from one row to the next")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scores.md")
    options = parser.parse_args()
    for bundle, run, data in options.run:
        if not (run / FILE).is_file():
            settings = {"epochs": options.epochs, "refine": "none", "selection_share": 0.1}
            train(bundle, run, data, settings, options.interval)


if __name__ == "__main__":
    main()
