"""Random alterations of whole batches of images, for the training of classifiers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

__all__ = ["Alterations", "RandAlter", "alter"]


@dataclass(frozen=True)
class Alterations:
    """How each of B images is altered; places are in [-1, 1] from border to border.

    Attributes:
        places: (B, 2, 3) affine map from a place (column, row) in the altered image to one in the image.
        gain, gamma: (B,) factor and exponent of the brightness in [0, 1].
        noise: (B, C, H, W) added to the brightness.
        holes: (B, 3) column, row and half width of a black square.
    """

    places: torch.Tensor
    gain: torch.Tensor
    gamma: torch.Tensor
    noise: torch.Tensor
    holes: torch.Tensor


def alter(images: torch.Tensor, how: Alterations) -> torch.Tensor:
    """Move, brighten and cover images.

    Args:
        images: (B, C, H, W) float in [-1, 1].
        how: B alterations. Where the image ends its border goes on.

    Returns:
        (B, C, H, W) in [-1, 1].

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1, 1, 2, 2)
        >>> mirrored = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
        >>> image = torch.tensor([[[[-1.0, 1], [-1, 0]]]])
        >>> alter(image, Alterations(mirrored, one, one, zero, torch.zeros(1, 3))).tolist()
        [[[[1.0, -1.0], [0.0, -1.0]]]]
    """
    grid = F.affine_grid(how.places, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, gamma = how.gain.view(-1, 1, 1, 1), how.gamma.view(-1, 1, 1, 1)
    bright = gain * moved.add(1).div(2).clamp(0, 1).pow(gamma) + how.noise
    column, row, half = how.holes.T[:, :, None]
    covered = [
        (torch.arange(1 - size, size, 2, device=images.device) / size - centre).abs() < half
        for size, centre in ((images.shape[2], row), (images.shape[3], column))
    ]
    hole = covered[0][:, None, :, None] & covered[1][:, None, None, :]
    return bright.clamp(0, 1).masked_fill(hole, 0).mul(2).sub(1)


class RandAlter:
    """Alter each image of a batch by chance; see :func:`alter`.

    Args:
        flip: mirror half of the images left to right; False where left and right are not alike.
        degrees: rotation at most, to either side.
        scale, shift: change of size and place at most, shares of the image's side.
        gain, gamma: change of the brightness's factor and of its exponent's logarithm at most.
        noise: standard deviation of the noise at most, in brightness from 0 to 1.
        hole: half width of the black square at most, a share of the image's side.

    Example:
        >>> RandAlter()(torch.zeros(5, 1, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 1, 32, 32])
    """

    def __init__(
        self,
        flip: bool = True,
        degrees: float = 15.0,
        scale: float = 0.15,
        shift: float = 0.08,
        gain: float = 0.2,
        gamma: float = 0.3,
        noise: float = 0.05,
        hole: float = 0.15,
    ) -> None:
        self.flip = flip
        self.degrees = degrees
        self.scale = scale
        self.shift = shift
        self.gain = gain
        self.gamma = gamma
        self.noise = noise
        self.hole = hole

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Alterations:
        """Draw alterations of (B, C, H, W) images, on the CPU."""
        number = shape[0]

        def between(low: float, high: float, *rest: int) -> torch.Tensor:
            return torch.rand(number, *rest, generator=generator) * (high - low) + low

        angle = between(-self.degrees, self.degrees).deg2rad()
        size = 1 + between(-self.scale, self.scale)
        mirror = (between(-1, 1) >= 0).float() * 2 - 1 if self.flip else torch.ones(number)
        across = torch.stack([mirror * size * angle.cos(), -size * angle.sin()], dim=1)
        down = torch.stack([mirror * size * angle.sin(), size * angle.cos()], dim=1)
        shift = between(-2 * self.shift, 2 * self.shift, 2, 1)
        level = between(0, self.noise, 1, 1, 1)
        return Alterations(
            places=torch.cat([torch.stack([across, down], dim=1), shift], dim=2),
            gain=1 + between(-self.gain, self.gain),
            gamma=between(-self.gamma, self.gamma).exp(),
            noise=level * torch.randn(shape, generator=generator),
            holes=torch.cat([between(-1, 1, 2), between(0, 2 * self.hole, 1)], dim=1),
        )

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Alter (B, C, H, W) images in [-1, 1] by draws from a generator of the CPU."""
        how = self.draw(images.shape, generator)
        return alter(images, Alterations(**{name: value.to(images.device) for name, value in vars(how).items()}))
