"""Train and time other methods on the images of DDAD (dual-distribution discrepancy).

    python benchmarks/baselines.py --run bundles/ddad_brain runs/brain data/brain_mri
    python benchmarks/baselines.py --data bundles/ddad_cxr runs/films data/films --methods PCA "AE-U" "PyOD KNN"

Writes ``baselines.json`` into the folder of the run, or into a folder named for a data set without one:
``compare.py`` lays it out. Each method trains on known normals alone, but for the controls that say otherwise, with the
seed, epochs and precision of the run, in a process of its own on one thread. Those of other libraries need
``make .venv-compare/installed`` and ``.venv-compare/bin/python``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controls import CONTROLS
from measured import Method, Settings, measure_apart
from outliers import OUTLIERS
from pages import add_runs, machine
from patches import PATCHES
from prepared import Prepared, read_data, read_trained
from reconstruction import NETWORKS
from trained import trained

from monai_ddad.evaluation.tables import write_json
from monai_ddad.io.checkpoints import CheckpointError, save_file
from monai_ddad.io.errors import DataError

OWN = CONTROLS | NETWORKS
METHODS = OWN | OUTLIERS | PATCHES
DDAD = "DDAD"  # name of the trained model among the results

logger = logging.getLogger("baselines")


def measure_all(methods: dict[str, Method], prepared: Prepared, settings: Settings, file: Path, bundle: Path) -> None:
    """Measure methods one after the other and write each result beside those of the same images and settings."""
    content: dict[str, Any] = {
        "bundle": bundle.name,
        "images": prepared.sha256,
        "labels": prepared.labels,
        "near_copy": prepared.near_copy,
        "training": {"known": len(prepared.known), "pool": len(prepared.pool), "sha256": prepared.training_sha256},
        "settings": dataclasses.asdict(settings),
    }
    found = _earlier(file, content)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.pt"
        save_file({"known": prepared.known, "pool": prepared.pool, "test": prepared.test}, images)
        for name, method in methods.items():
            found[name] = measure_apart(method, images, settings) | {"machine": machine(1)}
            logger.info(f"{bundle.name} {name}: {found[name]['training_s']:.1f} s")
            write_json(content | {"methods": {name: found[name] for name in (DDAD, *METHODS) if name in found}}, file)


def _earlier(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured before on the same images with the same settings."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = all(before.get(name) == content[name] for name in ("images", "training", "settings"))
    return before["methods"] if same else {}


def choose(names: Sequence[str]) -> dict[str, Method]:
    """Return the methods of some names; ``all`` are all.

    Raises:
        ValueError: there is no such method.
    """
    unknown = [name for name in names if name not in METHODS and name != "all"]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}: choose among all, {', '.join(METHODS)}.")
    return METHODS if "all" in names else {name: METHODS[name] for name in names}


def main() -> None:
    """Measure on all runs and data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser, required=False)
    parser.add_argument(
        "--data",
        nargs=3,
        type=Path,
        action="append",
        default=[],
        metavar=("BUNDLE", "FOLDER", "DATA"),
        help="a data set without a run: folders of the bundle for its images, of the results, and of the data set",
    )
    parser.add_argument("--methods", nargs="+", default=list(OWN), metavar="METHOD", help="names, or all")
    parser.add_argument("--seed", type=int, default=0, help="with --data")
    parser.add_argument("--epochs", type=int, help="with --data; by default those of the bundle's preset")
    parser.add_argument("--backbone_weights", help="a ResNet-18's state dict for PaDiM and PatchCore; else random")
    options = parser.parse_args()
    if not (options.run or options.data):
        parser.error("give --run or --data")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        methods = choose(options.methods)
        for bundle, run, data in options.run or []:
            prepared = read_trained(bundle, run, data)
            settings = dataclasses.replace(prepared.settings, backbone_weights=options.backbone_weights)
            model = {DDAD: trained(bundle.resolve(), (run / "models").resolve())}
            measure_all(model | methods, prepared, settings, run / "baselines.json", bundle)
        for bundle, folder, data in options.data:
            prepared = read_data(bundle, data, options.seed, options.epochs)
            settings = dataclasses.replace(prepared.settings, backbone_weights=options.backbone_weights)
            measure_all(methods, prepared, settings, folder / "baselines.json", bundle)
    except (CheckpointError, DataError, FloatingPointError, ImportError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
