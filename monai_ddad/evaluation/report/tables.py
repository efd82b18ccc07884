"""Tables of a report, and its summary in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai_ddad.evaluation.metrics import expected_rates
from monai_ddad.evaluation.report.read import Run, ScoreTable
from monai_ddad.evaluation.report.units import Unit, slice_rows
from monai_ddad.evaluation.report.words import (
    METRIC_NAMES,
    duration,
    figure,
    percent,
    plain,
    rate,
    setting,
    span,
    split_name,
)
from monai_ddad.evaluation.tables import METRICS

__all__ = [
    "Table",
    "distances_tables",
    "figures_tables",
    "pixels_table",
    "place",
    "protocol_table",
    "rates_tables",
    "records",
    "summarise",
    "unreadable_table",
]

TRAINING = {
    "data": "Training images",
    "network": "Network",
    "preparation": "Preparation of the images",
    "settings": "Settings",
    "epochs": "Epochs",
    "seconds": "Training time",
    "versions": "Versions",
}


@dataclass(frozen=True)
class Table:
    """A table to show.

    Attributes:
        caption: what it holds.
        head: names of the columns.
        rows: the cells' text.
        stubs: how many leading cells of a row say what the row is about.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    stubs: int = 1


def summarise(run: Run, units: Sequence[Unit]) -> list[tuple[str, str]]:
    """Sum up an evaluation: pairs of what is told and what there is to tell."""
    told = [("Deciding score", run.score)]
    for unit in units:
        name = f", {unit.name}" if len(units) > 1 else ""
        told += [(f"AUROC{name}", text) for text in _ranking(run, unit)]
        told += [(f"{kind}{name}", text) for kind, text in _decisions(run, unit)]
    slices = slice_rows(run.table)
    if run.table.flagged is not None and slices.any():
        told.append(("Flagged slices", f"{int(run.table.flagged[slices].sum())} of {int(slices.sum())} slices"))
    strange = sum(map(bool, run.table.columns.get("out_of_protocol", [])))
    checked = run.metrics.get("protocol_checked", False)
    counted = f"{strange} of {len(run.table)} scored images" if strange else "no image"
    told.append(("Out of protocol", counted if checked else "not checked"))
    return told


def _ranking(run: Run, unit: Unit) -> list[str]:
    """Tell the deciding score's AUROC on each split."""
    if not unit.main["scores"]:
        return [
            f"none: {unit.main['normal']} {unit.name} are labelled normal and {unit.main['abnormal']} abnormal, and "
            "both are needed"
        ]
    told = []
    for split, figures in unit.splits.items():
        if run.score in figures["scores"]:
            found = figures["scores"][run.score]
            low, high = found["auroc_interval"]
            told.append(
                f"{found['auroc']:.3f} (95\u00a0% interval {low:.3f} to {high:.3f}) on {figures['normal']} normal and "
                f"{figures['abnormal']} abnormal {unit.name}"
                + ("" if figures is unit.main else f", {split_name(split)}")
            )
    return told


def _decisions(run: Run, unit: Unit) -> list[tuple[str, str]]:
    """Tell which false-positive rate was wanted and what was found."""
    if unit.decision is None or unit.table.flagged is None:
        why = f"no normal {unit.name} were set aside for calibration"
        return [("Decisions", f"none: {why}, so no false-positive rate is promised and nothing is flagged")]
    alpha, normals, groups = (unit.decision[name] for name in ("alpha", "calibration_normals", "calibration_groups"))
    promise = f"{percent(alpha)} of normal {unit.name}, by comparison with {normals} calibration normals"
    if groups < normals:
        promise += f" of {groups} groups (patients, volumes)"
    if run.out_of_fold:
        promise += ", which the model was trained on, each scored by a fit without it"
    if 0 < alpha < unit.decision["smallest_alpha"]:
        promise += f"; with so few nothing can be flagged below {percent(unit.decision['smallest_alpha'])}"
    aim = "False-positive rate aimed at" if run.out_of_fold else "Promised false-positive rate"
    told = [(aim, promise)]
    found, caught = unit.flagged(0), unit.flagged(1)
    if found:
        low, high = expected_rates(groups, found.total, alpha)
        verdict = "above" if found.value > high else "below" if found.value < low else "within"
        told.append(
            (
                "Realised false-positive rate",
                f"{rate(found.value, found.interval)}, {found.count} of {found.total} normal {unit.name}; that is "
                f"{verdict} what chance allows with so many, {span(percent(low), percent(high))}",
            )
        )
    if caught:
        share = rate(caught.value, caught.interval)
        told.append(("Sensitivity at it", f"{share}, {caught.count} of {caught.total} abnormal {unit.name}"))
    told.append(("Flagged", f"{int(unit.table.flagged.sum())} of {len(unit.table)} {unit.name}"))
    return told


def figures_tables(units: Sequence[Unit]) -> list[Table]:
    """Return the figures of all scores, a table a split."""
    tables = []
    for unit in units:
        for split, figures in unit.splits.items():
            scores = figures["scores"]
            metrics = [metric for metric in METRICS if any(metric in found for found in scores.values())]
            rows = [
                [name, *(figure(found[metric], found.get(f"{metric}_interval")) for metric in metrics)]
                for name, found in scores.items()
            ]
            head = ["Score", *(METRIC_NAMES.get(metric, plain(metric)) for metric in metrics)]
            tables.append(Table(f"Figures, {_counted(split, figures)}", head, rows))
    return [table for table in tables if table.rows]


def _counted(split: str, figures: dict[str, Any]) -> str:
    return f"{split_name(split)}: {figures['normal']} normal, {figures['abnormal']} abnormal"


def pixels_table(run: Run) -> Table | None:
    """Return the figures of the anomaly maps against masks; None where there were no masks."""
    pixels = run.metrics.get("pixels") or {}
    metrics = list(dict.fromkeys(metric for found in pixels.values() for metric in found))
    head = ["Score", *(METRIC_NAMES.get(metric, plain(metric)) for metric in metrics)]
    rows = [
        [name, *(f"{found[metric]:.3f}" if metric in found else "" for metric in metrics)]
        for name, found in pixels.items()
    ]
    return (
        Table(
            "Anomaly maps against masks of lesions, pixel by pixel; the threshold is chosen on the same masks",
            head,
            rows,
        )
        if rows
        else None
    )


def rates_tables(run: Run, units: Sequence[Unit]) -> list[Table]:
    """Return wanted and realised false-positive rates, a table a split; of all images with all scores."""
    head = ["Score", "Wanted rate", "Realised false-positive rate", "By chance", "Sensitivity"]
    tables = []
    for unit in units:
        groups = unit.decision["calibration_groups"] if unit.decision else 0
        for split, figures in unit.splits.items():
            rows = [
                [name, *_point(point, groups, figures["normal"])]
                for name, found in figures.get("operating_points", {}).items()
                if figures is unit.main or name == run.score
                for point in found["points"]
            ]
            tables.append(Table(f"False-positive rates, {_counted(split, figures)}", head, rows))
    return [table for table in tables if table.rows]


def _point(point: dict[str, Any], groups: int, normals: int) -> list[str]:
    chance = span(*map(percent, expected_rates(groups, normals, point["alpha"])))
    cells = [percent(point["alpha"]), rate(point["false_positive_rate"], point["false_positive_rate_interval"]), chance]
    return [*cells, rate(point["sensitivity"], point["sensitivity_interval"]) if "sensitivity" in point else ""]


def distances_tables(units: Sequence[Unit]) -> list[Table]:
    """Return how far the realised rates are from the wanted ones, a table for pictures and one for volumes."""
    tables = [
        Table(
            f"Mean distance of realised from wanted rates, {unit.name}",
            ["Score", "Distance"],
            [
                [name, f"{found['calibration_error']:.3f}"]
                for name, found in unit.main.get("operating_points", {}).items()
            ],
        )
        for unit in units
    ]
    return [table for table in tables if table.rows]


def place(table: ScoreTable, row: int) -> str:
    """Name an image by its position in the list and, of a volume, its slice."""
    part = table.cell("slice", row)
    return table.cell("position", row) + (f", slice\u00a0{part}" if part else "")


def protocol_table(run: Run) -> Table | None:
    """Return the images that are not of the trained kind; None where all are."""
    reasons = run.table.columns.get("out_of_protocol", [])
    named = "image" in run.table.columns
    rows = [
        [place(run.table, row), reason, *([run.table.cell("image", row)] if named else [])]
        for row, reason in enumerate(reasons)
        if reason
    ]
    counts = "; ".join(f"{reason}: {count}" for reason, count in Counter(filter(None, reasons)).items())
    head = ["Position", "Reason", *(["Image"] if named else [])]
    return Table(f"Images out of protocol ({counts})", head, rows) if rows else None


def unreadable_table(run: Run) -> Table | None:
    """Return the items that could not be read; None where all could."""
    if len(run.unreadable) < 2:
        return None
    head, *rows = run.unreadable
    return Table("Items that could not be read", [name.capitalize() for name in head], rows)


def records(run: Run) -> list[Table]:
    """Return what was trained and evaluated, on what, and how long it took."""
    training = {part: dict(run.training(part)) for part in TRAINING}
    training["seconds"] = {part: duration(seconds) for part, seconds in training["seconds"].items()}
    images = {"scored": run.metrics["images"]["scored"], "sha256": run.metrics["images"]["sha256"]}
    if "evaluation_seconds" in run.metrics:
        images["time"] = duration(run.metrics["evaluation_seconds"])
    parts = [(TRAINING[part], content) for part, content in training.items()]
    return [
        Table(caption, ["Name", "Value"], [[plain(name), setting(value)] for name, value in content.items()])
        for caption, content in [*parts, ("Evaluated images", images)]
        if content
    ]
