"""Simple scores without a neural network, the honesty check of every figure beside them.

Where the brightness, a histogram or a closed form on pixels separates the classes, a network that does so too shows
little.
"""

from __future__ import annotations

import numpy as np
import torch
from measured import Method, Score, Settings
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from monai_ddad.data import normalise
from monai_ddad.networks.distributions import Discriminant, Reference

__all__ = ["CONTROLS"]

BINS = 16  # of a histogram
COMPONENTS = 16  # of a PCA, as many as a latent code has numbers
SIDE = 16  # of the square that the discriminant sees, pixels
CELLS = 8  # along a side
FAINT = 1e-5


def brightness(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Mean of all pixels."""
    return lambda images: normalise(images).mean(dim=(1, 2, 3)).numpy()


def histogram(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Distance of the grey levels' log shares to those of known normals."""

    def describe(images: torch.Tensor) -> torch.Tensor:
        shares = [torch.histc(image, BINS, -1, 1) / image.numel() for image in normalise(images)]
        return (torch.stack(shares) + 1e-3).log()

    reference = _reference(describe(known))
    return lambda images: reference(describe(images)).numpy()


def pca(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Reconstruction error by the principal components of known normals."""
    return _pca_errors(known)


def pca_ratio(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Logarithm of that error over the one by the components of known normals and unlabelled images."""
    normal, all_images = _pca_errors(known), _pca_errors(torch.cat([known, pool]))
    return lambda images: np.log(normal(images)) - np.log(all_images(images))


def nearest(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Euclidean distance of the pixels to the nearest known normal."""
    neighbours = NearestNeighbors(n_neighbors=1).fit(_pixels(known))
    return lambda images: neighbours.kneighbors(_pixels(images))[0][:, 0]


def detail(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Distance of the energy of fine detail in 8 x 8 cells to that of known normals."""

    def describe(images: torch.Tensor) -> torch.Tensor:
        values = normalise(images)
        fine = (values - F.avg_pool2d(F.pad(values, [2, 2, 2, 2], mode="replicate"), 5, stride=1)).square()
        return (F.adaptive_avg_pool2d(fine.mean(dim=1, keepdim=True), CELLS).flatten(1) + FAINT).log()

    reference = _reference(describe(known))
    return lambda images: reference(describe(images)).numpy()


def pixel_discriminant(known: torch.Tensor, pool: torch.Tensor, settings: Settings) -> Score:
    """Fisher's discriminant between known normals and unlabelled images on 16 x 16 pixels."""

    def shrink(images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(normalise(images), SIDE).flatten(1)

    normals = shrink(known)
    discriminant = Discriminant(normals.shape[1])
    discriminant.fit(normals, shrink(pool))
    return lambda images: discriminant(shrink(images)).numpy()


CONTROLS = {
    "brightness": Method(brightness),
    "histogram": Method(histogram),
    "PCA": Method(pca),
    "PCA ratio": Method(pca_ratio),
    "nearest neighbour": Method(nearest),
    "fine detail": Method(detail),
    "pixel discriminant": Method(pixel_discriminant),
}


def _pixels(images: torch.Tensor) -> np.ndarray:
    return normalise(images).flatten(1).numpy()


def _reference(known: torch.Tensor) -> Reference:
    reference = Reference(known.shape[1])
    reference.fit(known)
    return reference


def _pca_errors(training: torch.Tensor) -> Score:
    model = PCA(COMPONENTS, random_state=0).fit(_pixels(training))

    def errors(images: torch.Tensor) -> np.ndarray:
        pixels = _pixels(images)
        return ((pixels - model.inverse_transform(model.transform(pixels))) ** 2).mean(axis=1)

    return errors
