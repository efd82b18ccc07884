"""The report of two evaluations side by side."""

from __future__ import annotations

import os
from pathlib import Path

from monai_ddad.evaluation.report.differences import (
    RESAMPLES,
    Difference,
    different_images,
    differing_settings,
    find_differences,
    pair_units,
)
from monai_ddad.evaluation.report.page import write_page
from monai_ddad.evaluation.report.plots import Plot, plot_roc
from monai_ddad.evaluation.report.read import Run, read_run
from monai_ddad.evaluation.report.tables import TRAINING, Table
from monai_ddad.evaluation.report.units import Unit, find_units
from monai_ddad.evaluation.report.words import (
    METRIC_NAMES,
    duration,
    figure,
    percent,
    plain,
    rate,
    setting,
    signed,
    span,
    split_name,
)
from monai_ddad.io.writing import remove_leftovers

__all__ = ["write_comparison"]

NAMES = ("A", "B")


def write_comparison(
    first: str | os.PathLike[str], second: str | os.PathLike[str], output: str | os.PathLike[str]
) -> Path:
    """Write two evaluated runs side by side as one HTML file that needs no network.

    Where both scored the same images (equal checksums) with the same labels, each figure of a score that both have
    comes with the difference, its interval and p-value by the paired bootstrap.

    Args:
        first, second: folders of the runs A and B; see :func:`.read_run`, as are the errors.
        output: the HTML file.

    Returns:
        the file that was written.

    Raises:
        DataError: nothing was evaluated in one of them, or a file is damaged or of another evaluation.

    Example:
        >>> write_comparison("no such folder", "nor this", "comparison.html")
        Traceback (most recent call last):
            ...
        monai_ddad.io.errors.DataError: the run holds no evaluation (metrics.json is missing): evaluate first.
    """
    remove_leftovers(Path(output).parent)
    runs = [read_run(first), read_run(second)]
    pairs = pair_units(*map(find_units, runs))
    obstacle = different_images(*runs)
    differences = find_differences(pairs, same_images=not obstacle)
    return write_page(
        "comparison.html",
        output,
        synthetic=any(run.training("settings").get("synthetic_data") is True for run in runs),
        summary=_summarise(runs, pairs, differences, obstacle),
        warnings=[
            f"Run {name}: {warning}" for name, run in zip(NAMES, runs) for warning in run.metrics.get("warnings", [])
        ],
        figures=_figures_tables(differences),
        tests=sum(difference.paired is not None for difference in differences),
        resamples=RESAMPLES,
        obstacle=obstacle,
        decisions=_decisions_table(runs, pairs),
        curves=_curves(runs, pairs),
        settings=_settings_table(runs),
        times=_times_table(runs),
    )


def _summarise(
    runs: list[Run], pairs: list[tuple[Unit, Unit]], differences: list[Difference], obstacle: str
) -> list[tuple[str, str]]:
    told = []
    for name, run in zip(NAMES, runs):
        network = run.training("network")
        refined = f" with refinement {network['refine']}" if "refine" in network else ""
        model = f"{network['backbone']}{refined}; " if "backbone" in network else ""
        told.append((f"Run {name}", f"{model}deciding score {run.score}; {len(run.table)} images scored"))
    if not pairs:
        return [*told, ("Comparison", "one run scored pictures and the other volumes: no figure stands beside another")]
    if obstacle:
        return [*told, ("Comparison", f"{obstacle}: the figures stand side by side, and no test is made")]
    told.append(("Comparison", "both scored the same images with the same labels: differences are tested in pairs"))
    for difference in differences:
        if difference.metric == "auroc" and difference.score == runs[0].score and difference.paired:
            low, high = difference.paired.interval
            told.append(
                (
                    f"AUROC of {difference.score}, {split_name(difference.split)}",
                    f"B less A is {signed(difference.paired.difference)} (95\u00a0% interval "
                    f"{span(signed(low), signed(high))}), "
                    f"p = {difference.paired.p_value:.3g}",
                )
            )
    return told


def _figures_tables(differences: list[Difference]) -> list[Table]:
    """Return the figures of both runs, a table a split."""
    rows: dict[str, list[list[str]]] = {}
    for found in differences:
        one, other = ("" if part is None else figure(*part) for part in found.figures)
        paired, tested = found.paired, ["", ""]
        if paired:
            low, high = paired.interval
            tested = [f"{signed(paired.difference)} ({span(signed(low), signed(high))})", f"{paired.p_value:.3g}"]
        name = METRIC_NAMES.get(found.metric, plain(found.metric))
        rows.setdefault(found.split, []).append([found.score, name, one, other, *tested])
    head = ["Score", "Figure", "Run A", "Run B", "B less A", "p-value"]
    return [Table(f"Figures, {split_name(split)}", head, part, stubs=2) for split, part in rows.items()]


def _decisions_table(runs: list[Run], pairs: list[tuple[Unit, Unit]]) -> Table | None:
    rows = []
    for pair in pairs:
        for name, run, unit in zip(NAMES, runs, pair):
            if unit.decision is None or unit.table.flagged is None:
                continue
            shares = [unit.flagged(label) for label in (0, 1)]
            rows.append(
                [
                    f"Run {name}, {unit.name}",
                    run.score,
                    f"{int(unit.table.flagged.sum())} of {len(unit.table)}",
                    percent(unit.decision["alpha"]),
                    *("" if share is None else rate(share.value, share.interval) for share in shares),
                ]
            )
    head = ["Run", "Score", "Flagged", "Wanted rate", "Realised false-positive rate", "Sensitivity"]
    return Table("Decisions, with exact 95\u00a0% binomial intervals", head, rows) if rows else None


def _curves(runs: list[Run], pairs: list[tuple[Unit, Unit]]) -> list[Plot]:
    """Draw the ROC curves of each score that both have, and of the deciding ones where those differ."""
    plots = []
    for one, other in pairs:
        tables = [known for known in (one.known(), other.known()) if known]
        figures = one.main["scores"], other.main["scores"]
        if len(tables) < 2:
            continue
        shared = [(name, name) for name in figures[0] if name in figures[1]]
        decide = (runs[0].score, runs[1].score)
        for scores in dict.fromkeys([decide, *shared]):
            names = [f"{run}: {score}" for run, score in zip(NAMES, scores)]
            plots.append(
                plot_roc(
                    {name: table.scores[score] for name, table, score in zip(names, tables, scores)},
                    {name: table.label for name, table in zip(names, tables)},
                    {name: part[score]["auroc"] for name, part, score in zip(names, figures, scores)},
                    f"ROC curves of {' and '.join(dict.fromkeys(scores))}, {one.name}",
                )
            )
    return plots


def _settings_table(runs: list[Run]) -> Table | None:
    rows = [
        [TRAINING[part], plain(name), *(setting(value) for value in values)]
        for part, name, *values in differing_settings(*runs)
    ]
    images = [run.metrics["images"]["sha256"] for run in runs]
    if images[0] != images[1]:
        rows.append(["Evaluated images", "sha256", *images])
    head = ["Part", "Name", "Run A", "Run B"]
    return Table("What was trained and evaluated differently", head, rows, stubs=2) if rows else None


def _times_table(runs: list[Run]) -> Table | None:
    seconds = [{f"training, {plain(part)}": time for part, time in run.training("seconds").items()} for run in runs]
    for run, parts in zip(runs, seconds):
        if "evaluation_seconds" in run.metrics:
            parts["evaluation"] = run.metrics["evaluation_seconds"]
    rows = [
        [name, *(duration(parts[name]) if name in parts else "" for parts in seconds)]
        for name in dict.fromkeys([*seconds[0], *seconds[1]])
    ]
    return Table("Time that each part took", ["Part", "Run A", "Run B"], rows) if rows else None
