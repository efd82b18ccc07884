"""Which images are copies of one another, exactly or nearly."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["NEAR_COPY", "Copies", "Pair", "find_copies", "standardise", "worst_pairs"]

NEAR_COPY = 0.99  # correlation of two images, at the size they are scored at, above which one is a near copy
BLOCK = 1024  # images compared at a time: bounds the memory


@dataclass(frozen=True)
class Pair:
    """Two images that resemble each other.

    Attributes:
        first, second: their positions.
        correlation: in [-1, 1].
        same: ``"file"`` (the same bytes), ``"content"`` (the same decoded pixels) or ``""``.
    """

    first: int
    second: int
    correlation: float
    same: str = ""


@dataclass(frozen=True)
class Copies:
    """Copies of N images, looked up in each of S splits.

    Attributes:
        same_file, same_content: (N, S) int, the first other image of the split with these bytes, or this decoded
            content; -1 where there is none.
        closest: (N, S) int, the image of the split with another content that correlates most; -1 where there is none.
        correlation: (N, S) float32, that correlation; minus infinity where there is none.
    """

    same_file: np.ndarray
    same_content: np.ndarray
    closest: np.ndarray
    correlation: np.ndarray

    def near(self, threshold: float) -> np.ndarray:
        """Tell whether each image has a copy in each split: (N, S) bool, the same content or a higher correlation."""
        return (self.same_content >= 0) | (self.correlation > threshold)

    def worst(self, image: int, splits: Sequence[int]) -> Pair | None:
        """Pair an image with its closest copy in some splits: the same file, else content, else what correlates."""
        for same, found in (("file", self.same_file), ("content", self.same_content)):
            for split in splits:
                if found[image, split] >= 0:
                    return Pair(image, int(found[image, split]), 1.0, same)
        best = max(splits, key=lambda split: self.correlation[image, split], default=None)
        if best is None or self.closest[image, best] < 0:
            return None
        return Pair(image, int(self.closest[image, best]), min(1.0, float(self.correlation[image, best])))


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Scale images so that the product of two is their correlation.

    Args:
        images: (N, ...) of any type.

    Returns:
        (N, D) float32 rows of mean 0 and length 1; a constant image gives zeros.

    Example:
        >>> a, b = standardise(torch.tensor([[0, 1, 2], [5, 7, 9]]))
        >>> round(float(a @ b), 4)
        1.0
    """
    pixels = images.flatten(1).float()
    pixels = pixels - pixels.mean(dim=1, keepdim=True)
    return torch.nn.functional.normalize(pixels, dim=1)


def find_copies(
    images: torch.Tensor,
    splits: Sequence[int] | np.ndarray,
    number: int,
    files: Sequence[Hashable],
    contents: Sequence[Hashable],
) -> Copies:
    """Look for copies of each image in each split.

    Args:
        images: (N, H, W) uint8, all at one size.
        splits: split of each image, from 0.
        number: how many splits there are.
        files, contents: hash of each image's file, and of its pixels as decoded.

    Returns:
        the copies, as positions among the N images.

    Example:
        >>> images = torch.tensor([[[0, 9]], [[9, 0]], [[0, 8]]], dtype=torch.uint8)
        >>> copies = find_copies(images, [0, 0, 1], 2, ["a", "b", "c"], ["a", "b", "c"])
        >>> copies.closest[:, 1].tolist(), copies.near(0.99)[:, 1].tolist()
        ([2, 2, -1], [True, False, False])
    """
    places = np.asarray(splits, dtype=int)
    closest, correlation = _closest(images, places, _numbered(contents), number)
    return Copies(_first_other(files, places, number), _first_other(contents, places, number), closest, correlation)


def worst_pairs(
    copies: Copies, splits: Sequence[int] | np.ndarray, number: int, near_copy: float = NEAR_COPY
) -> dict[str, list[Pair]]:
    """Choose pairs of images of different splits to look at, each image once a kind.

    Args:
        copies: see :func:`find_copies`.
        splits: split of each image.
        number: the most pairs of each kind.
        near_copy: correlation above which an image is a near copy.

    Returns:
        ``"most_alike"``: pairs of different content that correlate most; ``"just_near"``: further ones just above the
        threshold, which show whether it suits these images; ``"same_content"``. The first image of a pair is of the
        later split.

    Example:
        >>> images = torch.tensor([[[0, 9]], [[9, 0]], [[0, 8]]], dtype=torch.uint8)
        >>> copies = find_copies(images, [0, 0, 1], 2, ["a", "b", "c"], ["a", "b", "c"])
        >>> [(pair.first, pair.second) for pair in worst_pairs(copies, [0, 0, 1], 1)["most_alike"]]
        [(2, 0)]
    """
    earlier = [(i, split) for i, own in enumerate(splits) for split in range(own)]
    alike = [
        Pair(i, int(copies.closest[i, split]), min(1.0, float(copies.correlation[i, split])))
        for i, split in earlier
        if copies.closest[i, split] >= 0
    ]
    alike.sort(key=lambda pair: -pair.correlation)
    most = _each_once(alike, number)
    near = [pair for pair in reversed(alike) if pair.correlation > near_copy and pair not in most]
    same = [
        Pair(i, int(copies.same_content[i, split]), 1.0, "file" if copies.same_file[i, split] >= 0 else "content")
        for i, split in reversed(earlier)
        if copies.same_content[i, split] >= 0
    ]
    return {"most_alike": most, "just_near": _each_once(near, number), "same_content": _each_once(same, number)}


def _each_once(pairs: Sequence[Pair], number: int) -> list[Pair]:
    chosen: list[Pair] = []
    used: set[int] = set()
    for pair in pairs:
        if len(chosen) < number and used.isdisjoint((pair.first, pair.second)):
            chosen.append(pair)
            used.update((pair.first, pair.second))
    return chosen


def _numbered(values: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=int)


def _first_other(values: Sequence[Hashable], splits: np.ndarray, number: int) -> np.ndarray:
    """Find the first other image of each split with an equal value: (N, S) int, -1 where there is none."""
    members: dict[tuple[Hashable, int], list[int]] = {}
    for position, (value, split) in enumerate(zip(values, splits.tolist())):
        members.setdefault((value, split), []).append(position)
    found = np.full((len(values), number), -1)
    for position, value in enumerate(values):
        for split in range(number):
            others = (other for other in members.get((value, split), ()) if other != position)
            found[position, split] = next(others, -1)
    return found


def _closest(
    images: torch.Tensor, splits: np.ndarray, contents: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    best = torch.full((len(images), number), -torch.inf)
    partner = torch.full((len(images), number), -1)
    numbers = torch.from_numpy(contents)
    parts = [torch.from_numpy(np.flatnonzero(splits == split)).split(BLOCK) for split in range(number)]
    blocks = [(split, members) for split, blocks in enumerate(parts) for members in blocks if len(members)]
    for rows in torch.arange(len(images)).split(BLOCK):
        wanted = standardise(images[rows])
        for split, members in blocks:
            products = wanted @ standardise(images[members]).T
            products[numbers[rows][:, None] == numbers[members][None, :]] = -torch.inf
            highest, where = products.max(dim=1)
            better = highest > best[rows, split]
            best[rows[better], split] = highest[better]
            partner[rows[better], split] = members[where[better]]
    return partner.numpy(), best.numpy()
