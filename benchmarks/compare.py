"""Compare the scores of DDAD (dual-distribution discrepancy) with each other and with simple controls.

    python benchmarks/compare.py --run bundles/ddad_brain runs/brain data/brain_mri --write

Runs are evaluated ones; several of one data set, such as with two seeds, are laid out side by side. Prints a Markdown
table for each data set: AUROC with 95 % bootstrap intervals on all test images and on those without near copies in the
training, and by how much ``ddad_plus`` is better with the p-value of a paired bootstrap test; with ``--write`` they go
into ``docs/scores.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from controls import CONTROLS, score_controls
from pages import add_runs, format_table, publish

from monai_ddad.bundle import run_record
from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data import DataError, load_datalist
from monai_ddad.inference import Predictor
from monai_ddad.metrics import auroc, bootstrap_interval, paired_bootstrap
from monai_ddad.report.read import read_run

OURS = "ddad_plus"
RESAMPLES = 1000


def read(bundle: Path, run: Path, data: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return (N,) scores by name, labels, and which test images have no near copy in the training.

    Raises:
        ValueError: the run was evaluated on other images.
    """
    evaluation = read_run(run)
    table = evaluation.table
    settings = run_record(str(run / "models"))["settings"]
    items = load_datalist(data, settings["unlabeled_size"], settings["abnormal_rate"])
    predictor = Predictor(bundle, run / "models", torch.device("cpu"))
    known, pool, test = (
        predictor.read([item["image"] for item in part]).images
        for part in (
            [item for item in items["training"] if item["label"] == 0],
            [item for item in items["training"] if item["label"] is None],
            items["test"],
        )
    )
    labels = np.array([item["label"] for item in items["test"]])
    digest = hashlib.sha256(test.numpy().tobytes()).hexdigest()
    if evaluation.metrics["images"]["sha256"] != digest or not np.array_equal(table.label, labels):
        raise ValueError(f"{run} was evaluated on other images than those of {data}.")
    alone = np.array([table.cell("near_copy", row) != "1" for row in range(len(table))])
    return table.scores | score_controls(known, pool, test, labels), labels, alone


def cells(scores: dict[str, np.ndarray], labels: np.ndarray, alone: np.ndarray) -> dict[str, list[str]]:
    """Return the cells of a run, by score."""
    found: dict[str, list[str]] = {}
    for name, values in scores.items():
        row = []
        for keep in (np.ones_like(alone), alone):
            some, kept = values[keep], labels[keep]
            low, high = bootstrap_interval(auroc, some, kept, RESAMPLES)
            row.append(f"{auroc(some, kept):.3f} [{low:.3f}, {high:.3f}]")
            if name != OURS:
                paired = paired_bootstrap(auroc, some, scores[OURS][keep], kept, RESAMPLES)
                row[-1] += f", {paired.difference:+.3f} (p {paired.p_value:.3f})"
        found[name] = row
    return found


def lay_out(runs: list[tuple[Path, Path, Path]]) -> str:
    """Return the table of the runs of one data set."""
    columns: list[dict[str, list[str]]] = []
    header = ["score"]
    counts = ""
    for bundle, run, data in runs:
        scores, labels, alone = read(bundle, run, data)
        columns.append(cells(scores, labels, alone))
        settings = run_record(str(run / "models"))["settings"]
        header += [f"seed {settings['seed']}, all", f"seed {settings['seed']}, without near copies"]
        kept = labels[alone]
        counts = (
            f"`{bundle.name}`, {(labels == 0).sum()} normal and {(labels == 1).sum()} abnormal test images, "
            f"{(kept == 0).sum()} and {(kept == 1).sum()} without near copies; {settings['epochs']} epochs, preset "
            f"`{settings['preset']}`"
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        [
            name if name in CONTROLS else f"`{name}`",
            *(cell for column in columns for cell in column.get(name, ["", ""])),
        ]
        for name in names
    ]
    return f"{counts}:\n\n{format_table(header, rows)}"


def main() -> None:
    """Print or write the tables of all data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scores.md")
    options = parser.parse_args()
    by_bundle: dict[Path, list[tuple[Path, Path, Path]]] = {}
    for bundle, run, data in options.run:
        by_bundle.setdefault(bundle, []).append((bundle, run, data))
    try:
        tables = [lay_out(runs) for runs in by_bundle.values()]
    except (CheckpointError, DataError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    publish("\n".join(tables), "scores.md", "compare", options.write)


if __name__ == "__main__":
    main()
