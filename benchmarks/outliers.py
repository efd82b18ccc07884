"""Detectors of PyOD on the principal components of the pixels of known normals."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import torch
from measured import Method, Score, Settings
from sklearn.decomposition import PCA

from monai_ddad.data import normalise

__all__ = ["OUTLIERS"]

COMPONENTS = 16  # as many as a latent code has numbers
DETECTORS = {"ECOD": "ecod", "IForest": "iforest", "KNN": "knn", "LOF": "lof"}  # class and module


def fit(known: torch.Tensor, pool: torch.Tensor, settings: Settings, *, detector: str) -> Score:
    """Fit a detector with PyOD's defaults."""
    make = getattr(importlib.import_module(f"pyod.models.{DETECTORS[detector]}"), detector)
    pixels = normalise(known).flatten(1).numpy()
    components = PCA(min(COMPONENTS, len(pixels)), random_state=0).fit(pixels)
    model = make(random_state=settings.seed) if detector == "IForest" else make()
    model.fit(components.transform(pixels))

    def score(images: torch.Tensor) -> np.ndarray:
        return model.decision_function(components.transform(normalise(images).flatten(1).numpy()))

    return score


OUTLIERS = {
    f"PyOD {detector}": Method(partial(fit, detector=detector), f"pyod.models.{module}")
    for detector, module in DETECTORS.items()
}
