"""Compare the scores of DDAD (dual-distribution discrepancy) between runtimes, on the test images of trained runs.

    python benchmarks/runtime_parity.py --run bundles/ddad_cxr runs/chest data/chest_xray --write

Prints a Markdown table; with ``--write`` it goes into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pages import add_runs, format_table, machine, publish

from monai_ddad.data import ResidentDataset, load_datalist, normalise
from monai_ddad.evaluation.metrics import auroc
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADModel
from monai_ddad.serving.predictor import Predictor
from monai_ddad.serving.runtimes import Runtime

BATCH = 64  # images at a time
EAGER = "eager"
SHOWN = ("r_dual", "inter", "intra", "rec", "ddad_plus")  # of whose AUROC is printed; differences are of all scores
VARIANTS = {
    "torch": ("torch", "float32"),
    "torchscript": ("torchscript", "float32"),
    "onnx": ("onnx", "float32"),
    "torch, bfloat16": ("torch", "bfloat16"),
}


def score(network: DDADModel | Runtime, images: torch.Tensor) -> np.ndarray:
    """Score (N, C, H, W) images of 8 bits: (N, S)."""
    with torch.inference_mode():
        parts = [network.decide(normalise(part))[1] for part in images.split(BATCH)]
    return torch.cat(parts).double().numpy()


def measure(bundle: Path, run: Path, data: Path) -> list[list[str]]:
    """Return the rows of one run."""
    predictor = Predictor(bundle, run / "models", torch.device("cpu"))
    network = predictor.network
    items = load_datalist(data)["test"]
    dataset = ResidentDataset(items, predictor.transform)
    labels = np.array(dataset.labels)
    scores = {EAGER: score(network, dataset.images)}
    for name, (runtime, precision) in VARIANTS.items():
        scores[name] = score(Runtime(network, runtime, precision), dataset.images)
    exact = scores[EAGER]
    areas = {name: [float(auroc(column, labels)) for column in values.T] for name, values in scores.items()}
    rows = []
    for name, values in scores.items():
        largest = "" if name == EAGER else f"{np.max(np.abs(values - exact) / exact.std(axis=0)):.1e}"
        cells = [
            f"{area:.4f}" if name == EAGER else f"{area:.4f} ({area - before:+.4f})"
            for area, before in zip(areas[name], areas[EAGER])
        ]
        named = [f"`{score}` {cell}" for score, cell in zip(network.score_names, cells) if score in SHOWN]
        rows.append([f"`{bundle.name}`, {len(labels)}", name, largest, ", ".join(named)])
    return rows


def main() -> None:
    """Print or write a table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    rows = []
    for number, (bundle, run, data) in enumerate(options.run, start=1):
        try:
            rows += measure(bundle, run, data)
        except (CheckpointError, DataError, ImportError) as error:
            parser.exit(1, f"{parser.prog}: run {number}: {error}\n")
    header = [
        "test images",
        "runtime",
        "largest difference of a score, in its standard deviations",
        "AUROC (difference from eager)",
    ]
    publish(f"{machine()}:\n\n{format_table(header, rows)}", "performance.md", "parity", options.write)


if __name__ == "__main__":
    main()
