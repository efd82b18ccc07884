"""From a picture to the network's square and back: what all modality transforms share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys
from PIL import Image

from monai_ddad.transforms.one_slice import slice_to_picture
from monai_ddad.transforms.read import ImageReadError

__all__ = ["Box", "PlainResize", "PlainResized", "SquareTransform", "SquareTransformd", "square_around"]

LONGEST = 50  # sides of a pixel of an anisotropic volume, one as a multiple of the other


class Box(NamedTuple):
    """Part of a picture, in pixels; it may reach beyond the picture, which counts as black there."""

    top: int
    left: int
    height: int
    width: int


def square_around(mask: np.ndarray, pixel_size: tuple[float, float] | None = None, margin: float = 0.0) -> Box:
    """Find the smallest box around a mask that is square in millimetres.

    Args:
        mask: (H, W) bool; with no pixel set, the whole picture counts.
        pixel_size: height and width of a pixel in mm; None for square pixels.
        margin: widen the box by this share of its side, on each side.

    Returns:
        box with the mask's bounding box in its middle.

    Example:
        >>> mask = np.zeros((20, 30), dtype=bool)
        >>> mask[5:9, 10:20] = True
        >>> square_around(mask), square_around(mask, pixel_size=(2.0, 1.0))
        (Box(top=2, left=10, height=10, width=10), Box(top=4, left=10, height=5, width=10))
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, mask.shape[0])
    left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, mask.shape[1])
    tall, wide = pixel_size or (1.0, 1.0)
    side = max((bottom - top) * tall, (right - left) * wide) * (1 + 2 * margin)
    height, width = max(round(side / tall), 1), max(round(side / wide), 1)
    return Box(int(top + bottom - height) // 2, int(left + right - width) // 2, height, width)


class SquareTransform(InvertibleTransform):
    """Prepare a picture, cut a box out of it and resize that to a square; the inverse puts maps back in their place.

    Subclasses say in :meth:`prepare` which box and which intensities.

    Args:
        image_size: side of the square, pixels.

    Raises:
        ValueError: ``image_size`` is below 8.
    """

    def __init__(self, image_size: int = 64) -> None:
        if image_size < 8:
            raise ValueError(f"image_size must be at least 8 pixels, got {image_size}.")
        self.image_size = image_size

    @abstractmethod
    def prepare(self, picture: np.ndarray, pixel_size: tuple[float, float] | None) -> tuple[np.ndarray, Box]:
        """Set the intensities and choose the box.

        Args:
            picture: (C, H, W) float32 in [0, 1], not to be changed in place.
            pixel_size: height and width of a pixel in mm, or None.

        Returns:
            (C', H, W) float32 in [0, 1] and the box to keep.
        """

    def resize(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """Resize the box of a (C, H, W) picture to (C, ``image_size``, ``image_size``), antialiased bilinear."""
        return np.stack([_resize(channel, self.image_size) for channel in _cut(picture, box)])

    def __call__(self, image: torch.Tensor) -> MetaTensor:
        """Transform one picture.

        Args:
            image: (C, H, W) float in [0, 1], as :class:`~monai_ddad.transforms.ReadImage` gives it, or a volume of one
                slice, which is a picture: see :func:`~monai_ddad.transforms.one_slice.slice_to_picture`.

        Returns:
            (C', ``image_size``, ``image_size``) float32 in [0, 1].

        Raises:
            ImageReadError: the image is a volume, or its pixels are absurdly long and thin.
        """
        if isinstance(image, MetaTensor) and image.ndim == 4:
            image = slice_to_picture(image)
        if image.ndim != 3:
            raise ImageReadError("a volume or a series of frames, where single pictures are expected")
        meta = image.meta if isinstance(image, MetaTensor) else {}
        tall, wide = meta.get("pixel_size") or (1.0, 1.0)
        if not 1 / LONGEST < tall / wide < LONGEST:
            raise ImageReadError(f"the header claims pixels more than {LONGEST} times as long as wide")
        done = image.applied_operations if isinstance(image, MetaTensor) else []
        picture = np.asarray(image.detach().cpu(), dtype=np.float32)
        prepared, box = self.prepare(picture, meta.get("pixel_size"))
        square = torch.from_numpy(self.resize(prepared, box))
        result = MetaTensor(square, meta=dict(meta), applied_operations=list(done))
        self.push_transform(result, orig_size=picture.shape[1:], extra_info={"box": tuple(box)})
        return result

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Put (M, h, w) maps of the square back on the picture's own grid.

        Args:
            data: maps that carry the ``applied_operations`` of the transformed picture.

        Returns:
            (M, H, W) float32, bilinear, 0 outside the box.
        """
        transform = self.pop_transform(data)
        height, width = transform[TraceKeys.ORIG_SIZE]
        box = Box(*transform[TraceKeys.EXTRA_INFO]["box"])
        restored = np.zeros((len(data), height, width), dtype=np.float32)
        top, left = max(box.top, 0), max(box.left, 0)
        bottom, right = min(box.top + box.height, height), min(box.left + box.width, width)
        for target, source in zip(restored, np.asarray(data.detach().cpu(), dtype=np.float32)):
            whole = Image.fromarray(source).resize((box.width, box.height), Image.Resampling.BILINEAR)
            target[top:bottom, left:right] = np.asarray(whole)[
                top - box.top : bottom - box.top, left - box.left : right - box.left
            ]
        return MetaTensor(torch.from_numpy(restored), applied_operations=list(data.applied_operations))


class PlainResize(SquareTransform):
    """Resize the whole picture to a square as the paper does: 8 bits, the aspect ratio not kept.

    Args:
        image_size: side of the square, pixels.

    Source: method.md section 1 (PIL's antialiased bilinear filter on the 8-bit picture).

    Example:
        >>> PlainResize(16)(torch.ones(1, 40, 30)).shape
        torch.Size([1, 16, 16])
    """

    def prepare(self, picture: np.ndarray, pixel_size: tuple[float, float] | None) -> tuple[np.ndarray, Box]:
        """Keep all."""
        return picture, Box(0, 0, *picture.shape[1:])

    def resize(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """Resize with 8 bits a channel."""
        return np.stack([_resize(np.rint(255 * channel).astype(np.uint8), self.image_size) for channel in picture]) / (
            np.float32(255)
        )


class SquareTransformd(MapTransform, InvertibleTransform):
    """Dictionary form of a :class:`SquareTransform`; subclasses name it.

    Args:
        keys: keys of the pictures.
        allow_missing_keys: don't raise an error if a key is missing.
        **options: arguments of the array form.
    """

    array_form: ClassVar[Callable[..., SquareTransform]]

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = self.array_form(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the pictures of one item."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the maps of one item back on the pictures' own grids."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result


class PlainResized(SquareTransformd):
    """Dictionary form of :class:`PlainResize`."""

    array_form = PlainResize


def _resize(channel: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BILINEAR))


def _cut(picture: np.ndarray, box: Box) -> np.ndarray:
    """Cut a box out of a (C, H, W) picture, black where it reaches beyond it."""
    height, width = picture.shape[1:]
    before = max(-box.top, 0), max(-box.left, 0)
    after = max(box.top + box.height - height, 0), max(box.left + box.width - width, 0)
    padded = np.pad(picture, ((0, 0), *zip(before, after)))
    top, left = box.top + before[0], box.left + before[1]
    return np.ascontiguousarray(padded[:, top : top + box.height, left : left + box.width])
