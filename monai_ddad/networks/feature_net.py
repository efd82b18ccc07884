"""FeatureNet: the dual-distribution discrepancy in the features of a frozen encoder."""

import copy
import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks.ddad import Discrepancies
from monai_ddad.networks.encoder import Encoder
from monai_ddad.networks.feature_scores import FeatureScores
from monai_ddad.networks.gaussian import DualGaussian, Moments
from monai_ddad.networks.refine import CellASRNet
from monai_ddad.networks.scores import field_of_view
from monai_ddad.networks.settings import FeatureSettings

__all__ = ["FeatureNet"]


class FeatureNet(nn.Module):
    """Normative and unknown distribution of the features of an image's cells, each a Gaussian.

    The NDM is fitted to the cells of known normal images, the UDM to those of known normal and unlabelled images. In
    place of the paper's error of reconstruction stands a cell's squared distance of Mahalanobis (q).

    Args:
        weights, seed: of the encoder, see :class:`Encoder`.
        **settings: of :class:`FeatureSettings` by name.

    Attributes:
        map_names: ``inter``, q of the NDM less q of the UDM, which is twice the log-likelihood ratio up to a constant;
            ``rec``, q of the NDM; ``ratio``, the logarithm of one over the other. Before them, if asked for,
            ``r_inter``: ``inter`` refined.
        dual: the two distributions.
        asr: what refines ``inter``; None if nothing does.
        fitted: whether they were fitted or loaded.

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
        digest, side = chosen.encoder_digest, chosen.image_size
        self.encoder = Encoder(chosen.encoder, weights, seed, digest=digest, side=side)
        self.settings = chosen.of(self.encoder.digest)
        self.map_names: list[str] = chosen.map_names
        self.in_channels = chosen.in_channels
        self.image_size = side
        self.grids = self._measure()
        self.size = sum(self.encoder.channels[:2])
        self.dual = DualGaussian(self.size)
        self.masked = chosen.masked
        self.fitted = False
        self.asr = None if chosen.refine == "none" else CellASRNet(self.size)

    def _measure(self) -> list[int]:
        """Return the sides of the three grids of features; refuse an encoder whose features are no such grids."""
        name, side = self.settings.encoder, self.image_size
        try:
            with torch.no_grad():
                found = [tuple(part.shape) for part in self.encoder(torch.zeros(1, self.in_channels, side, side))]
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"{name} takes no images of {side} x {side} pixels: {error}") from None
        grids = [shape[-1] for shape in found]
        expected = [(1, number, grid, grid) for number, grid in zip(self.encoder.channels, grids)]
        if found != expected or grids[0] % grids[1] or grids[1] < grids[2]:
            raise ValueError(f"{name} gives features of shapes {found}, expected were square maps with channels first.")
        return grids

    @property
    @torch.jit.unused
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.in_channels, self.image_size, self.image_size

    @property
    @torch.jit.unused
    def loaded(self) -> bool:
        """Whether the distributions were fitted or loaded."""
        return self.fitted

    @torch.jit.unused
    def mark_loaded(self) -> None:
        """Note that the distributions were fitted or loaded."""
        self.fitted = True

    @torch.jit.unused
    def without_refinement(self) -> "FeatureNet":
        """Return the network itself, whose other maps are what they are without the refined one."""
        return self

    @torch.jit.unused
    def fit(self, known: Moments, pool: Moments) -> None:
        """Fit the distributions to the moments of the cells of known normals and of unlabelled images."""
        self.dual.fit(known, pool)
        if self.asr is not None:
            self.asr.standardise(known)

    @torch.jit.unused
    def with_dual(self, dual: DualGaussian) -> "FeatureNet":
        """Return a copy of the network with other distributions and without an encoder, for stored features."""
        return copy.deepcopy(self, {id(self.encoder): nn.Identity(), id(self.dual): copy.deepcopy(dual)})

    @torch.jit.unused
    def make_head(self) -> FeatureScores:
        """Return what makes scores of the features."""
        return FeatureScores(self.size, self.grids[1] ** 2, self.encoder.channels)

    def field(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return which pixels of (B, C, H, W) images count: (B, 1, H, W) of 0 and 1; None if all do."""
        return field_of_view(image) if self.masked else None

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the features of images.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            first: (B, F1, g, g), of the finest of the ``grids``.
            second: (B, F2, g', g'), of the next.
            pooled: (B, P), means and deviations of the second and the last over the image.
        """
        first, second, last = self.encoder(image)
        return first, second, torch.cat(_moments(second) + _moments(last), dim=1)

    def cells(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Join the features of :meth:`encode` to those of cells, F numbers each.

        Returns:
            fine: (B, g, g, F), for maps.
            coarse: (B, g' * g', F), each the mean of its surroundings, for scores.
        """
        up = F.interpolate(second, size=first.shape[-2:], mode="bilinear")
        fine = torch.cat([first, up], dim=1).permute(0, 2, 3, 1)
        smooth = F.avg_pool2d(first, 3, 1, 1, count_include_pad=False)
        smooth = F.avg_pool2d(smooth, self.grids[0] // self.grids[1])
        around = F.avg_pool2d(second, 3, 1, 1, count_include_pad=False)
        coarse = torch.cat([smooth, around], dim=1).flatten(2).transpose(1, 2)
        return fine, coarse

    def judge(self, fine: torch.Tensor) -> torch.Tensor:
        """Compute what maps are made of, of (B, g, g, F) cells: (B, J, g, g), see :meth:`refined`."""
        normal, unknown = self.dual(fine)
        ratio = (normal + 1e-6).log() - (unknown + 1e-6).log()
        maps = torch.stack([normal - unknown, normal, ratio], dim=1)
        if self.asr is None:
            return maps
        return torch.cat([maps, self.asr(fine, normal, unknown).unsqueeze(1)], dim=1)

    def refined(self, judged: torch.Tensor) -> torch.Tensor:
        """Turn (B, J, h, w) inter, rec, ratio and, if any, logits of the refinement to the (B, M, h, w) maps."""
        if self.asr is None:
            return judged
        return torch.cat([self.asr.refine(judged[:, :1], judged[:, 3:]), judged[:, :3]], dim=1)

    def enlarged(self, judged: torch.Tensor, field: torch.Tensor | None) -> torch.Tensor:
        """Interpolate what :meth:`judge` returns to the images, and make the maps, 0 outside the (B, 1, H, W) field."""
        maps = self.refined(F.interpolate(judged, size=[self.image_size, self.image_size], mode="bilinear"))
        return maps if field is None else maps * field

    def forward(self, image: torch.Tensor) -> Discrepancies:
        """Compute the maps, and what scores are made of.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            maps: (B, M, H, W), divided by the number of features; all but ``rec`` may be negative.
            features: (B, G * F + P), see :class:`FeatureScores`.
        """
        first, second, pooled = self.encode(image)
        fine, coarse = self.cells(first, second)
        maps = self.enlarged(self.judge(fine), self.field(image))
        return Discrepancies(maps, torch.cat([coarse.flatten(1), pooled], dim=1))


def _moments(values: torch.Tensor) -> list[torch.Tensor]:
    """Return means and deviations over the image: (B, F, g, g) -> two of (B, F)."""
    return [values.mean(dim=(2, 3)), values.std(dim=(2, 3), correction=0)]  # of a single cell, too
