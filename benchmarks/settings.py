"""What settings change: AUROC of evaluated runs of DDAD (dual-distribution discrepancy), side by side.

    python benchmarks/settings.py --runs runs/brain runs/brain_plain --runs runs/chest runs/chest_plain --write

Each ``--runs`` is a data set; its runs are told apart by the settings in which they differ from the first. In brackets
stands the AUROC without test images that have a near copy in the training. With ``--write`` the tables go into
``docs/scores.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import format_table, publish

from monai_ddad.evaluation.report.differences import differing_settings
from monai_ddad.evaluation.report.read import Run, read_run
from monai_ddad.io.errors import DataError

SCORES = ("r_dual", "inter", "rec", "ratio", "maha_rec", "pu_latent", "ddad_plus")
PARTS = ("network", "preparation", "settings")
DERIVED = ("calibration_images", "calibration_volumes", "map_names", "score_names", "left_out", "started_from_weights")


def settings(run: Run) -> dict[str, Any]:
    """Return what was chosen for a training."""
    return {name: value for part in PARTS for name, value in run.training(part).items() if name not in DERIVED}


def lay_out(folders: Sequence[Path]) -> str:
    """Return the table of the runs of one data set: how each differs from the first, and its AUROCs."""
    runs = [read_run(folder) for folder in folders]
    names = {row[1] for run in runs for row in differing_settings(runs[0], run) if row[0] in PARTS} - {*DERIVED}
    rows = []
    for run in runs:
        chosen = settings(run)
        about = ", ".join(
            f"`{name}` {chosen.get(name)}"
            for name in sorted(names)
            if run is runs[0] or chosen.get(name) != settings(runs[0]).get(name)
        )
        splits = run.metrics["splits"]  # of which the second one is only there where there are near copies
        found = [split["scores"] for split in (splits["all"], splits.get("without_near_copies", splits["all"]))]
        cells = [
            "{:.3f} ({:.3f})".format(*(scores[name]["auroc"] for scores in found)) if name in found[0] else ""
            for name in SCORES
        ]
        rows.append([about or "the same", *cells])
    counts = runs[0].metrics["splits"]["all"]
    same = settings(runs[0])
    about = f"{counts['normal']} normal and {counts['abnormal']} abnormal test images, {same['epochs']} epochs"
    return f"{about}:\n\n{format_table(['', *(f'`{name}`' for name in SCORES)], rows)}"


def main() -> None:
    """Print or write the tables of all data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", action="append", required=True, help="of one data set")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scores.md")
    options = parser.parse_args()
    try:
        tables = "\n".join(lay_out(folders) for folders in options.runs)
    except DataError as error:
        sys.exit(f"{parser.prog}: {error}")
    publish(tables, "scores.md", "settings", options.write)


if __name__ == "__main__":
    main()
