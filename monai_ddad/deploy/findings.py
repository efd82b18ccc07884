"""A bundle as an application has it, and what it finds of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import monai_ddad
from monai_ddad.bundle import weights_file
from monai_ddad.decision.finding import Result, Unreadable
from monai_ddad.decision.heat import HeatMap
from monai_ddad.deploy.studies import ScoredImage, Unusable
from monai_ddad.io.files import file_hash
from monai_ddad.machine import keep_freed_memory
from monai_ddad.serving.predictor import Predictor

__all__ = ["EYE", "ImageFinding", "Model", "find_bundle"]

EYE = "EYE"  # body part of a bundle whose images name none


@dataclass(frozen=True)
class ImageFinding:
    """What is found of an image.

    Attributes:
        image: the film, photograph or volume.
        result: scores and decision.
        heat: the result's map on the image's grid.
        picture_percentiles: of the shape of ``heat.picture_values``, the share of normal pixels that lie lower, in
            [0, 100].
        region: bool of the shape of ``heat.values``, where the map lies above the chosen percentile.
    """

    image: ScoredImage
    result: Result
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
        self.modalities = self.predictor.modalities
        untrained = json.loads((folder / "configs/inference.json").read_text(encoding="utf-8"))["untrained"]
        self.body_part = (untrained["body_parts"] or (EYE,))[0]  # of the bundle, whatever a training took

    def find(self, images: Sequence[ScoredImage]) -> Iterator[ImageFinding | Unusable]:
        """Score images and put their maps on their grids, a few images at a time, in their order."""
        for image, found in zip(images, self.predictor.find([image.source for image in images])):
            if isinstance(found, Unreadable):
                yield Unusable(image.positions, found.reason)
                continue
            heat = found.heat_map()
            percentiles = found.percentiles(heat.values)
            picture = percentiles if heat.affine is None else found.percentiles(heat.picture_values)
            yield ImageFinding(image, found.result, heat, picture, percentiles > self.percentile)


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
