"""Synthetic anomalies: a box of another image, blended in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.transforms import RandomizableTransform, Transform

__all__ = ["BlendBox", "BlendPatch", "RandBlendPatch", "blend_boxes"]


@dataclass(frozen=True)
class BlendBox:
    """Where and how strongly a patch is blended in.

    Attributes:
        row, column: centre of the box, pixels.
        half_width: half of the box's side, pixels; the box is ``[centre - half_width, centre + half_width)``, cut at
            the image's borders.
        alpha: weight of the other image in [0, 1).
    """

    row: int
    column: int
    half_width: int
    alpha: float


def blend_boxes(
    images: torch.Tensor, sources: torch.Tensor, boxes: Sequence[BlendBox]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend a box of each source into the image of the same row, at the same place.

    Args:
        images, sources: (B, C, H, W) float.
        boxes: B of them.

    Returns:
        the blended (B, C, H, W) images and their (B, H, W) uint8 masks, 1 in the whole box (all 0 if alpha is 0).

    Source: MedIA 2023, section 3.4; method.md section 4.

    Example:
        >>> images, masks = blend_boxes(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), [BlendBox(4, 4, 2, 0.5)])
        >>> images[0, 0, 4].tolist(), int(masks.sum())
        ([0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], 16)
    """
    device, (height, width) = images.device, images.shape[-2:]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=images.dtype).to(device, non_blocking=True)[:, None]

    half, alpha = column([box.half_width for box in boxes]), column([box.alpha for box in boxes])

    def inside(size: int, centres: list[float]) -> torch.Tensor:
        distance = torch.arange(size, dtype=images.dtype, device=device) - column(centres)
        return (distance >= -half) & (distance < half) & (alpha > 0)

    rows, columns = inside(height, [box.row for box in boxes]), inside(width, [box.column for box in boxes])
    masks = rows[:, :, None] & columns[:, None, :]
    weight = alpha[:, :, None, None]
    return torch.where(masks[:, None], (1 - weight) * images + weight * sources, images), masks.to(torch.uint8)


class BlendPatch(Transform):
    """Blend a box of ``source`` into an image at the same place; see :func:`blend_boxes`.

    Args:
        box: what to blend.

    Example:
        >>> image, mask = BlendPatch(BlendBox(4, 4, 2, 0.5))(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
        >>> image[0, 4].tolist(), int(mask.sum())
        ([0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], 16)
    """

    def __init__(self, box: BlendBox) -> None:
        self.box = box

    def __call__(self, image: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend (C, H, W) images; return the blended one and its (H, W) uint8 mask."""
        images, masks = blend_boxes(image[None], source[None], [self.box])
        return images[0], masks[0]


class RandBlendPatch(RandomizableTransform):
    """Blend a random box of a random other training image into an image, or leave it as it is.

    Centres are drawn uniformly from the inner 80 % of the image, half widths from 5 to 20 % of its width, alpha from
    [0, 1).

    Args:
        prob: probability of an anomaly.
        centre_range: range of the centre, shares of the image's height and width.
        half_width_range: range of the half width, shares of the image's width.

    Source: MedIA 2023, section 3.4; method.md section 4 (with numpy's rounding and half-open integer ranges).

    Example:
        >>> transform = RandBlendPatch(prob=1.0).set_random_state(0)
        >>> image, mask = transform(torch.zeros(1, 64, 64), 0, lambda other: torch.ones(1, 64, 64), number=10)
        >>> image.shape, mask.shape
        (torch.Size([1, 64, 64]), torch.Size([64, 64]))
    """

    def __init__(
        self,
        prob: float = 0.5,
        centre_range: tuple[float, float] = (0.1, 0.9),
        half_width_range: tuple[float, float] = (0.05, 0.2),
    ) -> None:
        super().__init__(prob)
        self.centre_range = centre_range
        self.half_width_range = half_width_range
        self.box: BlendBox | None = None
        self.other = 0

    def randomize(self, data: tuple[int, int, int, int]) -> None:
        """Draw for an image of ``(height, width)`` at ``index`` among ``number``: ``data`` holds the four numbers."""
        super().randomize(None)
        self.box = None
        if not self._do_transform:
            return
        height, width, index, number = data
        low, high = self.centre_range
        smallest, largest = (round(share * width) for share in self.half_width_range)
        self.box = BlendBox(
            row=int(self.R.randint(int(low * height), int(high * height))),
            column=int(self.R.randint(int(low * width), int(high * width))),
            half_width=int(self.R.randint(smallest, max(largest, smallest + 1))),
            alpha=float(self.R.rand()),
        )
        other = int(self.R.randint(number - 1))
        self.other = other + (other >= index)

    def __call__(
        self,
        image: torch.Tensor,
        index: int,
        source: Callable[[int], torch.Tensor],
        number: int,
        randomize: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a training pair.

        Args:
            image: (C, H, W) float normal image.
            index: its position among the training normals, never drawn as its own source.
            source: returns the normal image at a position.
            number: how many normal images there are, at least 2.
            randomize: draw anew, or repeat the last draw.

        Returns:
            (C, H, W) image and (H, W) uint8 mask of the anomaly.
        """
        if randomize:
            self.randomize((image.shape[-2], image.shape[-1], index, number))
        if self.box is None:
            return image, torch.zeros(image.shape[-2:], dtype=torch.uint8)
        return BlendPatch(self.box)(image, source(self.other))
