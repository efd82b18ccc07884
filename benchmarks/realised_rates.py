"""Lay out the false-positive rates that evaluations of DDAD (dual-distribution discrepancy) realised, as Markdown.

    python benchmarks/realised_rates.py runs/first runs/second

"By chance" is the range that 95 % of the draws of calibration and test images lie in if the promise holds.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from monai_ddad.evaluation.metrics import expected_rates
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.evaluation.report.units import Unit, find_units
from monai_ddad.evaluation.tables import ALPHAS
from monai_ddad.io.errors import DataError


def rows(start: str, unit: Unit, figures: dict[str, Any]) -> list[str]:
    """Return a row for each score, and one of what chance allows."""
    cells = {
        f"`{score}`": [
            "{:.3f} [{:.3f}, {:.3f}]".format(point["false_positive_rate"], *point["false_positive_rate_interval"])
            for point in found["points"]
        ]
        for score, found in figures.get("operating_points", {}).items()
    }
    if cells and unit.decision:
        ranges = [expected_rates(unit.decision["calibration_groups"], figures["normal"], alpha) for alpha in ALPHAS]
        cells["by chance"] = ["{:.3f} to {:.3f}".format(*bounds) for bounds in ranges]
    return [f"| {start} | {name} | {' | '.join(row)} |" for name, row in cells.items()]


def main() -> None:
    """Print a table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="output folders of evaluated runs")
    options = parser.parse_args()
    lines = [f"| run | normal images | score | {' | '.join(f'alpha {alpha:g}' for alpha in ALPHAS)} |"]
    lines.append("|---" * (3 + len(ALPHAS)) + "|")
    for number, folder in enumerate(options.runs, start=1):
        try:
            units = find_units(read_run(folder))
        except DataError as error:
            parser.exit(1, f"{parser.prog}: run {number}: {error}\n")
        for unit in units:
            for split, figures in unit.splits.items():
                lines += rows(f"{number} | {split.replace('_', ' ')} ({figures['normal']})", unit, figures)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
