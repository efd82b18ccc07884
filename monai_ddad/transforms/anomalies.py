"""Synthetic anomalies that can be seen: what small parts of normal images look like when something is wrong there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform
from torch.nn import functional as F

__all__ = ["RandAnomalies", "RandBlob", "RandLocal", "RandMovedPatch", "RandTexture", "RandWarp"]

BACKGROUND = -0.9  # pixels up to here are no anatomy
SLIM = 0.4  # logarithm of either half axis over their geometric mean, at most
EDGE = 0.3  # share of an ellipse's radius over which it fades out
COARSE = 16  # side of the noise that textures are made of
VISIBLE = 0.1  # change of a pixel, of 2, that counts as wholly abnormal


class RandLocal(RandomizableTransform):
    """Alter a (C, H, W) image in [-1, 1] within one soft ellipse; a subclass says how.

    The centre is drawn among the pixels of the anatomy, those above -.9, and anywhere where there are none.

    Args:
        radius_range: geometric mean of the half axes, as shares of the image's longer side; drawn evenly in the
            logarithm.
        prob: probability of an anomaly.
    """

    def __init__(self, radius_range: tuple[float, float] = (0.01, 0.15), prob: float = 1.0) -> None:
        super().__init__(prob)
        self.radius_range = radius_range
        self.ranges = {"radius": radius_range, "prob": prob}
        self.row, self.column, self.radii, self.angle = 0.0, 0.0, (1.0, 1.0), 0.0

    def randomize(self, data: torch.Tensor) -> None:
        """Draw the ellipse for a (C, H, W) image."""
        super().randomize(None)
        height, width = data.shape[-2:]
        low, high = (np.log(share * max(height, width)) for share in self.radius_range)
        radius, ratio = np.exp(self.R.uniform(low, high)), np.exp(self.R.uniform(-SLIM, SLIM))
        self.radii = float(radius * ratio), float(radius / ratio)
        self.angle = float(self.R.uniform(0, np.pi))
        places = (data.mean(dim=0) > BACKGROUND).flatten().nonzero()[:, 0]
        chosen = self.R.randint(len(places) or height * width)
        place = int(places[chosen]) if len(places) else int(chosen)
        self.row, self.column = float(place // width), float(place % width)
        self.draw(data)

    def draw(self, image: torch.Tensor) -> None:
        """Draw what else is random."""

    @abstractmethod
    def alter(self, image: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the altered image; ``distance`` is (H, W), 0 at the centre of the ellipse and 1 at its edge."""

    def __call__(self, img: torch.Tensor, randomize: bool = True) -> torch.Tensor:
        """Alter an image.

        Args:
            img: (C, H, W) float in [-1, 1].
            randomize: draw anew, or repeat the last draw.

        Returns:
            (C, H, W) in [-1, 1]; the image itself where nothing is drawn.
        """
        if randomize:
            self.randomize(img)
        if not self._do_transform:
            return img
        rows, columns = _pixels(img)
        down, right = rows - self.row, columns - self.column
        cosine, sine = float(np.cos(self.angle)), float(np.sin(self.angle))
        first, second = (cosine * right + sine * down), (cosine * down - sine * right)
        distance = ((first / self.radii[0]).square() + (second / self.radii[1]).square()).sqrt()
        weight = ((1 - distance) / EDGE).clamp(0, 1)
        return (img + weight * (self.alter(img, distance) - img)).clamp(-1, 1)


class RandMovedPatch(RandLocal):
    """Show in an ellipse what is elsewhere in the image, larger or smaller.

    Args:
        scale_range: by how much it is enlarged.
        **settings: of :class:`RandLocal`.

    Source: after NSA, Schlüter et al., Natural synthetic anomalies, ECCV 2022, with soft edges in place of Poisson
    blending.

    Example:
        >>> picture = torch.linspace(-1, 1, 64).expand(1, 64, 64)
        >>> moved = RandMovedPatch().set_random_state(0)(picture)
        >>> moved.shape, bool((moved != picture).any())
        (torch.Size([1, 64, 64]), True)
    """

    def __init__(self, scale_range: tuple[float, float] = (0.7, 1.4), **settings: Any) -> None:
        super().__init__(**settings)
        self.scale_range = scale_range
        self.ranges |= {"scale": scale_range}
        self.scale, self.other = 1.0, (0.0, 0.0)

    def draw(self, image: torch.Tensor) -> None:
        """Draw where it comes from."""
        self.scale = float(self.R.uniform(*self.scale_range))
        self.other = float(self.R.uniform(0, image.shape[-2])), float(self.R.uniform(0, image.shape[-1]))

    def alter(self, image: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the image with that place moved to the ellipse."""
        rows, columns = _pixels(image)
        return _sampled(
            image, self.other[0] + (rows - self.row) / self.scale, self.other[1] + (columns - self.column) / self.scale
        )


class RandBlob(RandLocal):
    """Make a soft ellipse brighter or darker, each channel by as much of its own.

    Args:
        change_range: of a channel's value, whose range is 2; its sign is drawn for all channels at once.
        **settings: of :class:`RandLocal`.

    Source: intensity change of Baugh et al., Many tasks make light work, MICCAI 2023, in simpler form.

    Example:
        >>> blob = RandBlob().set_random_state(0)(torch.zeros(1, 64, 64))
        >>> blob.shape, bool((blob != 0).any())
        (torch.Size([1, 64, 64]), True)
    """

    def __init__(self, change_range: tuple[float, float] = (0.1, 0.8), **settings: Any) -> None:
        super().__init__(**settings)
        self.change_range = change_range
        self.ranges |= {"change": change_range}
        self.change = torch.zeros(1)

    def draw(self, image: torch.Tensor) -> None:
        """Draw the change of each channel."""
        sign = 1 if self.R.rand() < 0.5 else -1
        self.change = sign * torch.from_numpy(self.R.uniform(*self.change_range, len(image))).to(image.dtype)

    def alter(self, image: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the image with all its pixels changed."""
        return image + self.change[:, None, None]


class RandTexture(RandLocal):
    """Add smooth noise in an ellipse.

    Args:
        change_range: standard deviation of the noise; a channel's range is 2.
        **settings: of :class:`RandLocal`.

    Source: noise of a coarse grid, as in DRAEM, Zavrtanik et al., ICCV 2021, which takes Perlin's.

    Example:
        >>> noisy = RandTexture().set_random_state(0)(torch.zeros(1, 64, 64))
        >>> noisy.shape, bool((noisy != 0).any())
        (torch.Size([1, 64, 64]), True)
    """

    def __init__(self, change_range: tuple[float, float] = (0.1, 0.5), **settings: Any) -> None:
        super().__init__(**settings)
        self.change_range = change_range
        self.ranges |= {"change": change_range}
        self.noise = torch.zeros(1, 1, 1)

    def draw(self, image: torch.Tensor) -> None:
        """Draw the noise, whose grain is as the ellipse's size."""
        cells = [max(2, round(COARSE * size / max(image.shape[-2:]))) for size in image.shape[-2:]]
        finer = max(1, round(max(image.shape[-2:]) / (4 * max(self.radii)) / COARSE))
        grid = self.R.normal(size=(len(image), cells[0] * finer, cells[1] * finer))
        self.noise = torch.from_numpy(float(self.R.uniform(*self.change_range)) * grid).to(image.dtype)

    def alter(self, image: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the image with the noise on all of it."""
        return image + F.interpolate(self.noise[None], size=list(image.shape[-2:]), mode="bilinear")[0]


class RandWarp(RandLocal):
    """Push what lies in an ellipse outwards from its centre, or draw it inwards.

    Args:
        strength_range: by how much of its distance a point near the centre moves.
        **settings: of :class:`RandLocal`.

    Source: deformation of Baugh et al., Many tasks make light work, MICCAI 2023.

    Example:
        >>> picture = torch.linspace(-1, 1, 64).expand(1, 64, 64)
        >>> warped = RandWarp(radius_range=(0.1, 0.2)).set_random_state(0)(picture)
        >>> warped.shape, bool((warped != picture).any())
        (torch.Size([1, 64, 64]), True)
    """

    def __init__(self, strength_range: tuple[float, float] = (0.3, 0.8), **settings: Any) -> None:
        super().__init__(**settings)
        self.strength_range = strength_range
        self.ranges |= {"strength": strength_range}
        self.strength = 0.0

    def draw(self, image: torch.Tensor) -> None:
        """Draw how strongly, and whether outwards."""
        self.strength = float(self.R.uniform(*self.strength_range)) * (1 if self.R.rand() < 0.5 else -1)

    def alter(self, image: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the image as seen through the lens."""
        rows, columns = _pixels(image)
        shrunk = 1 - self.strength * (1 - distance).clamp(min=0)
        return _sampled(image, self.row + (rows - self.row) * shrunk, self.column + (columns - self.column) * shrunk)


class RandAnomalies(RandomizableTransform):
    """Draw some anomalies into a normal image.

    Args:
        prob: probability that there are any.
        number_range: how many, at least and at most.
        kinds: what they are drawn from; None takes one of each of this module.

    Example:
        >>> picture = torch.linspace(-1, 1, 64).expand(1, 64, 64)
        >>> transform = RandAnomalies().set_random_state(0)
        >>> label = transform.label(picture, transform(picture))
        >>> label.shape, 0 < label.max() <= 1
        (torch.Size([64, 64]), tensor(True))
    """

    def __init__(
        self, prob: float = 1.0, number_range: tuple[int, int] = (1, 5), kinds: Sequence[RandLocal] | None = None
    ) -> None:
        super().__init__(prob)
        self.number_range = number_range
        self.kinds = [RandMovedPatch(), RandBlob(), RandTexture(), RandWarp()] if kinds is None else list(kinds)

    @property
    def settings(self) -> str:
        """What is drawn, in words."""
        kinds = [f"{type(kind).__name__}({kind.ranges})" for kind in self.kinds]
        return f"{', '.join(kinds)}; {self.number_range[0]} to {self.number_range[1]} with probability {self.prob}"

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandAnomalies:
        """Let all kinds draw from one stream, which is this one's."""
        super().set_random_state(seed, state)
        for kind in self.kinds:
            kind.set_random_state(state=self.R)
        return self

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Alter a (C, H, W) image in [-1, 1]; return one like it."""
        self.randomize(None)
        if self._do_transform:
            low, high = self.number_range
            for _ in range(int(self.R.randint(low, high + 1))):
                img = self.kinds[int(self.R.randint(len(self.kinds)))](img)
        return img

    @staticmethod
    def label(image: torch.Tensor, altered: torch.Tensor) -> torch.Tensor:
        """Tell how abnormal the pixels of an altered image are by how much they have changed.

        Args:
            image, altered: (C, H, W) in [-1, 1].

        Returns:
            (H, W) in [0, 1]: the change, averaged over the channels, 1 from a twentieth of the range on.

        Source: a label by the change, as in NSA, Schlüter et al., ECCV 2022.
        """
        return ((altered - image).abs().mean(dim=0) / VISIBLE).clamp(max=1)


def _pixels(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows (H, 1) and columns (W,) of an image's pixels."""
    height, width = image.shape[-2:]
    return torch.arange(height, dtype=image.dtype)[:, None], torch.arange(width, dtype=image.dtype)


def _sampled(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return a (C, H, W) image at other places, which broadcast to (H, W), mirrored at its borders."""
    height, width = image.shape[-2:]
    rows, columns = torch.broadcast_tensors(rows, columns)
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=False)[0]
