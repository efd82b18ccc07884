"""What training in bfloat16 changes: AUROC of pairs of runs that differ in the precision alone.

    python benchmarks/precision.py runs/a_float32 runs/a_bfloat16 runs/b_float32 runs/b_bfloat16 --write

Runs are output folders that were evaluated; each two are a pair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pages import format_table, publish

FREE = ("precision",)  # settings that may differ


def read(run: Path) -> dict[str, Any]:
    """Read the figures of an evaluation."""
    return json.loads((run / "eval" / "metrics.json").read_text(encoding="utf-8"))


def settings(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what two runs must have in common."""
    training = figures["training"]
    kept = {name: value for name, value in training["settings"].items() if name not in FREE}
    return kept | {"network": training["network"], "data": training["data"]["sha256"]}


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """Return a row for each score.

    Raises:
        ValueError: the runs differ in more than the precision.
    """
    if settings(first) != settings(second):
        raise ValueError("two runs of a pair differ in more than the precision.")
    ours = first["training"]["settings"]
    about = f"{first['splits']['all']['normal']} + {first['splits']['all']['abnormal']} test images"
    about += f", {ours['epochs']} and {ours['refine_epochs']} epochs"
    rows = []
    for name, values in first["splits"]["all"]["scores"].items():
        one, other = values["auroc"], second["splits"]["all"]["scores"][name]["auroc"]
        precisions = [figures["training"]["settings"]["precision"] for figures in (first, second)]
        cells = [f"{precision} {value:.4f}" for precision, value in zip(precisions, (one, other))]
        rows.append([about, str(ours["seed"]), name, *cells, f"{other - one:+.4f}"])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    if len(options.runs) % 2:
        parser.error("runs come in pairs")
    figures = [read(run) for run in options.runs]
    rows = [row for first, second in zip(figures[::2], figures[1::2]) for row in compare(first, second)]
    header = ["data, epochs of the ensembles and of ASR-Net", "seed", "score", "AUROC", "AUROC", "difference"]
    versions = sorted({f"PyTorch {run['training']['versions']['torch']}" for run in figures})
    publish(f"{format_table(header, rows)}\n{', '.join(versions)}.\n", "performance.md", "precision", options.write)


if __name__ == "__main__":
    main()
