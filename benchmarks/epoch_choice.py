"""Whether an epoch of DDAD (dual-distribution discrepancy) can be chosen without labels, on sets with labels.

    python benchmarks/epoch_choice.py --run bundles/ddad_brain runs/brain data/brain_mri --epochs 50 --write

Trains each run that is not trained to the end, with images set aside for the choice, and takes down every few epochs
for each score the AUCp (known normals against unlabelled images), once with the unlabelled images that were set aside
and once with those that the UDM trains on, and the AUROC on the test images, which enters nothing but these tables.
Prints Markdown tables; with ``--write`` they go into ``docs/scores.md``.
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
from pages import add_runs, format_table, publish
from scipy.stats import spearmanr

from monai_ddad.bundle import run_record
from monai_ddad.checkpoints import load_file, save_file
from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.engines import calibrate
from monai_ddad.metrics import aucp, auroc, paired_bootstrap
from monai_ddad.networks import PLUS_NAMES, UNFITTED_NAMES

FILE = "epoch_choice.pt"
PARTS = ("normals", "pool", "trained_pool", "test")
SCORES = ("inter", "intra", "rec", *UNFITTED_NAMES)  # that an epoch can be chosen by
DECIDES = PLUS_NAMES[-1]


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
        self.scores: dict[int, dict[str, torch.Tensor]] = load_file(file)["scores"] if file.is_file() else {}

    @torch.no_grad()
    def __call__(self, engine: Any) -> None:
        """Score all parts by a copy of the network."""
        network = copy.deepcopy(engine.network)
        calibrate(network, self.training, self.calibration)
        self.scores[engine.state.epoch] = {
            name: torch.cat([network.image_scores(normalise(batch)) for batch in part.images.split(64)])
            for name, part in self.parts.items()
        }
        labels = self.parts["test"].labels
        save_file({"names": network.score_names, "labels": labels, "scores": self.scores}, self.file)


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


class Course:
    """What a run's epochs are worth by one score, with labels and without.

    Attributes:
        new, trained: (E,) AUCp with the unlabelled images that were set aside, and with those of the training.
        auroc: (E,) of the test images.
        test: (E, N) their scores.
        chosen: index of the epoch with the highest AUCp, the first of equal ones.
    """

    def __init__(self, found: dict[str, Any], score: str) -> None:
        column, labels = found["names"].index(score), np.array(found["labels"])
        parts = {name: [scores[name][:, column].numpy() for scores in found["scores"].values()] for name in PARTS}
        self.new = np.array([aucp(low, high) for low, high in zip(parts["normals"], parts["pool"])])
        self.trained = np.array([aucp(low, high) for low, high in zip(parts["normals"], parts["trained_pool"])])
        self.test = np.array(parts["test"])
        self.auroc = np.array([float(auroc(scores, labels)) for scores in self.test])
        self.chosen = int(self.new.argmax())


def lay_out(bundle: Path, run: Path) -> str:
    """Return the tables of a run: what each epoch is worth, and what would be chosen by which score."""
    found = load_file(run / FILE)
    settings, epochs, labels = run_record(str(run / "models"))["settings"], list(found["scores"]), found["labels"]
    courses = {score: Course(found, score) for score in (*SCORES, DECIDES)}
    decides, inter = courses[DECIDES], courses["inter"]
    rows = [
        [str(epoch), *(f"{values[i]:.3f}" for values in (inter.new, inter.trained, inter.auroc, decides.auroc))]
        for i, epoch in enumerate(epochs)
    ]
    header = ["epoch", "AUCp of `inter`", "the same, pool trained on", "AUROC of `inter`", f"AUROC of `{DECIDES}`"]
    choices = []
    for score in SCORES:
        course = courses[score]
        figures = [f"{spearmanr(values, course.auroc).statistic:+.2f}" for values in (course.new, course.trained)]
        gains = [gain(part, course.chosen, np.array(labels)) for part in (course, decides)]
        choices.append([f"`{score}`", *figures, str(epochs[course.chosen]), *gains])
    chosen = ["chosen by", "rank correlation", "the same, pool trained on", "epoch", "its AUROC by that score"]
    sizes = [len(found["scores"][epochs[0]][name]) for name in PARTS]
    about = (
        f"`{bundle.name}`, preset `{settings['preset']}`, {settings['epochs']} epochs, seed "
        f"{settings['seed']}; {sizes[0]} known normals and {sizes[1]} unlabelled images set aside, {sizes[2]} "
        f"unlabelled images trained on, {sizes[3]} test images:"
    )
    tables = format_table(header, rows), format_table([*chosen, f"AUROC of `{DECIDES}` there"], choices)
    return "\n".join([about, "", *tables])


def gain(course: Course, chosen: int, labels: np.ndarray) -> str:
    """Say what an epoch is worth, and by how much it is better than the last one."""
    paired = paired_bootstrap(auroc, course.test[-1], course.test[chosen], labels)
    low, high = paired.interval
    return f"{course.auroc[chosen]:.3f}, {paired.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--epochs", type=int, default=50, help="of runs that are not trained yet")
    parser.add_argument("--interval", type=int, default=5, help="epochs from one row to the next")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scores.md")
    options = parser.parse_args()
    for bundle, run, data in options.run:
        if not (run / "models" / "run.json").is_file():
            settings = {"epochs": options.epochs, "refine": "none", "selection_share": 0.1}
            train(bundle, run, data, settings, options.interval)
    tables = [lay_out(bundle, run) for bundle, run, _ in options.run]
    publish("\n".join(tables), "scores.md", "epoch choice", options.write)


if __name__ == "__main__":
    main()
