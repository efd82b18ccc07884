"""The trainer that fits a network's kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.handlers import ValidationHandler

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import DDADNet, FeatureNet
from monai_ddad.training.checkpoint import ResumeCheckpoint
from monai_ddad.training.ensemble_trainer import EnsembleTrainer
from monai_ddad.training.feature_trainer import FeatureTrainer

__all__ = ["make_trainer"]

OF_EPOCHS = (ResumeCheckpoint, ValidationHandler)  # have nothing to do in a single pass


def make_trainer(
    device: str | torch.device,
    max_epochs: int,
    network: DDADNet | FeatureNet,
    dataset: ResidentDataset,
    modules: Sequence[str],
    train_handlers: Sequence[Any] = (),
    folder: str | None = None,
    preparation: Mapping[str, Any] | None = None,
    add: bool = False,
    **settings: Any,
) -> EnsembleTrainer | FeatureTrainer:
    """Return what trains the two distributions of a network.

    Args:
        device, max_epochs, dataset, modules, train_handlers: see :class:`EnsembleTrainer`.
        network: of autoencoders, or of features, for which there is one pass over the images.
        folder, preparation, add: of stored features, see :class:`FeatureTrainer`.
        **settings: further ones of :class:`EnsembleTrainer`, without effect on features.

    Raises:
        DataError, ValueError: see :class:`EnsembleTrainer` and :class:`FeatureTrainer`.
    """
    if isinstance(network, FeatureNet):
        handlers = [handler for handler in train_handlers if not isinstance(handler, OF_EPOCHS)]
        return FeatureTrainer(
            device, network, dataset, folder, preparation, add, train=bool(modules), train_handlers=handlers
        )
    if add:
        raise ValueError("add has no effect on ensembles, which are trained on all images: leave it out.")
    return EnsembleTrainer(
        device, max_epochs, network, dataset, modules=modules, train_handlers=train_handlers, **settings
    )
