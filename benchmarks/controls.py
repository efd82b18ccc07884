"""Simple scores without a neural network, the honesty check of every figure beside them.

Where the brightness, a histogram or a closed form on pixels separates the classes, a network that does so too shows
little.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from monai_ddad.data import normalise
from monai_ddad.distributions import Discriminant, Reference
from monai_ddad.metrics import auroc

__all__ = ["CONTROLS", "score_controls"]

BINS = 16  # of a histogram
COMPONENTS = 16  # of a PCA, as many as a latent code has numbers
SIDE = 16  # of the square that the discriminant sees, pixels
CELLS = 8  # along a side
FAINT = 1e-5


def brightness(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Mean of all pixels."""
    return test.mean(dim=(1, 2, 3)).numpy()


def histogram(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Distance of the grey levels' log shares to those of known normals."""

    def describe(images: torch.Tensor) -> torch.Tensor:
        shares = [torch.histc(image, BINS, -1, 1) / image.numel() for image in images]
        return (torch.stack(shares) + 1e-3).log()

    return _distance(describe(known), describe(test))


def pca(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Reconstruction error by the principal components of known normals."""
    return _pca_errors(known, test)


def pca_ratio(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Logarithm of that error over the one by the components of known normals and unlabelled images."""
    return np.log(_pca_errors(known, test)) - np.log(_pca_errors(torch.cat([known, pool]), test))


def nearest(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Euclidean distance of the pixels to the nearest known normal."""
    found = NearestNeighbors(n_neighbors=1).fit(known.flatten(1)).kneighbors(test.flatten(1))[0]
    return found[:, 0]


def detail(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Distance of the energy of fine detail in 8 x 8 cells to that of known normals."""

    def describe(images: torch.Tensor) -> torch.Tensor:
        fine = (images - F.avg_pool2d(F.pad(images, [2, 2, 2, 2], mode="replicate"), 5, stride=1)).square()
        return (F.adaptive_avg_pool2d(fine.mean(dim=1, keepdim=True), CELLS).flatten(1) + FAINT).log()

    return _distance(describe(known), describe(test))


def pixel_discriminant(known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Fisher's discriminant between known normals and unlabelled images on 16 x 16 pixels."""
    small = [F.adaptive_avg_pool2d(images, SIDE).flatten(1) for images in (known, pool, test)]
    discriminant = Discriminant(small[0].shape[1])
    discriminant.fit(small[0], small[1])
    return discriminant(small[2]).numpy()


CONTROLS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], np.ndarray]] = {
    "brightness": brightness,
    "histogram": histogram,
    "PCA": pca,
    "PCA ratio": pca_ratio,
    "nearest neighbour": nearest,
    "fine detail": detail,
    "pixel discriminant": pixel_discriminant,
}


def score_controls(
    known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Score test images by every control.

    Args:
        known, pool, test: (N, C, H, W) uint8 known normals, unlabelled and test images.
        labels: (N,) of the test images, by which the brightness gets the sign that suits it best: it is the one score
            that looks at them, to its favour.

    Returns:
        (N,) by name.
    """
    prepared = [normalise(images) for images in (known, pool, test)]
    found = {name: control(*prepared).astype(np.float64) for name, control in CONTROLS.items()}
    if auroc(found["brightness"], labels) < 0.5:
        found["brightness"] = -found["brightness"]
    return found


def _distance(known: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    reference = Reference(known.shape[1])
    reference.fit(known)
    return reference(test).numpy()


def _pca_errors(training: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    seen, new = training.flatten(1).numpy(), test.flatten(1).numpy()
    model = PCA(COMPONENTS, random_state=0).fit(seen)
    return ((new - model.inverse_transform(model.transform(new))) ** 2).mean(axis=1)
