"""How the scores of DDAD (dual-distribution discrepancy) depend on the unlabelled pool.

    python benchmarks/robustness.py --bundle bundles/ddad_cxr --data data/chest_xray --output runs/robust --write

The data set is in the authors' layout, whose list says what the pool's images are. Trained are variants of it: abnormal
rates of the pool from 0 to 1 at an equal size; sizes at an equal rate; a pool that differs from the known normals in
its brightness (gamma); and, where ``--types`` finds the type of an abnormal image in its name, pools without one type,
tested on each type. What is trained stays in the output folder and is not trained again. Draws ``<data>.png`` and
writes ``<data>.json`` there, with ``--write`` to ``docs/robustness``, and prints a table of the types, with ``--write``
into ``docs/scores.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pages import DOCS, format_table, machine, publish
from PIL import Image

from monai_ddad.data import load_datalist
from monai_ddad.evaluation.metrics import auroc, bootstrap_interval
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.evaluation.tables import write_json
from monai_ddad.io.writing import atomic_file

RATES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
SIZES = (20, 60, 200)
RATE = 0.5  # where the size is what varies, or the brightness
GAMMAS = (0.7, 1.0, 1.4)
ALONE = "without near copies"
FAINT = 0.01  # a gain below it is not divided by
SCORES = ("ddad_plus", "maha_rec", "ratio", "pu_latent", "inter")
LABELS = {
    "rate": "abnormal rate of the pool",
    "size": "images in the pool, half of them abnormal",
    "gamma": "gamma of the pool alone, half of it abnormal",
}


@dataclass(frozen=True)
class Variant:
    """A pool to train with.

    Attributes:
        experiment, value: what varies, and how.
        pool: paths of the unlabelled images.
        gamma: exponent of their brightness.
    """

    experiment: str
    value: float | str
    pool: list[str] = field(repr=False)
    gamma: float = 1.0

    @property
    def name(self) -> str:
        """Name of the variant's folder; the pool of unchanged brightness is that of the rate."""
        return f"rate_{RATE}" if self.value == 1 and self.experiment == "gamma" else f"{self.experiment}_{self.value}"


def shuffled(paths: list[str]) -> list[str]:
    """Put paths into an order of which every beginning is a fair sample."""
    return random.Random(0).sample(paths, len(paths))


def variants(normal: list[str], abnormal: list[str], types: str | None) -> Iterator[Variant]:
    """List the pools that can be made of so many images."""

    def mix(size: int, rate: float) -> list[str]:
        ill = round(size * rate)
        return normal[: size - ill] + abnormal[:ill]

    size = min(len(normal), len(abnormal))
    for rate in RATES:
        yield Variant("rate", rate, mix(size, rate))
    largest = min(int(len(normal) / (1 - RATE)), int(len(abnormal) / RATE))
    for number in [*(number for number in SIZES if number < largest), largest]:
        yield Variant("size", number, mix(number, RATE))
    for gamma in GAMMAS:
        yield Variant("gamma", gamma, mix(size, RATE), gamma)
    if types:
        by_kind = {kind: [path for path in abnormal if kind_of(path, types) == kind] for kind in kinds(abnormal, types)}
        left = {kind: [path for path in abnormal if path not in set(some)] for kind, some in by_kind.items()}
        number = min(len(some) for some in left.values())
        for kind, some in {"nothing": abnormal, **left}.items():
            yield Variant("without", kind, normal + some[:number])


def kinds(paths: list[str], types: str | None) -> list[str]:
    """Return the types of abnormal images that there are."""
    return sorted({kind_of(path, types) for path in paths})


def kind_of(path: str, types: str | None) -> str:
    """Return the type of an abnormal image, by its name."""
    found = re.search(types or "()", Path(path).name)
    if found is None:
        raise ValueError("--types does not match all abnormal images of the list.")
    return found[1]


def train(variant: Variant, known: Sequence[str], test: Sequence[dict[str, Any]], options: argparse.Namespace) -> Path:
    """Train and evaluate one variant, unless that was done before; return its folder."""
    folder = options.output / options.data.name / variant.name
    pool = variant.pool
    if variant.gamma != 1:
        pool = [str(folder / f"pool/{i:05d}.png") for i in range(len(pool))]
    training = [{"image": path, "label": 0} for path in known] + [{"image": path} for path in pool]
    listed = [{"image": str(Path(item["image"]).resolve()), "label": item["label"]} for item in test]
    datalist, file = {"training": training, "test": listed}, folder / "datalist.json"
    if (folder / "eval" / "metrics.json").is_file():
        trained = read_run(folder).training("settings")
        wanted = {"epochs": options.epochs, "seed": options.seed, "unlabeled_size": len(variant.pool)}
        same = all(trained[name] == value for name, value in wanted.items())
        if not same or json.loads(file.read_text(encoding="utf-8")) != datalist:
            raise ValueError(f"{folder} holds another training: give another --output.")
        return folder
    if variant.gamma != 1:
        for path, target in zip(variant.pool, pool):
            brighten(path, variant.gamma, Path(target))
    write_json(datalist, file)
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(options.bundle / "configs" / "train.json")]
    settings = {"dataset_dir": folder / "datalist.json", "output_dir": folder, "epochs": options.epochs}
    settings |= {"refine": "none", "unlabeled_size": len(pool), "seed": options.seed}
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training {variant.name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return folder


def brighten(path: str, gamma: float, target: Path) -> None:
    """Write an 8-bit image with another gamma."""
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(int).tolist()
    with Image.open(path) as image, atomic_file(target) as file:
        image.point(table * len(image.getbands())).save(file, format="PNG")


def figures(folder: Path, test: Sequence[dict[str, Any]], types: str | None) -> dict[str, dict[str, list[float]]]:
    """Return AUROC with its interval by score, by split of the test images and by type of abnormal image."""
    table = read_run(folder).table
    alone = np.array([table.cell("near_copy", row) != "1" for row in range(len(table))])
    kinds = np.array(["" if item["label"] == 0 or not types else kind_of(item["image"], types) for item in test])
    splits = {"all": np.ones_like(alone), ALONE: alone}
    splits |= {f"{kind}": (kinds == kind) | (table.label == 0) for kind in sorted(set(kinds)) if kind}
    splits |= {f"{kind}, {ALONE}": keep & alone for kind, keep in splits.items() if kind in set(kinds) - {""}}
    return {
        split: {
            name: [
                float(auroc(values[keep], table.label[keep])),
                *bootstrap_interval(auroc, values[keep], table.label[keep]),
            ]
            for name, values in table.scores.items()
        }
        for split, keep in splits.items()
    }


def lay_out(found: list[dict[str, Any]]) -> str:
    """Return the table of the types: AUROC by the pool, and what is left of what abnormal images in it gain."""
    pools = {point["value"]: point["figures"] for point in found if point["experiment"] == "without"}
    (pure,) = (point["figures"] for point in found if point["experiment"] == "rate" and point["value"] == 0)
    rows = []
    for kind in [value for value in pools if value != "nothing"]:
        for name in SCORES:
            splits = (kind, f"{kind}, {ALONE}")
            areas = np.array([[of[split][name][0] for split in splits] for of in (pure, pools[kind], pools["nothing"])])
            gained = areas[1:] - areas[0]
            left = [f"{some:.0%}" if full > FAINT else "-" for full, some in zip(gained[1], gained[0] / gained[1])]
            cells = ["{:.3f} ({:.3f})".format(*area) for area in areas]
            rows.append([kind, f"`{name}`", *cells, "{} ({})".format(*left)])
    header = ["type tested", "score", "pool without abnormal images", "without that type", "with all", "gain left"]
    return format_table(header, rows)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw AUROC against what varies, a plot an experiment."""
    figure = Figure(figsize=(4.2 * len(LABELS), 4), layout="constrained")
    for axes, (experiment, label) in zip(figure.subplots(1, len(LABELS), sharey=True), LABELS.items()):
        points = [point for point in found if point["experiment"] == experiment]
        across = [point["value"] for point in points]
        for name, style in zip(SCORES, ("-o", "--s", "-.^", ":v", "-d")):
            values = np.array([point["figures"]["all"][name] for point in points])
            (line,) = axes.plot(across, values[:, 0], style, markersize=4, label=name)
            if name == SCORES[0]:
                axes.fill_between(across, values[:, 1], values[:, 2], alpha=0.15, color=line.get_color(), linewidth=0)
        axes.set(xlabel=label, ylim=(0, 1.01), xscale="linear" if experiment == "rate" else "log")
        axes.grid(alpha=0.3)
        if experiment != "rate":
            axes.set_xticks(across, [f"{value:g}" for value in across], minor=False)
            axes.minorticks_off()
    figure.axes[0].set_ylabel("AUROC, all test images")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SCORES))
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def main() -> None:
    """Train what is missing, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set, in the authors' layout")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--types", help='such as --types="-(gl|me)" for brain_mri')
    parser.add_argument("--experiments", nargs="+", default=[*LABELS, "without"], choices=[*LABELS, "without"])
    parser.add_argument("--write", action="store_true", help="put picture and figures of all into docs/robustness")
    options = parser.parse_args()
    everything = {*LABELS, "without"} if options.types else {*LABELS}
    if options.write and not everything <= set(options.experiments):
        parser.error("--write replaces what all experiments have found: leave out --experiments.")
    pool = json.loads((options.data / "data.json").read_text(encoding="utf-8"))["train"]["unlabeled"]
    images = (options.data / "images").resolve()
    normal, abnormal = (shuffled([str(images / name) for name in pool[label]]) for label in ("0", "1"))
    items = load_datalist(options.data)
    known = [str(Path(item["image"]).resolve()) for item in items["training"] if item["label"] == 0]
    found = []
    for variant in variants(normal, abnormal, options.types):
        if variant.experiment in options.experiments:
            folder = train(variant, known, items["test"], options)
            scores = figures(folder, items["test"], options.types)
            found.append({"experiment": variant.experiment, "value": variant.value, "figures": scores})
            best = scores["all"][SCORES[0]]
            sys.stdout.write(f"{variant.name}: {SCORES[0]} {best[0]:.3f} [{best[1]:.3f}, {best[2]:.3f}]\n")
    target = DOCS / "robustness" if options.write else options.output
    about = {"data": options.data.name, "epochs": options.epochs, "seed": options.seed, "machine": machine()}
    write_json({**about, "variants": found}, target / f"{options.data.name}.json")
    if set(LABELS) <= set(options.experiments):
        draw(found, target / f"{options.data.name}.png")
    if options.types and {"rate", "without"} <= set(options.experiments):
        publish(lay_out(found), "scores.md", f"types {options.data.name}", options.write)


if __name__ == "__main__":
    main()
