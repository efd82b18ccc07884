"""Measure DDAD (dual-distribution discrepancy) on features: pools, false alarms, and the encoder with random weights.

    python benchmarks/feature_figures.py bundles/ddad_brain data/brain_mri --output brain.json

The data set has the structure of the authors' ``data.json``. Its images are prepared and described by the encoder once;
then many small fits are made of the stored features. The second split deals the images of the pool and of the test
anew, as many of each kind to either. Two minutes an encoder, and ten for all fits, on two cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser
from pages import machine
from tqdm import tqdm

from monai_ddad.data import ResidentDataset, audit
from monai_ddad.data.datalist import GROUPS, read_split
from monai_ddad.data.resident import keys_of
from monai_ddad.evaluation.metrics import auroc, bootstrap_interval, flag_rate
from monai_ddad.evaluation.tables import write_json
from monai_ddad.networks import DDADModel, FeatureNet, FeatureScores
from monai_ddad.networks.calibration import p_values
from monai_ddad.networks.plus import FOLDS
from monai_ddad.networks.scores import image_scores
from monai_ddad.training.feature_fit import TrainingFeatures, fit_features
from monai_ddad.training.feature_store import FeatureStore

RATES = (0.0, 0.01, 0.05, 0.2, 0.6)  # of abnormal images in the pool
SIZES = (20, 60, 200)  # of the pool
DRAWS = 3  # of each pool, and of what is set aside
ALPHA = 0.05
ASIDE = 0.1  # of the known normals
SHOWN = ("ddad_plus", "log_ratio", "pu_pooled", "neighbours")
RANDOM = "random weights, seed 0"
LABELS: dict[str, int | None] = dict(zip(GROUPS, (0, None, None, 0, 1)))
DARKER = 0.8  # of the brightness of the known normals

Keys = list[str]


class Study:
    """Stored features of a data set, and fits of some of them.

    Args:
        bundle, data: folders of the bundle for such images and of the data set.
        folder: of the stored features.
        digest: of the encoder's weights, see :class:`~monai_ddad.networks.FeatureSettings`.

    Attributes:
        keys: of the images, by group of :data:`monai_ddad.data.datalist.GROUPS`.
        names: of their files, likewise.
    """

    def __init__(self, bundle: Path, data: Path, folder: Path, digest: str = "") -> None:
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "train.json"))
        parser.update({"preset": "features", "dataset_dir": str(data), "output_dir": str(folder)})
        parser.update({"encoder_digest": digest})
        self.model: DDADModel = parser.get_parsed_content("network_def").eval()
        self.net = cast(FeatureNet, self.model.discrepancy)
        self.store = FeatureStore(folder / "features", self.net)
        self.names = read_split(data / "data.json")
        read = parser.get_parsed_content("train#preprocessing")
        self.images = {
            group: ResidentDataset([{"image": str(data / "images" / name)} for name in names], read)
            for group, names in self.names.items()
        }
        self.keys = {group: self.add(images.images) for group, images in self.images.items()}

    def add(self, images: torch.Tensor) -> Keys:
        """Store the features of images; return their keys."""
        keys = keys_of(images)
        missing = list({key: index for index, key in enumerate(keys) if key not in self.store}.values())
        for start in tqdm(range(0, len(missing), 16), disable=None):
            self.store.add(images[missing[start : start + 16]])
        return keys

    def features(self, known: Keys, pool: Keys) -> TrainingFeatures:
        """Return what a training on such images would have; equal ones are one group."""
        keys = [*known, *pool]
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        labels = [index < len(known) for index in range(len(keys))]
        return TrainingFeatures(self.store, keys, labels, [first[key] for key in keys], [None] * len(keys))

    @torch.no_grad()
    def fit(self, known: Keys, pool: Keys) -> torch.Tensor:
        """Fit the model to images; return the scores of the known normals out of fold, (N, S)."""
        features = self.features(known, pool)
        self.net.dual.fit(*(sums.fine for sums in features.totals))
        return fit_features(self.model, features).scores[: len(known)]

    @torch.no_grad()
    def score(self, keys: Keys) -> torch.Tensor:
        """Return the scores of images by the fitted model, (N, S)."""
        net, head = self.net, self.model.head
        found = torch.zeros(len(keys), len(head.every))
        for places, part in self.store.read(keys):
            fine, coarse = net.cells(part["first"].float(), part["second"].float())
            field = part["field"][:, None].float() if "field" in part else None
            means = image_scores(net.enlarged(net.judge(fine), field), field)
            found[places] = head(means, torch.cat([coarse.flatten(1), part["pooled"]], dim=1))
        return found

    def column(self, name: str) -> int:
        """Return where a score stands."""
        return self.model.head.every.index(name)


def figure(study: Study, scores: torch.Tensor, labels: np.ndarray) -> dict[str, list[float]]:
    """Return AUROC and 95 % interval, by score."""
    found: dict[str, list[float]] = {}
    for name in SHOWN:
        values = scores[:, study.column(name)].numpy()
        found[name] = [float(auroc(values, labels)), *bootstrap_interval(auroc, values, labels, 1000)]
    return found


def deal(study: Study, split: int) -> dict[str, Keys]:
    """Return the keys by group; of a split beyond the first, those of pool and test dealt anew."""
    keys = {group: list(part) for group, part in study.keys.items()}
    for kind in ("normal", "abnormal") if split else ():
        joined = keys[f"unlabeled {kind}"] + keys[f"test {kind}"]
        order = np.random.default_rng(split).permutation(len(joined)).tolist()
        number = len(keys[f"unlabeled {kind}"])
        keys[f"unlabeled {kind}"] = [joined[index] for index in order[:number]]
        keys[f"test {kind}"] = [joined[index] for index in order[number:]]
    return keys


def near_copies(study: Study) -> np.ndarray:
    """Tell which test images of the first split have a near copy in the training."""
    joined = {"training": GROUPS[:3], "test": GROUPS[3:]}
    sets = {}
    for name, groups in joined.items():
        items = [(image, group) for group in groups for image in study.images[group].data]
        labelled = [dict(item, label=LABELS[group]) for item, group in items]
        sets[name] = ResidentDataset(labelled, study.images[groups[0]].transform)
    return np.array(audit(sets["training"], sets["test"], test_required=True).near_copy)


def whole(study: Study, split: int, alone: np.ndarray | None) -> dict[str, Any]:
    """Fit to all images of a split and score its test images, all and those without near copies."""
    keys = deal(study, split)
    out_of_fold = study.fit(keys["train normal"], keys["unlabeled normal"] + keys["unlabeled abnormal"])
    test = keys["test normal"] + keys["test abnormal"]
    labels = np.array([0] * len(keys["test normal"]) + [1] * len(keys["test abnormal"]))
    scores = study.score(test)
    found: dict[str, Any] = {"all": figure(study, scores, labels), "flagged": flags(study, out_of_fold, scores, labels)}
    if alone is not None:
        found["without near copies"] = figure(study, scores[torch.from_numpy(alone)], labels[alone])
    return found


def flags(study: Study, normals: torch.Tensor, scores: torch.Tensor, labels: np.ndarray) -> dict[str, Any]:
    """Return the shares of abnormal and of normal images that ``ddad_plus`` flags at :data:`ALPHA`."""
    column = study.column("ddad_plus")
    calibration = normals[:, column][None]
    found = p_values(scores[:, column, None], calibration, torch.ones_like(calibration))[:, 0].numpy()
    return {kind: list(rate(found[labels == label])) for label, kind in enumerate(("normal", "abnormal"))}


def rate(found: np.ndarray) -> tuple[float, float, float, int]:
    """Return the share of p-values that are flagged, the interval of chance, and how many there are."""
    result = flag_rate(found, ALPHA)
    return result.value, result.low, result.high, len(found)


def calibrations(study: Study, pool: Sequence[str]) -> dict[str, Any]:
    """Compare the ways to calibrate, by what they flag of the test images.

    ``out of fold``: one fit to all, compared with scores of known normals out of their folds; what a training does.
    ``cross-conformal``: each fold's normals are compared with the image as scored by the fit without that fold (Vovk
    2015). ``set aside``: a tenth, at least 30, by which the fit to the others is calibrated; several draws.
    """
    keys, column = study.keys, study.column("ddad_plus")
    known, test = keys["train normal"], keys["test normal"] + keys["test abnormal"]
    labels = np.array([0] * len(keys["test normal"]) + [1] * len(keys["test abnormal"]))
    normals = study.fit(known, list(pool))[:, column]
    own, scores = study.score(known)[:, column], study.score(test)[:, column]
    found: dict[str, Any] = {
        "out of fold": shares(counted(scores, normals), labels),
        "not out of fold": shares(counted(scores, own), labels),
    }
    features = study.features(known, list(pool))
    higher = torch.zeros(len(test))
    for fold in range(FOLDS):
        inside = (features.fold == fold).tolist()
        kept = [key for key, left in zip(known, inside) if not left]
        others = [key for key, left in zip(pool, inside[len(known) :]) if not left]
        study.fit(kept, others)
        left = study.score([key for key, here in zip(known, inside) if here])[:, column]
        higher += (left[None] >= study.score(test)[:, column, None]).sum(dim=1)
    found["cross-conformal"] = shares(((1 + higher) / (1 + len(known))).numpy(), labels)
    draws = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(known))
        number = min(len(known) // 2, max(30, round(ASIDE * len(known))))
        aside, rest = ([known[index] for index in part] for part in (order[:number], order[number:]))
        study.fit(rest, list(pool))
        draws.append(shares(counted(study.score(test)[:, column], study.score(aside)[:, column]), labels))
    found["set aside"] = draws
    return found


def counted(scores: torch.Tensor, normals: torch.Tensor) -> np.ndarray:
    """Return conformal p-values of (N,) scores among (n,) of normals."""
    return p_values(scores[:, None], normals[None], torch.ones(1, len(normals)))[:, 0].numpy()


def shares(found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the shares flagged of normal and of abnormal images."""
    return {kind: rate(found[labels == label]) for label, kind in enumerate(("normal", "abnormal"))}


def pools(study: Study) -> dict[str, Any]:
    """Return AUROCs by what the pool holds, a list over draws."""
    normal, abnormal = study.keys["unlabeled normal"], study.keys["unlabeled abnormal"]

    def fitted(total: int, share: float) -> list[dict[str, float]]:
        number = round(share * total)
        dealt = [draw(normal, total - number, seed) + draw(abnormal, number, seed) for seed in range(DRAWS)]
        return [evaluate_pool(study, pool) for pool in dealt]

    total = min(len(normal), round(len(abnormal) / max(RATES)))  # that holds for all shares, without drawing twice
    found: dict[str, Any] = {f"{total} images, {share:g} abnormal": fitted(total, share) for share in RATES}
    for size in SIZES:
        if 0.4 * size <= len(normal):
            found[f"{size} images, 0.6 abnormal"] = fitted(size, 0.6)
    for kind in ("gl", "me"):  # glioma and meningioma, in names as Te-gl_0001.jpg
        others = [key for key, name in zip(abnormal, study.names["unlabeled abnormal"]) if name[3:5] != kind]
        if any(name[3:5] == kind for name in study.names["test abnormal"]):
            found[f"no abnormal image of type {kind}"] = [evaluate_pool(study, normal + others, kind)]
    darker = [study.add((study.images[group].images * DARKER).to(torch.uint8)) for group in GROUPS[1:3]]
    found["all images, darker"] = [evaluate_pool(study, darker[0] + darker[1])]
    found["normal images, darker"] = [evaluate_pool(study, darker[0])]
    return found


def draw(keys: Keys, number: int, seed: int) -> Keys:
    """Return so many of some keys."""
    order = np.random.default_rng(seed).permutation(len(keys))[:number]
    return [keys[index] for index in sorted(order)]


def evaluate_pool(study: Study, pool: Keys, only: str | None = None) -> dict[str, float]:
    """Fit with a pool and return the AUROCs on the test images, of abnormal ones those of a type."""
    study.fit(study.keys["train normal"], pool)
    wrong = zip(study.keys["test abnormal"], study.names["test abnormal"])
    abnormal = [key for key, name in wrong if only is None or name[3:5] == only]
    scores = study.score(study.keys["test normal"] + abnormal)
    labels = np.array([0] * len(study.keys["test normal"]) + [1] * len(abnormal))
    found = {name: float(auroc(scores[:, study.column(name)].numpy(), labels)) for name in SHOWN}
    return found | {"weight": float(cast(FeatureScores, study.model.head.plus).weight)}


def main() -> None:
    """Measure, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--folder", type=Path, help="of stored features, to go on with; else a temporary one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        study = Study(options.bundle, options.data, folder / "trained")
        alone = ~near_copies(study)
        content: dict[str, Any] = {"bundle": options.bundle.name, "machine": machine(), "alpha": ALPHA}
        content["images"] = {group: len(keys) for group, keys in study.keys.items()} | {"alone": int(alone.sum())}
        pool = study.keys["unlabeled normal"] + study.keys["unlabeled abnormal"]
        steps = {
            "splits": lambda: [whole(study, 0, alone), whole(study, 1, None)],
            "calibration": lambda: calibrations(study, pool),
            "calibration, 20 abnormal images": lambda: calibrations(
                study, draw(study.keys["unlabeled normal"], 380, 0) + draw(study.keys["unlabeled abnormal"], 20, 0)
            ),
            "pools": lambda: pools(study),
        }
        for name, step in steps.items():
            content[name] = step()
            write_json(content, options.output)
            sys.stderr.write(f"{name}\n")
        control = Study(options.bundle, options.data, folder / "random", RANDOM)
        content["random weights"] = [whole(control, 0, alone), whole(control, 1, None)]
        write_json(content, options.output)


if __name__ == "__main__":
    main()
