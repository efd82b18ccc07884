"""What DDAD (dual-distribution discrepancy) makes of few known normals: which score decides, and what it is worth.

    python benchmarks/few_normals.py --set bundles/ddad_cxr data/chest_xray --set bundles/ddad_brain data/brain_mri \
        --output runs/few --write

Trains a bundle on so many known normals of a set, drawn by the seed, and on a fixed part of its unlabelled images, with
the preset ``default`` but for ``--epochs``, two members and no ASR-Net; evaluates it on all test images; and keeps what
was found in a file a run, so that a second call goes on. Prints a Markdown table; with ``--write`` it goes into
``docs/decisions.md``. ``--before`` takes the folder of the same runs by another version of the package.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow
from pages import format_table, machine, publish

from monai_ddad.data import load_datalist
from monai_ddad.outputs import write_json

COUNTS = (2, 5, 10, 20, 30, 40, 60)
POOL = 200  # unlabelled images, three in five of them abnormal
SETTINGS = {"preset": "default", "members": 2, "refine": "none", "file_names": False}
FILE = "found.json"


def draw(data: Path, normals: int, seed: int) -> dict[str, Any]:
    """Return a datalist with so many of a set's known normals; fewer are among more."""
    listed = load_datalist(data, POOL, 0.6)
    known = [item for item in listed["training"] if item["label"] == 0]
    chosen = np.random.default_rng(seed).permutation(len(known))[:normals]
    pool = [{"image": item["image"]} for item in listed["training"] if item["label"] is None][:POOL]
    return {"training": [known[i] for i in sorted(chosen)] + pool, "test": listed["test"]}


def train(bundle: Path, data: Path, folder: Path, normals: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; return what is found, from the run's file where there is one."""
    file = folder / FILE
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "datalist.json").write_text(json.dumps(draw(data, normals, seed)), encoding="utf-8")
        options = {"dataset_dir": str(folder / "datalist.json"), "output_dir": str(folder), "unlabeled_size": None}
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "train.json"),
            logging_file=False,
            bundle_root=str(bundle),
            seed=seed,
            **(SETTINGS | options | settings),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        metrics = json.loads((folder / "eval" / "metrics.json").read_text(encoding="utf-8"))
        figures, decision = metrics["splits"]["all"]["scores"], metrics["decision"]
        found = {
            "score": metrics["score"],
            "auroc": {name: values["auroc"] for name, values in figures.items()},
            "interval": figures[metrics["score"]]["auroc_interval"],
            "calibration": decision["calibration_groups"] if decision else 0,
            "smallest_alpha": decision["smallest_alpha"] if decision else None,
            "flagged": decision["flagged"] if decision else None,
            "said": metrics["warnings"],
        }
        write_json(found, file)
    found = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Train what is not trained, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs=2, type=Path, action="append", required=True, metavar=("BUNDLE", "DATA"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--normals", type=int, nargs="+", default=COUNTS, help="known normals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="put the table into docs/decisions.md")
    options = parser.parse_args()
    settings = {"epochs": options.epochs, "val_interval": options.epochs, "checkpoint_interval": options.epochs}
    for bundle, data in options.set:
        for seed in options.seeds:
            for normals in options.normals:
                folder = options.output / f"{bundle.name}_{normals}_{seed}"
                found = train(bundle, data, folder, normals, seed, settings)
                sys.stdout.write(f"{bundle.name} {normals} {seed} {json.dumps(found)}\n")


if __name__ == "__main__":
    main()
