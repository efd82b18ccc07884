"""From stored values to grey levels in [0, 1]: pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_ddad.io.formats.decoded import ImageReadError

__all__ = ["Lookup", "Rescale", "Window", "scale", "stretch"]


@dataclass(frozen=True)
class Rescale:
    """A linear modality transformation.

    Attributes:
        slope, intercept: finite; the slope is not 0.

    Source: DICOM PS3.3 C.11.1.

    Example:
        >>> Rescale(-1.0, 255.0)(np.array([0, 255]))
        array([255.,   0.])
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if self.slope == 0:
            raise ImageReadError("the RescaleSlope of the header is 0")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Map stored values of any shape to float64."""
        return np.asarray(values, dtype=np.float64) * self.slope + self.intercept


@dataclass(frozen=True)
class Lookup:
    """A lookup table: modality LUT, VOI LUT or one colour of a palette.

    Attributes:
        first: input value of the first entry; smaller ones take that entry, values past the last one the last entry.
        table: (N,) integer entries.
        bits: of an entry.

    Source: DICOM PS3.3 C.11.1.1 and C.11.2.1.1.

    Example:
        >>> Lookup(10, np.array([7, 8, 9]), bits=8)(np.array([-5, 10, 11, 99]))
        array([7., 7., 8., 9.])
    """

    first: int
    table: np.ndarray
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Look up values of any shape, rounded to the nearest integer; float64."""
        at = np.clip(np.rint(np.asarray(values, dtype=np.float64)) - self.first, 0, len(self.table) - 1)
        return self.table[at.astype(np.intp)].astype(np.float64)

    @property
    def top(self) -> float:
        """Largest value an entry can hold."""
        return float(2**self.bits - 1)


@dataclass(frozen=True)
class Window:
    """A window of values that is mapped to [0, 1].

    Attributes:
        center, width: in modality units; the width is at least 1 (LINEAR) or above 0.
        function: ``"LINEAR"``, ``"LINEAR_EXACT"`` or ``"SIGMOID"``.

    Raises:
        ImageReadError: the width is too small or the function is another.

    Source: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Example:
        >>> Window(128, 256)(np.array([-1, 0, 127.5, 255, 300]))
        array([0. , 0. , 0.5, 1. , 1. ])
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __post_init__(self) -> None:
        if self.function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise ImageReadError("the VOILUTFunction of the header is not LINEAR, LINEAR_EXACT or SIGMOID")
        if self.function == "LINEAR" and self.width < 1:
            raise ImageReadError("the WindowWidth of the header is below 1, which a linear window must not be")
        if self.width <= 0:
            raise ImageReadError("the WindowWidth of the header is not above 0")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Map values of any shape to float64 in [0, 1]."""
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
        narrow = self.function == "LINEAR"
        center, width = (self.center - 0.5, self.width - 1) if narrow else (self.center, self.width)
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] to [0, 1].

    Args:
        values: float of any shape; overwritten.
        low, high: the range; values outside are clipped.

    Returns:
        the same array.

    Raises:
        ImageReadError: the range is empty or not finite.

    Example:
        >>> scale(np.array([10.0, 20.0, 40.0]), 10, 30)
        array([0. , 0.5, 1. ])
    """
    if not 0 < high - low < np.inf:
        raise ImageReadError("values are NaN, infinite or too large, or their range is empty")
    values -= low
    values /= high - low
    return np.clip(values, 0, 1, out=values)


def stretch(
    values: np.ndarray, limits: tuple[float, float] | None, shown: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Map the smallest to the largest value to [0, 1].

    Args:
        values: float of any shape; overwritten.
        limits: range of the stored type, taken for a constant image; None for floats, which have none.
        shown: bool of the same shape, the values that count, at least one; None for all.

    Returns:
        the same array, and ``"min to max"`` or ``"type"``.

    Raises:
        ImageReadError: values are not finite, or all are equal and ``limits`` is None.

    Source: method.md section 1 (the authors' minimum to maximum, without the rounding to 8 bits).

    Example:
        >>> stretch(np.array([10.0, 20.0, 30.0]), limits=None)
        (array([0. , 0.5, 1. ]), 'min to max')
        >>> stretch(np.full(2, 51.0), limits=(0, 255))
        (array([0.2, 0.2]), 'type')
    """
    counted = values if shown is None else values[shown]
    low, high = float(counted.min()), float(counted.max())
    if low != high:
        return scale(values, low, high), "min to max"
    if limits is None:
        raise ImageReadError("all values are equal, and floats have no range to scale them by")
    return scale(values, *limits), "type"
