"""The trainers that fit a network's kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.handlers import ValidationHandler

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import DDADNet, FeatureNet
from monai_ddad.training.checkpoint import ResumeCheckpoint
from monai_ddad.training.ensemble_trainer import EnsembleTrainer
from monai_ddad.training.feature_refine import FeatureRefineTrainer
from monai_ddad.training.feature_trainer import FeatureTrainer
from monai_ddad.training.members import MakeOptimizer
from monai_ddad.training.refine_trainer import RefineTrainer
from monai_ddad.transforms.synthetic import RandBlendPatch

__all__ = ["make_refine_trainer", "make_trainer"]

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


def make_refine_trainer(
    device: str | torch.device,
    max_epochs: int,
    network: DDADNet | FeatureNet,
    dataset: ResidentDataset,
    ensembles: EnsembleTrainer | FeatureTrainer,
    optimizer: MakeOptimizer,
    anomaly: RandBlendPatch | None = None,
    precision: str = "float32",
    **settings: Any,
) -> RefineTrainer | FeatureRefineTrainer:
    """Return what trains the refinement of a network.

    Args:
        device, max_epochs, dataset, optimizer: see :class:`RefineTrainer`.
        network: of autoencoders, or of features.
        ensembles: what trains its distributions.
        anomaly, precision: of :class:`RefineTrainer`, without effect on features.
        **settings: further ones of either.

    Raises:
        DataError, ValueError: see :class:`RefineTrainer` and :class:`FeatureRefineTrainer`.
    """
    if isinstance(network, FeatureNet):
        assert isinstance(ensembles, FeatureTrainer)
        return FeatureRefineTrainer(device, max_epochs, network, ensembles, optimizer, **settings)
    return RefineTrainer(
        device, max_epochs, network, dataset, optimizer, anomaly=anomaly, precision=precision, **settings
    )
