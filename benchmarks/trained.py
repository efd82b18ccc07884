"""A trained model of DDAD (dual-distribution discrepancy) as a method beside the others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from measured import Method, Score, Settings

from monai_ddad.data import normalise
from monai_ddad.serving.predictor import Predictor

__all__ = ["trained"]


def trained(bundle: Path, models: Path) -> Method:
    """Return a method that loads a model instead of training one, and scores by what decides."""
    return Method(partial(_load, bundle=bundle, models=models))


def _load(known: torch.Tensor, pool: torch.Tensor, settings: Settings, *, bundle: Path, models: Path) -> Score:
    predictor = Predictor(bundle, models, torch.device("cpu"))
    channel = predictor.network.score_names.index(predictor.network.score)
    return lambda images: predictor.runtime.decide(normalise(images))[1][:, channel].numpy()
