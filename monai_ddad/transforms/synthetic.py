"""Synthetic anomalies: a box of another image, blended in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.transforms import RandomizableTransform, Transform

__all__ = ["BlendBox", "BlendPatch", "RandBlendPatch"]


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


class BlendPatch(Transform):
    """Blend a box of ``source`` into an image at the same place.

    Args:
        box: what to blend.

    Source: MedIA 2023, section 3.4; method.md section 4.

    Example:
        >>> image, mask = BlendPatch(BlendBox(4, 4, 2, 0.5))(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
        >>> image[0, 4].tolist(), int(mask.sum())
        ([0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], 16)
    """

    def __init__(self, box: BlendBox) -> None:
        self.box = box

    def __call__(self, image: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend.

        Args:
            image, source: (C, H, W) float of equal shape.

        Returns:
            the blended (C, H, W) image and its (H, W) uint8 mask, 1 in the whole box (all 0 if alpha is 0).
        """
        box, (height, width) = self.box, image.shape[-2:]
        rows = slice(max(box.row - box.half_width, 0), min(box.row + box.half_width, height))
        columns = slice(max(box.column - box.half_width, 0), min(box.column + box.half_width, width))
        mask = torch.zeros((height, width), dtype=torch.uint8)
        blended = image.clone()
        if box.alpha > 0:
            mask[rows, columns] = 1
            blended[:, rows, columns] = (1 - box.alpha) * image[:, rows, columns] + box.alpha * source[:, rows, columns]
        return blended, mask


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
