"""The last step of every preparation: grey levels as the networks take them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

__all__ = ["EightBit", "EightBitd", "eight_bits", "normalise"]


def normalise(image: torch.Tensor) -> torch.Tensor:
    """Map 8-bit values to [-1, 1].

    Args:
        image: uint8 tensor of any shape.

    Returns:
        float32 tensor of that shape, ``2 u / 255 - 1``.

    Source: method.md section 1 (ToTensor, then Normalize with mean .5 and standard deviation .5).

    Example:
        >>> normalise(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    return image.float().div(255).sub(0.5).div(0.5)


def eight_bits(image: torch.Tensor) -> torch.Tensor:
    """Undo :func:`normalise`: float in [-1, 1] of any shape -> uint8.

    Raises:
        ValueError: there are values outside.

    Example:
        >>> eight_bits(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    low, high = image.aminmax()
    if low < -1.001 or high > 1.001:
        raise ValueError(f"the transform must give images in [-1, 1], got values from {low:g} to {high:g}.")
    return image.add(1).mul(127.5).round().to(torch.uint8)


class EightBit(Transform):
    """Round grey levels in [0, 1] to the 256 of 8 bits and map them to [-1, 1].

    A :class:`~monai_ddad.data.ResidentDataset`, which keeps 8 bits, therefore holds just what MONAI's data sets do.

    Example:
        >>> EightBit()(torch.tensor([0.0, 0.701, 1.0]))
        tensor([-1.0000,  0.4039,  1.0000])
    """

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Map float in [0, 1] of any shape to float32 in [-1, 1]."""
        return normalise(image.mul(255).round().to(torch.uint8))


class EightBitd(MapTransform):
    """Dictionary form of :class:`EightBit`.

    Args:
        keys: keys of images.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self.scale = EightBit()

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map the images of one item."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.scale(result[key])
        return result
