"""Where slices lie in the patient, and the affine of the volume they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_ddad.io.formats.decoded import ImageReadError
from monai_ddad.io.formats.dicom_file import Header

__all__ = ["Plane", "pixel_size", "stack_planes"]

TOLERANCE = 1e-3  # of directions (unit vectors) and, as a share, of pixel sizes
UNEVEN = 0.1  # of the gap between slices
SAME = 1e-3  # mm; slices closer than this lie at one position


@dataclass(frozen=True)
class Plane:
    """Place of a slice in the patient, LPS+ mm.

    Attributes:
        position: (3,) centre of the first pixel.
        right, down: (3,) directions of growing column and row number, unit vectors.
        spacing: (2,) distance of neighbouring rows, and of neighbouring columns.
    """

    position: np.ndarray
    right: np.ndarray
    down: np.ndarray
    spacing: np.ndarray

    @classmethod
    def of(cls, header: Header) -> Plane:
        """Read the plane from a header.

        Raises:
            ImageReadError: position, orientation or spacing is missing or damaged.

        Source: DICOM PS3.3 C.7.6.2.1.1.
        """
        names = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
        found = [np.array(header.numbers(name) or ()) for name in names]
        if any(len(value) != size for value, size in zip(found, names.values())):
            raise ImageReadError("a slice has no position, orientation or pixel spacing in its header")
        plane = cls(found[0], found[1][:3], found[1][3:], found[2])
        directions = np.stack([plane.right, plane.down])
        if np.abs(directions @ directions.T - np.eye(2)).max() > 10 * TOLERANCE or plane.spacing.min() <= 0:
            raise ImageReadError("a slice has an orientation or pixel spacing in its header that is not possible")
        return plane

    def agrees(self, other: Plane) -> bool:
        """Say whether two slices are parallel and have pixels of one size."""
        turned = max(np.abs(self.right - other.right).max(), np.abs(self.down - other.down).max())
        return bool(turned <= TOLERANCE and np.abs(self.spacing / other.spacing - 1).max() <= TOLERANCE)


def stack_planes(planes: Sequence[Plane]) -> tuple[list[int], np.ndarray]:
    """Sort slices along their normal.

    Args:
        planes: at least 2.

    Returns:
        the order, and the (4, 4) affine from voxel (i, j, k) = (column, row, place in the order) to RAS+ mm.

    Raises:
        ImageReadError: slices differ in orientation or pixel size, share a position, or are unevenly spaced.

    Source: DICOM PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1), with x and y reversed.

    Example:
        >>> axes, spacing = np.eye(3), np.array([1.0, 2.0])
        >>> planes = [Plane(np.array([0.0, 0.0, z]), axes[0], axes[1], spacing) for z in (5.0, 0.0)]
        >>> order, affine = stack_planes(planes)
        >>> order, affine.diagonal().tolist()
        ([1, 0], [-2.0, -1.0, 5.0, 1.0])
    """
    first = planes[0]
    if not all(plane.agrees(first) for plane in planes):
        raise ImageReadError("the slices differ in orientation or pixel size: they are not one series")
    positions = np.stack([plane.position for plane in planes])
    normal = np.cross(first.right, first.down)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    _check_spacing(positions, normal)
    affine = np.eye(4)
    affine[:3, 0] = first.right * first.spacing[1]
    affine[:3, 1] = first.down * first.spacing[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return order.tolist(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_spacing(positions: np.ndarray, normal: np.ndarray) -> None:
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    if (gaps < SAME).any():
        raise ImageReadError(f"{np.count_nonzero(gaps < SAME)} of {len(positions)} slices lie where another one does")
    wrong = np.count_nonzero(np.linalg.norm(steps - np.median(steps, axis=0), axis=1) > UNEVEN * usual)
    if wrong:
        raise ImageReadError(
            f"{wrong} of {len(gaps)} gaps between slices differ by more than {UNEVEN:.0%} from the usual one: slices "
            "are missing, or several series are mixed"
        )


def pixel_size(header: Header) -> tuple[float, float] | None:
    """Return the (row, column) spacing of a picture in mm, None if the header doesn't say.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.ImagerPixelSpacing = [0.2, 0.1]
        >>> pixel_size(Header(dataset))
        (0.2, 0.1)
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        found = header.numbers(name)
        if found and len(found) == 2 and min(found) > 0:
            return found[0], found[1]
    return None
