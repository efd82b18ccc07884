"""FeatureNet: the dual-distribution discrepancy in the features of a frozen encoder."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks.ddad import Discrepancies
from monai_ddad.networks.encoder import Encoder
from monai_ddad.networks.feature_scores import FeatureScores
from monai_ddad.networks.gaussian import Gaussian, Moments
from monai_ddad.networks.scores import field_of_view
from monai_ddad.networks.settings import FeatureSettings

__all__ = ["FeatureNet"]

STRIDES = (8, 16, 32)


class FeatureNet(nn.Module):
    """Normative and unknown distribution of the features of an image's cells, each a Gaussian.

    The NDM is fitted to the cells of known normal images, the UDM to those of known normal and unlabelled images. In
    place of the paper's error of reconstruction stands a cell's squared distance of Mahalanobis (q).

    Args:
        weights, seed: of the encoder, see :class:`Encoder`.
        **settings: of :class:`FeatureSettings` by name.

    Attributes:
        map_names: ``inter``, q of the NDM less q of the UDM, which is twice the log-likelihood ratio up to a constant;
            ``rec``, q of the NDM; ``ratio``, the logarithm of one over the other.

    Raises:
        ImportError, CheckpointError, ValueError: see :class:`Encoder` and :class:`FeatureSettings`.

    Source: the principle is that of MedIA 2023, section 3.2 and 3.3 (what the NDM reconstructs worse than the UDM); the
    features and the Gaussians are not of the paper.

    Example:
        >>> net = FeatureNet(seed=0, image_size=64)
        >>> maps, features = net(torch.zeros(2, 1, 64, 64))
        >>> maps.shape, features.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 3296]))
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, seed: int | None = None, **settings: Any) -> None:
        super().__init__()
        chosen = self.settings = FeatureSettings(**settings)
        if weights is None and chosen.encoder_digest.startswith("random"):
            seed = int(chosen.encoder_digest.split()[-1])
        self.encoder = Encoder(chosen.encoder, weights, seed, STRIDES, chosen.encoder_digest)
        self._check_shapes()
        self.settings = chosen.of(self.encoder.digest)
        self.map_names: list[str] = chosen.map_names
        self.in_channels = chosen.in_channels
        self.image_size = chosen.image_size
        self.size = sum(self.encoder.channels[:2])
        self.ndm = Gaussian(self.size)
        self.udm = Gaussian(self.size)
        self.masked = chosen.masked
        self.fitted = False
        self.asr = None

    def _check_shapes(self) -> None:
        """Refuse an encoder whose features are no maps of the strides that it names."""
        settings, side = self.settings, self.settings.image_size
        expected = [
            (1, number, side // stride, side // stride) for number, stride in zip(self.encoder.channels, STRIDES)
        ]
        try:
            with torch.no_grad():
                found = [tuple(part.shape) for part in self.encoder(torch.zeros(1, settings.in_channels, side, side))]
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"{settings.encoder} takes no images of {side} x {side} pixels: {error}") from None
        if found != expected:
            raise ValueError(f"{settings.encoder} gives features of shapes {found}, expected were {expected}.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def loaded(self) -> bool:
        """Whether the distributions were fitted or loaded."""
        return self.fitted

    def mark_loaded(self) -> None:
        """Note that the distributions were fitted or loaded."""
        self.fitted = True

    def without_refinement(self) -> FeatureNet:
        """Return the network itself, which has no refinement."""
        return self

    def make_head(self) -> FeatureScores:
        """Return what makes scores of the features."""
        return FeatureScores(self.size, (self.image_size // STRIDES[1]) ** 2, self.encoder.channels)

    def field(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return which pixels of (B, C, H, W) images count: (B, 1, H, W) of 0 and 1; None if all do."""
        return field_of_view(image) if self.masked else None

    def cells(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the features of images.

        Args:
            image: (B, C, H, W) float in [-1, 1].

        Returns:
            fine: (B, H / 8, W / 8, F), for maps.
            coarse: (B, H * W / 256, F), each the mean of its surroundings, for scores.
            pooled: (B, P), means and deviations of the two coarser strides over the image.
        """
        eighth, sixteenth, last = self.encoder(image)
        up = F.interpolate(sixteenth, size=eighth.shape[-2:], mode="bilinear")
        fine = torch.cat([eighth, up], dim=1).permute(0, 2, 3, 1)
        smooth = F.avg_pool2d(F.avg_pool2d(eighth, 3, 1, 1, count_include_pad=False), 2)
        around = F.avg_pool2d(sixteenth, 3, 1, 1, count_include_pad=False)
        coarse = torch.cat([smooth, around], dim=1).flatten(2).transpose(1, 2)
        parts = [part(values.flatten(2)) for values in (sixteenth, last) for part in (_mean, _deviation)]
        return fine, coarse, torch.cat(parts, dim=1)

    def forward(self, image: torch.Tensor) -> Discrepancies:
        """Compute the maps, and what scores are made of.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            maps: (B, 3, H, W), divided by the number of features; ``inter`` and ``ratio`` may be negative.
            features: (B, G * F + P), see :class:`FeatureScores`.
        """
        fine, coarse, pooled = self.cells(image)
        normal, unknown = (gaussian(fine) / self.size for gaussian in (self.ndm, self.udm))
        ratio = (normal + 1e-6).log() - (unknown + 1e-6).log()
        maps = torch.stack([normal - unknown, normal, ratio], dim=1)
        maps = F.interpolate(maps, size=image.shape[-2:], mode="bilinear")
        field = self.field(image)
        if field is not None:
            maps = maps * field
        return Discrepancies(maps, torch.cat([coarse.flatten(1), pooled], dim=1))

    @torch.no_grad()
    def fit(self, known: Moments, pool: Moments) -> None:
        """Take the distributions.

        Args:
            known: moments of the fine cells of the known normals.
            pool: of the unlabelled images.
        """
        scale = (known.covariance.diagonal().clamp(min=0).sqrt() + 1e-6).float()
        self.ndm.fit(known, scale)
        self.udm.fit(known + pool, scale)


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(dim=2)


def _deviation(values: torch.Tensor) -> torch.Tensor:
    return values.std(dim=2, correction=0)  # of a single cell, too
