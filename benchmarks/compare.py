"""Compare the scores of DDAD (dual-distribution discrepancy) with each other, with controls and with other methods.

    python benchmarks/compare.py runs/brain runs/brain_1 --write

Takes folders of runs in which ``baselines.py`` has left its results; several of one data set, such as with two seeds,
are laid out side by side. Prints a Markdown table for each data set: AUROC with 95 % bootstrap intervals on all test
images and on those without near copies in the training, and by how much ``ddad_plus`` is better with the p-value of a
paired bootstrap test; and one of what the methods cost. With ``--write`` they go into ``docs/scores.md``, those of the
preset ``features`` into ``docs/features.md``. A folder without an evaluated model has the other methods alone.
``--beside`` names a run of another preset on the same test images for each of the others: its scores get rows, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pages import format_table, publish

from monai_ddad.bundle import run_record
from monai_ddad.evaluation.metrics import auroc, bootstrap_interval, paired_bootstrap
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError

OURS = "ddad_plus"
MODEL = "DDAD"  # the trained model among the methods
RESAMPLES = 1000


@dataclass(frozen=True)
class Results:
    """What is known of one run.

    Attributes:
        baselines: content of ``baselines.json``.
        scores: (N,) by name, those of DDAD in backticks and first.
        labels: (N,) of the test images.
        alone: (N,) bool, test images without near copies.
        training_s: of DDAD's ensembles, by the clock; None without a model.
        preset: of the training; None without a model.
    """

    baselines: dict[str, Any]
    scores: dict[str, np.ndarray]
    labels: np.ndarray
    alone: np.ndarray
    training_s: float | None
    preset: str | None


def read(run: Path) -> Results:
    """Read the scores of a run and of the other methods.

    Raises:
        ValueError: the two are of different images, seeds or epochs.
        DataError: a file is missing.
    """
    file = run / "baselines.json"
    if not file.is_file():
        raise DataError(f"{run} has no baselines.json: run benchmarks/baselines.py on it first.")
    baselines = json.loads(file.read_text(encoding="utf-8"))
    labels = np.array(baselines["labels"])
    others = {name: np.array(found["scores"]) for name, found in baselines["methods"].items() if name != MODEL}
    if "brightness" in others and auroc(others["brightness"], labels) < 0.5:
        others["brightness"] = -others["brightness"]
    own: dict[str, np.ndarray] = {}
    training_s, preset = None, None
    if MODEL in baselines["methods"]:
        evaluation, record = read_run(run), run_record(str(run / "models"))
        same = all(record["settings"][name] == baselines["settings"][name] for name in ("seed", "epochs"))
        if not same or evaluation.metrics["images"]["sha256"] != baselines["images"]:
            raise ValueError(
                f"{run} was trained or evaluated anew after the other methods, with another seed, epochs or images: "
                "run baselines.py again."
            )
        own = {f"`{name}`": values for name, values in evaluation.table.scores.items()}
        training_s, preset = record["seconds"]["ensembles"], record["settings"]["preset"]
    return Results(baselines, own | others, labels, ~np.array(baselines["near_copy"]), training_s, preset)


def put_beside(results: Results, run: Path, beside: Path) -> Results:
    """Add to the results of a run the scores of one of another preset on the same test images.

    Raises:
        ValueError: it scored other positions of the list of images, or their labels are others.
        DataError: it was not evaluated.
    """
    other = read_run(beside)
    tables = read_run(run).table, other.table
    places, others = ([table.cell("position", row) for row in range(len(table))] for table in tables)
    if places != others or not np.array_equal(other.table.label, results.labels):
        raise ValueError(f"{beside} was evaluated on other images than {run}.")
    preset = other.training("settings")["preset"]
    further = {f"`{name}`, preset `{preset}`": values for name, values in other.table.scores.items()}
    return dataclasses.replace(results, scores=results.scores | further)


def cells(results: Results) -> dict[str, list[str]]:
    """Return the cells of a run, by score."""
    found: dict[str, list[str]] = {}
    ours = results.scores.get(f"`{OURS}`")
    for name, values in results.scores.items():
        row = []
        for keep in (np.ones_like(results.alone), results.alone):
            some, labels = values[keep], results.labels[keep]
            low, high = bootstrap_interval(auroc, some, labels, RESAMPLES)
            row.append(f"{auroc(some, labels):.3f} [{low:.3f}, {high:.3f}]")
            if ours is not None and values is not ours:
                paired = paired_bootstrap(auroc, some, ours[keep], labels, RESAMPLES)
                row[-1] += f", {paired.difference:+.3f} (p {paired.p_value:.3f})"
        found[name] = row
    return found


def lay_out(runs: list[Results]) -> str:
    """Return the table of the runs of one data set.

    Raises:
        ValueError: they differ in more than the seed.
    """
    if len({(results.preset, results.baselines["settings"]["epochs"]) for results in runs}) > 1:
        raise ValueError("runs of one data set differ in preset or epochs: compare those that differ in the seed.")
    columns = [cells(results) for results in runs]
    seeds = [results.baselines["settings"]["seed"] for results in runs]
    header = ["score", *(f"seed {seed}, {part}" for seed in seeds for part in ("all", "without near copies"))]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(cell for column in columns for cell in column.get(name, ["", ""]))] for name in names]
    last = runs[-1]
    kept = last.labels[last.alone]
    about = (
        f"`{last.baselines['bundle']}`, {(last.labels == 0).sum()} normal and {(last.labels == 1).sum()} abnormal test "
        f"images, {(kept == 0).sum()} and {(kept == 1).sum()} without near copies"
        + ("" if last.preset == "features" else f"; {last.baselines['settings']['epochs']} epochs")
        + (f", preset `{last.preset}`" if last.preset else "")
    )
    return f"{about}:\n\n{format_table(header, rows)}"


def costs(sets: list[list[Results]]) -> str:
    """Return the table of time and memory, means over the runs of each data set."""
    methods = [results.baselines["methods"] for runs in sets for results in runs]
    names = list(dict.fromkeys(name for some in methods for name in some))
    rows = [[name, *(_cost(name, runs) for runs in sets)] for name in names]
    machines = {entry["machine"] for some in methods for entry in some.values()}
    return f"{format_table(['method', *_titles(sets)], rows)}\n{'; '.join(sorted(machines))}.\n"


def _titles(sets: list[list[Results]]) -> list[str]:
    return [f"`{runs[0].baselines['bundle']}`" for runs in sets]


def _cost(name: str, runs: list[Results]) -> str:
    """Return a cell: seconds of training, milliseconds an image, MiB."""
    found = [results.baselines["methods"][name] for results in runs if name in results.baselines["methods"]]
    if not found:
        return ""
    times = [results.training_s for results in runs if results.training_s is not None] if name == MODEL else []
    training = statistics.fmean(times or [entry["training_s"] for entry in found])
    cell = f"{training:.{0 if training >= 10 else 1}f} s, {statistics.fmean(e['image_ms'] for e in found):.2f} ms"
    marks = [entry["peak_mib"] for entry in found if entry["peak_mib"] is not None]
    return f"{cell}, {statistics.fmean(marks):.0f} MiB" if marks else cell


def main() -> None:
    """Print or write the tables of all data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, with baselines.json")
    parser.add_argument("--beside", nargs="+", type=Path, metavar="RUN", help="runs of another preset, one for each")
    parser.add_argument("--write", action="store_true", help="put the tables into the documentation")
    options = parser.parse_args()
    if options.beside and len(options.beside) != len(options.runs):
        parser.error("--beside takes one run for each of the others")
    by_images: dict[str, list[Results]] = {}
    try:
        for run, beside in zip_longest(options.runs, options.beside or []):
            results = read(run) if beside is None else put_beside(read(run), run, beside)
            by_images.setdefault(results.baselines["images"], []).append(results)
        tables = "\n".join(map(lay_out, by_images.values()))
    except (CheckpointError, DataError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    of_features = all(results.preset == "features" for runs in by_images.values() for results in runs)
    page = "features.md" if of_features else "scores.md"
    publish(tables, page, "compare", options.write)
    publish(costs(list(by_images.values())), page, "methods", options.write)


if __name__ == "__main__":
    main()
