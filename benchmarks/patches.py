"""PaDiM and PatchCore of anomalib: on a ResNet-18 with random weights or a user's own, and on the features' encoder."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from measured import Method, Score, Settings
from torch import nn

from monai_ddad.io.checkpoints import load_file
from monai_ddad.networks.encoder import DEVIATION, ENCODER, MEAN, fill_packaged
from monai_ddad.seeding import derive_seed

__all__ = ["PATCHES", "set_weights"]

BACKBONE = "resnet18"
STRIDES = ["blocks.2", "blocks.4"]  # of the features' encoder, 8 and 16, as DDAD takes them
LAYERS = {"Padim": ["layer1", "layer2", "layer3"], "Patchcore": ["layer2", "layer3"]}
KEPT, MOST = 0.01, 1500  # of PatchCore's patches, the smallest share of its paper, and how many at most
STREAM = 1001  # of seeds
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, which a ResNet's weights expect
MODULE = "anomalib.models.image.{}.torch_model"


def padim(known: torch.Tensor, pool: torch.Tensor, settings: Settings, encoder: bool = False) -> Score:
    """Fit a Gaussian of features at each place; the score is the largest distance."""
    model = _embedded("Padim", known, settings, encoder)
    model.fit()
    return _scorer(model, encoder)


def patchcore(known: torch.Tensor, pool: torch.Tensor, settings: Settings, encoder: bool = False) -> Score:
    """Keep features of patches; the score is the largest distance to the nearest, weighted by its neighbours."""
    model = _embedded("Patchcore", known, settings, encoder)
    patches = sum(len(part) for part in model.embedding_store)
    model.subsample_embedding(min(KEPT, MOST / patches))
    return _scorer(model, encoder)


def set_weights(backbone: nn.Module, file: str | None) -> None:
    """Set the weights of a backbone.

    Random ones get ones for the last scale of each residual block, which timm sets to zero for training, where it
    would leave the blocks without effect.

    Args:
        backbone: part of a ResNet, changed in place.
        file: its state dict, which may hold further layers; None keeps random weights.

    Raises:
        ValueError: the file lacks weights, or has others of another shape.
        CheckpointError: the file is missing or damaged.
    """
    if file is None:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        return
    given, expected = load_file(file), backbone.state_dict()
    wrong = [
        name
        for name, value in expected.items()
        if not name.endswith("num_batches_tracked") and (name not in given or given[name].shape != value.shape)
    ]
    if wrong:
        raise ValueError(
            f"the backbone's file lacks {len(wrong)} of the {len(expected)} tensors of a {BACKBONE}, or has "
            f"them in another shape, such as {wrong[0]}: give the state dict of a {BACKBONE} of torchvision or timm."
        )
    backbone.load_state_dict({name: given.get(name, value) for name, value in expected.items()})


def _embedded(name: str, known: torch.Tensor, settings: Settings, encoder: bool) -> Any:
    """Return a model that has seen the known normals, of the features' encoder or of the settings' backbone."""
    module = importlib.import_module(MODULE.format(name.lower()))
    seed = derive_seed(settings.seed, STREAM)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # of the projection by which PatchCore chooses
    chosen: dict[str, Any] = (
        {"backbone": ENCODER, "layers": STRIDES} if encoder else {"backbone": BACKBONE, "layers": LAYERS[name]}
    )
    if encoder and name == "Padim":
        chosen["n_features"] = 100  # as of a ResNet-18
    model = getattr(module, f"{name}Model")(pre_trained=False, **chosen)
    if encoder:
        fill_packaged(model.feature_extractor.feature_extractor)
    else:
        set_weights(model.feature_extractor.feature_extractor, settings.backbone_weights)
    model.train()
    for images in known.split(64):
        model(_colours(images, encoder))
    return model


def _scorer(model: nn.Module, encoder: bool) -> Score:
    model.eval()

    @torch.inference_mode()
    def score(images: torch.Tensor) -> np.ndarray:
        return model(_colours(images, encoder)).pred_score.flatten().numpy()

    return score


def _colours(images: torch.Tensor, encoder: bool) -> torch.Tensor:
    """Turn (N, C, H, W) uint8 images into (N, 3, H, W) ones as the network was trained with."""
    chosen = (MEAN, DEVIATION) if encoder else IMAGENET
    mean, deviation = (torch.tensor(values)[:, None, None] for values in chosen)
    return (images.expand(-1, 3, -1, -1) / 255 - mean) / deviation


PATCHES = {
    "anomalib PaDiM": Method(padim, MODULE.format("padim")),
    "anomalib PatchCore": Method(patchcore, MODULE.format("patchcore")),
    "anomalib PaDiM, same encoder": Method(functools.partial(padim, encoder=True), MODULE.format("padim")),
    "anomalib PatchCore, same encoder": Method(functools.partial(patchcore, encoder=True), MODULE.format("patchcore")),
}
