"""The report of one evaluation."""

from __future__ import annotations

import os
from pathlib import Path

from monai_ddad.evaluation.report.gallery import KINDS, make_cards
from monai_ddad.evaluation.report.page import write_page
from monai_ddad.evaluation.report.plots import Plot, plot_calibration, plot_histogram, plot_precision_recall, plot_roc
from monai_ddad.evaluation.report.read import Run, find_evaluation, read_run
from monai_ddad.evaluation.report.tables import (
    distances_tables,
    figures_tables,
    pixels_table,
    protocol_table,
    rates_tables,
    records,
    summarise,
    unreadable_table,
)
from monai_ddad.evaluation.report.units import Unit, find_units, slice_rows
from monai_ddad.evaluation.report.words import FEATURE_SCORE_NAMES, SCORE_NAMES
from monai_ddad.io.writing import remove_leftovers

__all__ = ["write_report"]


def write_report(run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of an evaluated run as one HTML file that needs no network.

    Args:
        run: folder of the run or of an evaluation; see :func:`.read_run`, as are the errors.
        output: the HTML file; None takes ``report.html`` in the folder of the evaluation.

    Returns:
        the file that was written.

    Raises:
        DataError: nothing was evaluated there, or a file is damaged or of another evaluation.

    Example:
        >>> write_report("no such folder")
        Traceback (most recent call last):
            ...
        monai_ddad.io.errors.DataError: the run holds no evaluation (metrics.json is missing): evaluate first.
    """
    remove_leftovers(run, Path(run) / "eval")
    found = read_run(run)
    units = find_units(found)
    cards = make_cards(found)
    explained = FEATURE_SCORE_NAMES if found.metrics.get("backbone") == "features" else SCORE_NAMES
    return write_page(
        "report.html",
        find_evaluation(run) / "report.html" if output is None else output,
        synthetic=found.training("settings").get("synthetic_data") is True,
        summary=summarise(found, units),
        warnings=_warnings(found),
        figures=figures_tables(units),
        pixels=pixels_table(found),
        intervals=found.metrics.get("intervals", ""),
        rates=rates_tables(found, units),
        distances=distances_tables(units),
        calibration=_calibration_plots(found, units),
        out_of_fold=found.out_of_fold,
        scores={name: text for name, text in explained.items() if name in found.table.scores},
        curves=_curves(units),
        histograms=_histograms(found, units),
        cards=cards,
        kinds={kind: title for kind, title in KINDS.items() if any(card.kind == kind for card in cards)},
        score=found.score,
        map=found.metrics.get("map", found.score),
        slices=bool(slice_rows(found.table).any()),
        excluded=[table for table in (protocol_table(found), unreadable_table(found)) if table],
        records=records(found),
    )


def _warnings(run: Run) -> list[str]:
    again = "The model was trained anew after this evaluation: the report is of the earlier model. Evaluate again."
    return [*([again] if run.retrained else []), *run.metrics.get("warnings", [])]


def _calibration_plots(run: Run, units: list[Unit]) -> list[Plot]:
    plots = []
    for unit in units:
        normal = unit.table.label == 0
        if unit.decision and unit.table.p_value is not None and normal.any():
            title = f"Calibration of {run.score} on normal {unit.name}"
            groups, alpha = unit.decision["calibration_groups"], unit.decision["alpha"]
            plots.append(plot_calibration(unit.table.p_value[normal], groups, alpha, title))
    return plots


def _curves(units: list[Unit]) -> list[Plot]:
    """Draw ROC and precision-recall curves where both classes are there."""
    plots = []
    for unit in units:
        known, figures = unit.known(), unit.main["scores"]
        if known and figures:
            scores = {name: known.scores[name] for name in figures}
            areas, averages = (
                {name: found[metric] for name, found in figures.items()} for metric in ("auroc", "average_precision")
            )
            false_alarms, sensitivity = unit.flagged(0), unit.flagged(1)
            point = (false_alarms.value, sensitivity.value) if false_alarms and sensitivity else None
            labels = dict.fromkeys(scores, known.label)
            plots.append(plot_roc(scores, labels, areas, f"ROC curves, {unit.name}", point))
            plots.append(plot_precision_recall(scores, known.label, averages, f"Precision-recall curves, {unit.name}"))
    return plots


def _histograms(run: Run, units: list[Unit]) -> list[Plot]:
    return [
        plot_histogram(
            values,
            unit.table.label,
            name,
            f"Histogram of {name}, {unit.name}",
            unit.threshold(name) if name == run.score else None,
        )
        for unit in units
        for name, values in unit.table.scores.items()
    ]
