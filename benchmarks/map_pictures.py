"""Draw one abnormal test image of each data set, and where DDAD (dual-distribution discrepancy) says that it is so.

    python benchmarks/map_pictures.py --set bundles/ddad_brain runs/brain runs/brain_pixels data/brain_mri --write

For each set give the folders of the bundle, of an evaluated run of features, of one of the paper's networks, and of
the data. Nothing is picked by eye: the image is the abnormal one that is the median by the score that decides in the
run of features. Below it stand the map ``inter`` of the paper's networks and that of features, coloured by percentiles
of known normals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pages import DOCS
from PIL import Image

from monai_ddad.data import load_datalist
from monai_ddad.decision.finding import Finding
from monai_ddad.decision.overlay import overlay_heat_map
from monai_ddad.evaluation.report.read import read_run
from monai_ddad.serving.predictor import load

MAP = "inter"
ROWS = ("image", f"{MAP}, the paper's networks", f"{MAP}, features")


def choose(run: Path) -> int:
    """Return the position of the abnormal test image whose deciding score is the median."""
    table, score = read_run(run).table, read_run(run).score
    abnormal = np.flatnonzero(table.label == 1)
    order = abnormal[np.argsort(table.scores[score][abnormal], kind="stable")]
    return int(table.cell("position", int(order[len(order) // 2])))


def draw(bundle: Path, run: Path, pixels: Path, data: Path) -> list[Image.Image]:
    """Return the image, and it with the map of either run over it."""
    file = load_datalist(data)["test"][choose(run)]["image"]
    pictures: list[Image.Image] = []
    for folder in (pixels, run):
        (found,) = load(bundle, folder / "models", device="cpu").find([file])
        assert isinstance(found, Finding)
        heat = found.heat_map(MAP)
        if not pictures:
            pictures.append(heat.image().convert("RGB"))
        pictures.append(overlay_heat_map(heat.image(), found.percentiles(heat.picture_values, MAP)))
    return pictures


def main() -> None:
    """Draw all sets side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("BUNDLE", "FEATURES", "PIXELS", "DATA")
    parser.add_argument("--set", nargs=4, type=Path, action="append", required=True, metavar=names, dest="sets")
    parser.add_argument("--output", type=Path, default=Path("maps.png"), help="PNG file to write (default: maps.png)")
    parser.add_argument("--write", action="store_true", help="write docs/images/maps.png instead")
    options = parser.parse_args()
    columns = [draw(*folders) for folders in options.sets]
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), len(columns), squeeze=False)
    for row, title in enumerate(ROWS):
        axes[row, 0].set_ylabel(title)
        for axis, pictures in zip(axes[row], columns):
            axis.imshow(pictures[row])
            axis.set(xticks=[], yticks=[])
    figure.savefig(DOCS / "images" / "maps.png" if options.write else options.output, dpi=100)


if __name__ == "__main__":
    main()
