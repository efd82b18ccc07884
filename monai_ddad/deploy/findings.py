"""What a model finds of images: the one step between what comes in and what goes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import monai_ddad
from monai_ddad.bundle import weights_file
from monai_ddad.data.resident import ResidentDataset
from monai_ddad.deploy.studies import ScoredImage, Unusable
from monai_ddad.files import file_hash
from monai_ddad.inference import Predictor, Result
from monai_ddad.machine import keep_freed_memory
from monai_ddad.outputs import HeatMap
from monai_ddad.transforms import ImageReadError

__all__ = ["EYE", "Finding", "Model", "Scored", "find_bundle"]

BATCH = 64  # images that are read and scored at a time
EYE = "EYE"  # body part of a bundle whose images name none


@dataclass(frozen=True)
class Scored:
    """An image that was scored.

    Attributes:
        image: the film, photograph or volume.
        result: scores and decision.
        prepared: SHA-256 of the pixels that were scored.
    """

    image: ScoredImage
    result: Result
    prepared: str


@dataclass(frozen=True)
class Finding(Scored):
    """A scored image with its map.

    Attributes:
        heat: the result's map on the image's grid.
        picture_percentiles: of the shape of ``heat.picture_values``, the share of normal pixels that lie lower, in
            [0, 100].
        region: bool of the shape of ``heat.values``, where the map lies above the chosen percentile.
    """

    heat: HeatMap
    picture_percentiles: np.ndarray
    region: np.ndarray


class Model:
    """A trained bundle, loaded once; any number of threads may call it.

    Args:
        bundle: folder of the bundle, or one that holds nothing but it.
        models_dir: folder of ``model.pt`` (or ``model.ts``); None takes the bundle's ``models``.
        percentile: of normal pixels, above which a pixel belongs to the region, in [0, 100).
        settings: further settings of the bundle's ``inference.json``, such as ``alpha``, ``score``, ``precision`` and
            ``runtime``.

    Raises:
        CheckpointError: nothing is trained there, the model is of another bundle, or a file is damaged.
        ValueError: the percentile is outside its range, there is no bundle, or the runtime cannot be used.
        ImportError: a package that the runtime needs is not installed.
    """

    def __init__(self, bundle: Path, models_dir: Path | None = None, percentile: float = 99.0, **settings: Any) -> None:
        if not 0 <= percentile < 100:
            raise ValueError(f"percentile must be in [0, 100), got {percentile:g}.")
        keep_freed_memory()  # each film takes and frees the same large pieces
        folder = find_bundle(bundle)
        models = models_dir or folder / "models"
        metadata = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
        self.predictor = Predictor(folder, models, **settings)
        self.percentile = percentile
        self.alpha = self.predictor.alpha
        self.name = folder.name
        self.version = f"{metadata['version']}+{file_hash(weights_file(models))[:8]}"
        self.software = monai_ddad.__version__
        self.modalities = self.predictor.reading.read.modalities  # None where all are taken
        untrained = json.loads((folder / "configs/inference.json").read_text(encoding="utf-8"))["untrained"]
        self.body_part = (untrained["body_parts"] or (EYE,))[0]  # of the bundle, whatever a training took

    def score(self, images: Sequence[ScoredImage]) -> tuple[list[Scored], list[Unusable]]:
        """Score images in batches.

        Returns:
            what is found, in their order, and the images that cannot be read.
        """
        scored: list[Scored] = []
        unusable: list[Unusable] = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            dataset = self.predictor.read([image.source for image in part])
            unusable += [Unusable(part[place].positions, reason) for place, reason in dataset.errors.items()]
            results = self.predictor.predict(dataset)
            scored += [Scored(part[place], result, _digest(dataset, place)) for place, result in results.items()]
        return scored, unusable

    def locate(self, scored: Scored) -> Finding:
        """Compute the map of a scored image, which is read again: maps of many films would fill the memory.

        Raises:
            ImageReadError: it cannot be read any more, or has changed.
        """
        dataset = self.predictor.read([scored.image.source], num_workers=1)
        if dataset.errors:
            raise ImageReadError(dataset.errors[0])
        if _digest(dataset, 0) != scored.prepared:
            raise ImageReadError("the file has changed since it was scored")
        heat = self.predictor.heat_map(dataset, 0)
        percentiles = self.predictor.percentiles(heat.values)
        picture = percentiles if heat.affine is None else self.predictor.percentiles(heat.picture_values)
        return Finding(scored.image, scored.result, scored.prepared, heat, picture, percentiles > self.percentile)


def _digest(dataset: ResidentDataset, position: int) -> str:
    rows = [row for row, place in enumerate(dataset.positions) if place == position]
    return hashlib.sha256(dataset.images[rows].numpy().tobytes()).hexdigest()


def find_bundle(folder: Path) -> Path:
    """Return the bundle: the folder itself, or the one bundle in it, as MONAI Deploy puts models.

    Raises:
        ValueError: there is none, or several.
    """
    config = Path("configs/inference.json")
    found = [path for path in (folder, *sorted(folder.glob("*"))) if (path / config).is_file()]
    if len(found) == 0 or (len(found) > 1 and found[0] != folder):
        raise ValueError(f"the model folder holds {len(found)} bundles, one is expected (with {config}).")
    return found[0]
