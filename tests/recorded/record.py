"""What small models of the three bundles find, recorded, so that a change of the code shows whether it changes any.

``python -m tests.recorded.record`` trains the models anew on the real images and writes ``<bundle>.npz``: the weights,
and what they find of 50 images. No image is kept.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from monai_ddad.io.checkpoints import load_file, save_file
from monai_ddad.serving.predictor import Predictor
from tests.conftest import REAL_DATA
from tests.small_models import BUNDLES, run

SETS = {"ddad_brain": "brain_mri", "ddad_cxr": "chest_xray", "ddad_fundus": "fundus"}
BESIDE = {
    "ddad_brain": ["dicom/mr_brain_series"],
    "ddad_cxr": ["dicom/chest_cr"],
    "ddad_fundus": [],
}
SMALL = {"preset": "pixels", "members": 2, "image_size": 32, "width": 2, "latent_size": 4, "hidden_size": 8}
SMALL |= {
    "epochs": 12,
    "refine_epochs": 1,
    "learning_rate": 0.002,
    "unlabeled_size": 100,
    "phases": ["ndm", "udm", "refine"],
}
SMALL |= {"calibration_share": 0.3, "precision": "float32", "device": torch.device("cpu"), "num_workers": 1}
TRAINED_ON, FOUND_OF = 90, 25  # known normals; test images of each class
PIXELS = slice(1, None, 4)  # of each row and column of a map, those that are kept


def train(bundle: str, folder: Path) -> Path:
    """Train a small model; return its folder."""
    images = REAL_DATA / SETS[bundle]
    split = json.loads((images / "data.json").read_text())
    (folder / "data").mkdir()
    (folder / "data" / "images").symlink_to(images / "images")
    split["train"]["0"] = split["train"]["0"][:TRAINED_ON]
    (folder / "data" / "data.json").write_text(json.dumps(split))
    run(bundle, "train", dataset_dir=str(folder / "data"), output_dir=str(folder), **SMALL)
    return folder / "models"


def files(bundle: str) -> list[Path]:
    """Return the images: of the test split as many normal as abnormal ones."""
    images = REAL_DATA / SETS[bundle]
    test = json.loads((images / "data.json").read_text())["test"]
    normal = test["0"][:FOUND_OF]
    return [images / "images" / name for name in (*normal, *test["1"][: 2 * FOUND_OF - len(normal)])]


def found_of_files(bundle: str, models: Path, images: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return what a program that uses the model finds."""
    predictor = Predictor(BUNDLES / bundle, models, torch.device("cpu"))
    findings = list(predictor.find(images))
    results = [found.result for found in findings]
    maps = torch.cat([found.maps for found in findings])
    shown = [findings[place].heat_map().values[::37, ::41].ravel()[:50] for place in (0, 30)]
    return {
        "scores": np.array([list(result.scores.values()) for result in results]),
        "score_names": np.array(list(results[0].scores)),
        "map_names": np.array(predictor.network.map_names),
        "decides": np.array([results[0].score, results[0].map]),
        "p_value": np.array([result.p_value for result in results]),
        "percentile": np.array([result.percentile for result in results]),
        "flagged": np.array([result.flagged for result in results]),
        "out_of_protocol": np.array([result.out_of_protocol for result in results]),
        "maps": maps.numpy()[:, :, PIXELS, PIXELS],
        "shown": np.concatenate(shown),
    }


def found_in_folder(bundle: str, models: Path, folder: Path, images: Path) -> dict[str, np.ndarray]:
    """Return what ``inference.json`` writes of a folder."""
    run(bundle, "inference", dataset_dir=str(images), models_dir=str(models), output_dir=str(folder))
    tables = {}
    for table in sorted((folder / "eval" / "inference").glob("*.csv")):
        with table.open() as file:
            rows = list(csv.reader(file))
        tables[table.stem] = np.array(rows)
    return tables


def found(bundle: str, models: Path, folder: Path) -> dict[str, np.ndarray]:
    """Return all that is recorded of a model."""
    everything = found_of_files(bundle, models, files(bundle))
    for place in BESIDE[bundle]:
        for name, table in found_in_folder(bundle, models, folder, REAL_DATA / place).items():
            everything[f"{place}/{name}"] = table
    return everything


def coarse(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round the weights of ASR-Net, which are most of all, to what half the bytes can hold."""
    return {
        name: value.half().float() if name.startswith("discrepancy.asr.") and value.is_floating_point() else value
        for name, value in weights.items()
    }


def write(bundle: str) -> None:
    """Make the record of a bundle anew."""
    with tempfile.TemporaryDirectory() as scratch:
        models = train(bundle, Path(scratch))
        weights = coarse(load_file(models / "model.pt"))
        save_file(weights, models / "model.pt")
        content = found(bundle, models, Path(scratch) / "found")
    for name, value in weights.items():
        half = name.startswith("discrepancy.asr.") and value.is_floating_point()
        content[f"weights/{name}"] = value.half().numpy() if half else value.numpy()
    np.savez_compressed(Path(__file__).parent / f"{bundle}.npz", **content)


def recorded(bundle: str, folder: Path) -> dict[str, np.ndarray]:
    """Write the model of a record to a folder; return the rest of the record."""
    with np.load(Path(__file__).parent / f"{bundle}.npz") as file:
        content = dict(file)
    weights = {}
    for name in [name for name in content if name.startswith("weights/")]:
        value = torch.from_numpy(content.pop(name))
        weights[name.removeprefix("weights/")] = value.float() if value.dtype == torch.float16 else value
    save_file(weights, folder / "model.pt")
    return content


if __name__ == "__main__":
    for bundle in SETS:
        write(bundle)
