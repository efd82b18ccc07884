"""What DDAD (dual-distribution discrepancy) makes of few known normals: which score decides, and what it is worth.

    python benchmarks/few_normals.py --set bundles/ddad_cxr data/chest_xray --set bundles/ddad_brain data/brain_mri \
        --output runs/few --write

Trains a bundle on so many known normals of a set, drawn by the seed, and on a part of its unlabelled images that is
the same for all, with the preset ``default`` but for short trainings of two small members without ASR-Net; scores test
images; and keeps what was found in a file a run, so that a second call goes on. Prints a Markdown table; with
``--write`` it goes into ``docs/decisions.md``. ``--before`` takes such runs by another version of the package.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from pages import format_table, machine, publish

from monai_ddad.data import ResidentDataset, load_datalist, normalise
from monai_ddad.evaluation.metrics import auroc, bootstrap_interval
from monai_ddad.evaluation.tables import write_json
from monai_ddad.networks import DDADModel
from monai_ddad.networks.calibration import flagged

COUNTS = (2, 5, 10, 20, 30, 40, 60)
POOL = 100  # unlabelled images, three in five of them abnormal
TEST = 100  # images of each kind
ALPHA = 0.05
SETTINGS: dict[str, Any] = {"preset": "pixels", "members": 2, "refine": "none", "width": 8, "hidden_size": 512}
SETTINGS |= {"batch_size": 16, "learning_rate": 0.001}
SHOWN = ("rec", "inter", "ratio")  # that need nothing but the ensembles
FILE = "found.json"


def draw(data: Path, normals: int, seed: int) -> dict[str, Any]:
    """Return a datalist with so many of a set's known normals; fewer are among more."""
    listed = load_datalist(data, POOL, 0.6)
    known = [item for item in listed["training"] if item["label"] == 0]
    chosen = np.random.default_rng(seed).permutation(len(known))[:normals]
    pool = [item for item in listed["training"] if item["label"] is None]
    test = [[item for item in listed["test"] if item["label"] == label][:TEST] for label in (0, 1)]
    return {"training": [known[i] for i in sorted(chosen)] + pool, "test": test[0] + test[1]}


def train(bundle: Path, data: Path, folder: Path, normals: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and score the test images; return what is found, from the run's file where there is one."""
    file = folder / FILE
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "datalist.json").write_text(json.dumps(draw(data, normals, seed)), encoding="utf-8")
        options: dict[str, Any] = {
            "dataset_dir": str(folder / "datalist.json"),
            "output_dir": str(folder),
            "unlabeled_size": None,
        }
        options |= {"phases": ["ndm", "udm", "refine"], "bundle_root": str(bundle), "seed": seed}
        config = str(bundle / "configs" / "train.json")
        workflow = ConfigWorkflow(config, logging_file=False, **(SETTINGS | options | settings))
        workflow.initialize()
        workflow.run()
        network, test = (workflow.parser.get_parsed_content(name) for name in ("network_def", "dataset"))
        write_json(look(network, test), file)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@torch.no_grad()
def look(network: DDADModel, test: ResidentDataset) -> dict[str, Any]:
    """Score test images; return what a model finds and what it says of itself."""
    scores = torch.cat([network.decide(normalise(batch)).scores for batch in test.images.split(64)])
    labels = np.array(test.labels)
    p_values = network.calibration.images.p_values(scores)[:, network.score_names.index(network.score)].numpy()
    values = dict(zip(network.score_names, scores.numpy().T))
    flags = flagged(p_values, ALPHA) if len(network.calibration.images) else None
    return {
        "score": network.score,
        "auroc": {name: float(auroc(values[name], labels)) for name in values},
        "interval": list(bootstrap_interval(auroc, values[network.score], labels, 1000)),
        "normals": network.calibration.images.groups,
        "flagged": None if flags is None else [int(flags[labels == label].sum()) for label in (0, 1)],
        "said": getattr(network, "notes", []),
    }


def lay_out(found: dict[str, Any], before: dict[str, Any] | None, first: list[str]) -> list[str]:
    """Return a row of the table."""
    flags = "none" if found["flagged"] is None else " + ".join(map(str, found["flagged"]))
    earlier = "" if before is None else f"`{before['score']}` {before['auroc'][before['score']]:.3f}"
    low, high = found["interval"]
    return [
        *first,
        str(found["normals"]),
        f"`{found['score']}` {found['auroc'][found['score']]:.3f} [{low:.3f}, {high:.3f}]",
        *(f"{found['auroc'][name]:.3f}" for name in SHOWN),
        flags,
        earlier,
        " ".join(found["said"]) or "nothing",
    ]


def main() -> None:
    """Train what is not trained, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs=2, type=Path, action="append", required=True, metavar=("BUNDLE", "DATA"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--before", type=Path, help="folder of such runs by another version")
    parser.add_argument("--normals", type=int, nargs="+", default=COUNTS, help="known normals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="put the table into docs/decisions.md")
    options = parser.parse_args()
    settings = {"epochs": options.epochs, "val_interval": options.epochs, "checkpoint_interval": options.epochs}
    rows = []
    for bundle, data in options.set:
        for seed in options.seeds:
            for normals in options.normals:
                name = f"{bundle.name}_{normals}_{seed}"
                found = train(bundle, data, options.output / name, normals, seed, settings)
                file = options.before / name / FILE if options.before else None
                before = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else None
                seeds = [str(seed)] if len(options.seeds) > 1 else []
                rows.append(lay_out(found, before, [f"`{bundle.name}`", *seeds, str(normals)]))
    head = ["bundle", *(["seed"] if len(options.seeds) > 1 else []), "known normals", "of them set aside", "decides"]
    head += [*(f"`{name}`" for name in SHOWN), "flagged", "before", "what is said"]
    about = f"{POOL} unlabelled images, {TEST} + {TEST} test images, {options.epochs} epochs; {machine()}.\n"
    publish(f"{format_table(head, rows)}\n{about}", "decisions.md", "few normals", options.write)


if __name__ == "__main__":
    main()
