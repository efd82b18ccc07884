"""Lay out what ``feature_figures.py`` has measured: the tables of ``docs/features.md`` and the picture of the pools.

    python benchmarks/feature_tables.py runs/figures/brain.json runs/figures/cxr.json runs/figures/fundus.json --write

DDAD is dual-distribution discrepancy for anomaly detection.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from pages import DOCS, format_table, publish

mpl.use("Agg")
from matplotlib import pyplot as plt

NAMES = {"ddad_brain": "brain MRI", "ddad_cxr": "chest films", "ddad_fundus": "fundus"}
SHOWN = ("ddad_plus", "log_ratio", "pu_pooled", "neighbours")
WAYS = {
    "out of fold": "scores out of fold (what a training does)",
    "cross-conformal": "cross-conformal",
    "set aside": "a tenth set aside, at least 30 (means of draws)",
    "not out of fold": "the training's own scores (wrong)",
}


def figures(studies: list[dict[str, Any]]) -> str:
    """Return AUROCs of both splits, and those of random weights."""
    rows = []
    for study in studies:
        name = NAMES[study["bundle"]]
        for kind, label in (("splits", ""), ("random weights", ", random weights")):
            for number, split in enumerate(study.get(kind, ())):
                for part in ("all", "without near copies"):
                    if part in split:
                        found = [split[part][name] for name in SHOWN]
                        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in found]
                        rows.append([f"{name}{label}, split {number + 1}, {part}", *cells])
    return format_table(["test images", *(f"`{name}`" for name in SHOWN)], rows)


def flags(studies: list[dict[str, Any]]) -> str:
    """Return shares flagged at a promised rate of .05, by how p-values were made."""
    rows = []
    for study in studies:
        for pool in [name for name in ("calibration", "calibration, 20 abnormal images") if name in study]:
            for way, label in WAYS.items():
                found = study[pool][way]
                draws = found if isinstance(found, list) else [found]
                cells = []
                for kind in ("abnormal", "normal"):
                    share = mean(draw[kind][0] for draw in draws)
                    text = f"{share:.3f}"
                    if len(draws) == 1:
                        _, low, high, number = draws[0][kind]
                        text += f" [{low:.3f}, {high:.3f}] of {number}"
                    else:
                        text += f" ({min(draw[kind][0] for draw in draws):.3f} to {max(d[kind][0] for d in draws):.3f})"
                    cells.append(text)
                some = f"20 abnormal of {20 + min(380, study['images']['unlabeled normal'])}"
                pool_name = "all" if pool == "calibration" else some
                rows.append([NAMES[study["bundle"]], pool_name, label, *cells])
    return format_table(["images", "pool", "p-values by", "abnormal flagged", "normal flagged"], rows)


def pools(studies: list[dict[str, Any]]) -> str:
    """Return AUROCs by what the pool holds, means of draws."""
    rows = []
    for study in studies:
        for pool, draws in study.get("pools", {}).items():
            cells = [f"{mean(draw[name] for draw in draws):.3f}" for name in SHOWN]
            rows.append([NAMES[study["bundle"]], pool, *cells, f"{mean(draw['weight'] for draw in draws):.2f}"])
    return format_table(["images", "pool", *(f"`{name}`" for name in SHOWN), "w"], rows)


def draw(studies: list[dict[str, Any]], file: Path) -> None:
    """Draw AUROC by the share of abnormal images in the pool."""
    studies = [study for study in studies if "pools" in study]
    figure, axes = plt.subplots(1, len(studies), figsize=(3.6 * len(studies), 3.2), sharey=True, squeeze=False)
    for axis, study in zip(axes[0], studies):
        total = next(iter(study["pools"])).split()[0]
        found = {
            name.split()[2]: values for name, values in study["pools"].items() if name.startswith(f"{total} images,")
        }
        places = range(len(found))
        for name, style in zip(SHOWN, ("o-", "s--", "^--", "x:")):
            axis.plot(places, [mean(one[name] for one in values) for values in found.values()], style, label=name)
        axis.set_xticks(places, [f"{100 * float(share):g} %" for share in found])
        axis.set_title(f"{NAMES[study['bundle']]}, pool of {total}")
        axis.set_xlabel("abnormal images in the pool")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AUROC")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    """Print or write the tables, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="JSON files that feature_figures.py has written")
    parser.add_argument("--write", action="store_true", help="into docs/features.md and docs/images/pools.png")
    options = parser.parse_args()
    studies = [json.loads(file.read_text(encoding="utf-8")) for file in options.studies]
    about = f"\n{studies[0]['machine']}.\n"
    for name, make in (("figures", figures), ("flags", flags), ("pools", pools)):
        publish(make(studies) + about, "features.md", name, options.write)
    if options.write:
        draw(studies, DOCS / "images" / "pools.png")


if __name__ == "__main__":
    main()
