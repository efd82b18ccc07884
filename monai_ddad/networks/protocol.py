"""Check that an image is of the trained kind at all: not inverted, turned, noise, or of another body part."""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks.distributions import Reference

__all__ = ["MIN_IMAGES", "REASONS", "ProtocolCheck", "protocol_features", "reason"]

logger = logging.getLogger(__name__)

REASONS = (
    "the brightness is distributed unlike that of the training images (inverted, over- or under-exposed?)",
    "bright, dark and detailed areas lie elsewhere than in the training images (another body part, cut or inverted?)",
    "the image is smoother, sharper or noisier than the training images (blurred, noisy or of another kind?)",
    "the image resembles the training images more when it is turned or mirrored (rotated, upside down or mirrored?)",
)
MIN_IMAGES = 20  # fewer don't tell what is ordinary

LEVELS = 9  # of brightness, evenly from -1 to 1
CELLS = 8  # along a side
SCALES = 4  # of detail, each half as fine as the one before
FAINT = (2 / 255) ** 2  # energy of a difference of one grey level of 8 bits
RARE = 0.02  # share of pixels that hardly differs from none
FLAT = 0.1  # contrast that hardly differs from none

QUANTILE = 0.98  # share of the training images within the limits if there were no slack
SLACK = 1.3  # if there were endlessly many of them
LEAST = 1.1  # limit, as an average distance is 1, and so is the orientation of a symmetric image

CHUNK = 256  # images at a time


def protocol_features(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Describe an image's brightness, layout and detail by a few numbers each, however large it is.

    Args:
        image: (B, C, H, W) float in [-1, 1], H = W a multiple of 16.

    Returns:
        brightness: (B, 9 C), log-odds of a pixel being brighter than each of nine levels.
        layout: (B, 192), three maps of 8 x 8 cells: the brightness in units of the cells' contrast, and the relative
            strength of the differences between neighbours in a column, and in a row.
        detail: (B, 16), at four scales, for neighbours in a column and in a row: the logarithm of the mean squared
            difference, and the mean of the logarithms, which is lower the fewer places the differences are in.

    Example:
        >>> [group.shape[1] for group in protocol_features(torch.zeros(5, 1, 64, 64))]
        [9, 192, 16]
    """
    grey = image.mean(dim=1, keepdim=True)
    return _brightness(image), _layout(grey), _detail(grey)


def _brightness(image: torch.Tensor, levels: int = LEVELS, rare: float = RARE) -> torch.Tensor:
    """Count pixels above levels that are as wide as the steps between them: (B, C, H, W) -> (B, levels * C)."""
    steps = (image.flatten(2) + 1) * (levels - 1) / 2
    share = torch.cat([(steps - level + 0.5).clamp(0, 1).mean(dim=2) for level in range(levels)], dim=1)
    return ((share + rare) / (1 - share + rare)).log()


def _layout(grey: torch.Tensor, cells: int = CELLS, faint: float = FAINT, flat: float = FLAT) -> torch.Tensor:
    """Map brightness and differences: (B, 1, H, W) -> (B, 3 * cells^2); turning the image turns the maps."""
    size = grey.shape[-1] // cells
    bright = F.avg_pool2d(grey, size).flatten(1)
    bright = bright - bright.mean(dim=1, keepdim=True)
    contrast = bright.square().mean(dim=1, keepdim=True).sqrt()
    column, row = _differences(grey)
    column, row = F.pad(column, [0, 0, 1, 1]), F.pad(row, [1, 1, 0, 0])
    energy = torch.cat([column[..., 1:, :] + column[..., :-1, :], row[..., 1:] + row[..., :-1]], dim=1)
    energy = F.avg_pool2d(energy, size).flatten(1)
    strength = (energy / (energy.mean(dim=1, keepdim=True) + faint)).sqrt()
    return torch.cat([bright / (contrast + flat), strength], dim=1)


def _detail(grey: torch.Tensor, scales: int = SCALES, faint: float = FAINT) -> torch.Tensor:
    """Measure how strong and how widespread differences are: (B, 1, H, W) -> (B, 4 * scales)."""
    measures: list[torch.Tensor] = []
    for scale in range(scales):
        if scale > 0:
            grey = F.avg_pool2d(grey, 2)
        for energy in _differences(grey):
            measures.append((energy.mean(dim=(1, 2, 3)) + faint).log())
            measures.append((energy + faint).log().mean(dim=(1, 2, 3)))
    return torch.stack(measures, dim=1)


def _differences(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Square the differences between neighbours in a column, (B, 1, H - 1, W), and in a row, (B, 1, H, W - 1)."""
    return (grey[..., 1:, :] - grey[..., :-1, :]).square(), (grey[..., 1:] - grey[..., :-1]).square()


def reason(ratios: Sequence[float]) -> str:
    """Say why an image is out of protocol.

    Args:
        ratios: four numbers, one image's row of what :class:`ProtocolCheck` returns.

    Returns:
        the sentence of :data:`REASONS` whose limit is exceeded most; empty if none is.

    Example:
        >>> reason([0.5, 0.9, 0.7, 0.2]), reason([1.5, 0.9, 7.0, 0.2]) == REASONS[2]
        ('', True)
    """
    farthest = max(range(len(REASONS)), key=lambda group: ratios[group])
    return REASONS[farthest] if ratios[farthest] > 1 else ""


class ProtocolCheck(nn.Module):
    """Compare an image with all training images, abnormal ones included, in brightness, layout, detail and orientation.

    The first three are distances to the mean of the training images, whitened with their covariance. Orientation
    compares the layout's distance with those of the image turned and mirrored in the seven other ways.

    The limits are set by cross-fitting: each half of the N training images is measured by mean and covariance of the
    other half, and a limit is the 98 % quantile of these distances times 1.3 (1 + 1 / sqrt(N)). The maximum, or a
    quantile close to it, would be set by the few strays that a pool may hold. Without slack each group would flag 2 %
    of the ordinary images, the abnormal ones first, and more where few images give an uncertain quantile.

    Until it is fitted nothing is out of protocol.

    Args:
        in_channels: channels of the image.

    Attributes:
        limits: (4,) distances at which the ratio is 1.

    Example:
        >>> images = torch.linspace(-1, 1, 32).expand(40, 1, 32, 32) * torch.linspace(0.4, 0.6, 40).view(-1, 1, 1, 1)
        >>> check = ProtocolCheck()
        >>> check.fit(images)
        >>> ordinary, rotated = check(torch.cat([images[:1], images[:1].rot90(1, (2, 3))])).tolist()
        >>> reason(ordinary), reason(rotated) == REASONS[3]
        ('', True)
    """

    limits: torch.Tensor
    turns: torch.Tensor

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.brightness = Reference(LEVELS * in_channels)
        self.layout = Reference(3 * CELLS**2)
        self.detail = Reference(4 * SCALES)
        self.register_buffer("limits", torch.ones(len(REASONS)))
        self.register_buffer("turns", _turns(), persistent=False)

    @property
    @torch.jit.unused
    def fitted(self) -> bool:
        """Whether there were images enough to learn what is ordinary."""
        return bool(self.brightness.whitening.any())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Measure images against the limits.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W a multiple of 16.

        Returns:
            (B, 4) at least 0, in the order of :data:`REASONS`; above 1 is out of protocol.
        """
        brightness, layout, detail = protocol_features(image)
        return self.distances(brightness, layout, detail) / self.limits

    def distances(self, brightness: torch.Tensor, layout: torch.Tensor, detail: torch.Tensor) -> torch.Tensor:
        """Measure (B, F) features: (B, 4) distances, of which orientation is a squared ratio."""
        views = self.layout(layout[:, self.turns])
        turned = (views[:, 0] / views[:, 1:].amin(dim=1).clamp(min=1e-6)).square()
        return torch.stack([self.brightness(brightness), views[:, 0], self.detail(detail), turned], dim=1)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Learn what is ordinary; with fewer than :data:`MIN_IMAGES` images the check stays unfitted, and says so.

        Args:
            images: (N, C, H, W) float in [-1, 1], H = W a multiple of 16: known normal and unlabelled images, in any
                order. Abnormal images are taken for ordinary if there are such ones among them.

        Raises:
            ValueError: the images are of another shape or hold a value that is not finite.
        """
        _, channels, height, width = images.shape
        if channels != self.in_channels or height != width or height % 16:
            raise ValueError(
                f"the protocol check needs square images of {self.in_channels} channels whose side is a multiple of 16 "
                f"pixels, got {channels} channels of {height} x {width}."
            )
        chunks = [protocol_features(chunk.to(self.limits.device)) for chunk in images.split(CHUNK)]
        self.fit_features([torch.cat(group) for group in zip(*chunks)])

    @torch.no_grad()
    def fit_features(self, features: Sequence[torch.Tensor]) -> None:
        """Learn what is ordinary from what :func:`protocol_features` says of all images; see :meth:`fit`."""
        features = [group.to(self.limits.device) for group in features]
        count = len(features[0])
        if count < MIN_IMAGES:
            logger.warning(f"{count} images are too few to tell what is out of protocol: at least {MIN_IMAGES} needed.")
            self.load_state_dict(ProtocolCheck(self.in_channels).state_dict())
            return
        if not all(group.isfinite().all() for group in features):
            raise ValueError("the images hold values that are not finite: remove these images or repair them.")
        first = torch.arange(count, device=self.limits.device) % 2 == 0  # so that both halves are alike in any order
        held_out = []
        for half in (first, ~first):
            self._learn([group[half] for group in features])
            held_out.append(self.distances(*[group[~half] for group in features]))
        self._learn(features)
        slack = SLACK * (1 + count**-0.5)
        self.limits.copy_((torch.cat(held_out).quantile(QUANTILE, dim=0) * slack).clamp(min=LEAST))

    def _learn(self, features: list[torch.Tensor]) -> None:
        for reference, group in zip((self.brightness, self.layout, self.detail), features):
            reference.fit(group)


def _turns() -> torch.Tensor:
    """List the places of the layout's features in an image turned and mirrored in all eight ways: (8, 3 * CELLS^2)."""
    cells = torch.arange(CELLS**2).view(CELLS, CELLS)
    views = []
    for mirrored in (False, True):
        for quarters in range(4):
            view = torch.rot90(cells.T if mirrored else cells, quarters).flatten()
            maps = (0, 1, 2) if mirrored == (quarters % 2 == 1) else (0, 2, 1)  # columns become rows
            views.append(torch.cat([view + place * CELLS**2 for place in maps]))
    return torch.stack(views)
