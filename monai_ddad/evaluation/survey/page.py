"""The audit as a page to read and a picture to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from monai_ddad.io.files import LeftOut, describe
from monai_ddad.io.writing import atomic_file

__all__ = ["draw_pairs", "write_page"]

COPIES = {
    "same_file": "The same bytes",
    "same_content": "The same decoded pixels",
    "near_copy": "The same pixels, or a correlation above {near_copy} at {image_size} x {image_size}",
}


def write_page(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the tables of an audit as Markdown.

    Args:
        report: see :func:`monai_ddad.evaluation.survey.write_report`.
        path: the Markdown file.
    """
    parts = ["# Audit of the data set", "## What stands out"]
    parts.append("\n".join(f"- {warning}" for warning in report["warnings"]) or "Nothing.")
    parts += ["## What is in it", _contents(report["splits"])]
    left_out = describe(LeftOut(report["left_out"]))
    parts += [f"In the folders {left_out}."] if left_out else []
    reasons = [
        f"- {_plain(name)}, position {file['position']}: {file['reason']}"
        for name, split in report["splits"].items()
        for file in split["unreadable"]
    ]
    parts += ["### Files that cannot be read", "\n".join(reasons)] if reasons else []
    parts += [
        "## Copies",
        "Images of the row's split that have a copy (another image) in the column's split; see worst_pairs.png.",
    ]
    for kind, title in COPIES.items():
        rows = [[row, *map(str, counts.values())] for row, counts in report["copies"][kind].items()]
        parts += [f"### {title.format(**report)}", _table(["", *report["copies"][kind]], rows)]
    parts += ["## What tells the classes apart", "AUROC of one number an image; above .5: higher in the second group."]
    for comparison, measures in report["differences"].items():
        parts += [f"### {_plain(comparison).capitalize()}", _differences(measures)]
    with atomic_file(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def draw_pairs(
    pairs: dict[str, list[dict[str, Any]]], images: dict[str, list[np.ndarray]], path: str | os.PathLike[str]
) -> None:
    """Draw pairs of images, one below the other, a row a kind.

    Args:
        pairs: by kind; ``"images"`` (two places with ``list``, ``position`` and ``split``) and ``"correlation"``.
        images: by kind, (2, H, W) uint8: the two images of each pair.
        path: the PNG file.
    """
    kinds = [kind for kind, members in pairs.items() if members] or list(pairs)[:1]
    columns = max(1, *map(len, pairs.values()))
    figure = Figure(figsize=(1.7 * columns + 0.3, 4.2 * len(kinds)), layout="constrained")
    grid = figure.subplots(2 * len(kinds), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, kind in enumerate(kinds):
        for column, (pair, two) in enumerate(zip(pairs[kind], images[kind])):
            for half, (place, image) in enumerate(zip(pair["images"], two)):
                axes = grid[2 * row + half, column]
                axes.imshow(image, cmap="gray", vmin=0, vmax=255)
                head = f"{_plain(kind)}, {pair['correlation']:.4f}\n" if half == 0 else ""
                axes.set_title(f"{head}{_plain(place['split'])}\n{place['list']} {place['position']}", fontsize=7)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _contents(splits: dict[str, dict[str, Any]]) -> str:
    rows = [["images", *(str(split["images"]) for split in splits.values())]]
    rows.append(["cannot be read", *(str(len(split["unreadable"])) for split in splits.values())])
    names = dict.fromkeys(name for split in splits.values() for name in split)
    for name in [name for name in names if name not in ("images", "unreadable")]:
        rows.append([name, *(_cell(split.get(name)) for split in splits.values())])
    return _table(["", *splits], rows)


def _cell(value: Any) -> str:
    """Show a count, counts by kind, or a spread."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    if value.get("distinct") == 1:
        return f"{value['median']:.6g}"
    if "median" in value:
        return f"{value['median']:.6g} ({value['min']:.6g} to {value['max']:.6g}, {value['distinct']} distinct)"
    return ", ".join(f"{kind}: {count}" for kind, count in value.items())


def _differences(measures: dict[str, dict[str, Any]]) -> str:
    if not measures:
        return "One of the groups is empty."
    rows = []
    for name, found in sorted(measures.items(), key=lambda entry: -abs(entry[1]["auroc"] - 0.5)):
        low, high = (f"{bound:.3f}" for bound in found["interval"])
        first, second = (f"{median:.5g}" for median in found["medians"])
        rows.append(
            [name, f"{found['auroc']:.3f}", f"{low} to {high}", first, second, "yes" if found["notable"] else ""]
        )
    return _table(["property", "AUROC", "95 % interval", "median, first", "median, second", "stands out"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    return text.replace("_", " ")
