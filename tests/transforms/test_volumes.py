"""Volumes to axial slices and back, in every orientation that a file can have."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ddad.transforms import AxialSlices, AxialSlicesd, slices_to_volume

SIZES = {"R": 10, "A": 14, "S": 6}  # voxels along each axis of the body
SPACING = {"R": 1.0, "A": 2.0, "S": 5.0}  # mm
OPPOSITE = {"R": "L", "A": "P", "S": "I"}
ORIENTATIONS = [
    "".join(axis if sign else OPPOSITE[axis] for axis, sign in zip(axes, signs))
    for axes in itertools.permutations("RAS")
    for signs in itertools.product((True, False), repeat=3)
]


def body(orientation: str, tilt: float = 0.0) -> MetaTensor:
    """A volume stored in an orientation, with a bright voxel at right 7, anterior 11, superior 4 of the RAS grid."""
    ras = np.full([SIZES[axis] for axis in "RAS"], 0.3, dtype=np.float32)
    ras[7, 11, 4] = 1.0
    affine = np.diag([*(SPACING[axis] for axis in "RAS"), 1.0])
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]]) @ affine
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    stored = nib.orientations.apply_orientation(ras, there)
    stored_affine = affine @ nib.orientations.inv_ornt_aff(there, ras.shape)
    return MetaTensor(torch.from_numpy(stored.copy())[None], affine=torch.from_numpy(stored_affine))


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_slices_show_the_body_as_a_radiologist_sees_it(orientation, tilt):
    slices = AxialSlices(min_area=0, height=500)(body(orientation, tilt))
    assert [s.meta["slice"] for s in slices] == list(range(6))
    assert {tuple(s.shape) for s in slices} == {(1, 14, 10)}
    assert slices[0].meta["pixel_size"] == pytest.approx((2.0, 1.0))
    bright = [tuple(int(i) for i in np.argwhere(np.asarray(s)[0] == 1).ravel()) for s in slices]
    # slice 4 from below; anterior 11 of 14 is row 2 from the top; right 7 of 10 is column 2 from the left edge
    assert bright == [(), (), (), (), (2, 2), ()]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_maps_go_back_to_the_voxels_that_they_came_from(orientation):
    volume = body(orientation, tilt=0.2)
    volume[0] += torch.rand(volume.shape[1:], generator=torch.Generator().manual_seed(0)) * 0.1
    slices = {s.meta["slice"]: np.asarray(s)[0] for s in AxialSlices(min_area=0, height=500)(volume)}
    back = slices_to_volume(slices, volume.affine.numpy(), volume.shape[1:])
    assert np.array_equal(back, volume[0].numpy())


def test_slices_without_head_are_left_out_and_their_place_is_zero():
    volume = torch.zeros(1, 40, 40, 5)
    for k, half in enumerate((2, 10, 15, 12, 0)):
        volume[0, 20 - half : 20 + half, 20 - half : 20 + half, k] = 0.7
    slices = AxialSlices(min_area=0.3)(MetaTensor(volume))
    assert [s.meta["slice"] for s in slices] == [1, 2, 3]
    back = slices_to_volume({s.meta["slice"]: np.ones((40, 40)) for s in slices}, np.eye(4), (40, 40, 5))
    assert back.max(axis=(0, 1)).tolist() == [0, 1, 1, 1, 0]


def test_an_empty_volume_keeps_all_its_slices():
    assert len(AxialSlices()(MetaTensor(torch.zeros(1, 12, 12, 3)))) == 3


def test_a_picture_passes_unchanged():
    picture = torch.rand(1, 12, 10)
    assert AxialSlices()(picture) == [picture]
    (item,) = AxialSlicesd("image")({"image": picture, "label": 0})
    assert item["image"] is picture and item["label"] == 0


@pytest.mark.parametrize("thickness, kept", [(5.0, [6, 7, 8, 9]), (10.0, [8, 9]), (1.0, list(range(10)))])
def test_slices_far_below_the_top_of_the_head_are_left_out(thickness, kept):
    volume = torch.zeros(1, 40, 40, 12)
    volume[0, 10:30, 10:30, :10] = 0.7
    image = MetaTensor(volume, affine=torch.diag(torch.tensor([1.0, 1.0, thickness, 1.0])))
    assert [s.meta["slice"] for s in AxialSlices(height=15)(image)] == kept


@pytest.mark.parametrize("options", [{"min_area": -0.1}, {"min_area": 1.1}, {"height": 0}])
def test_numbers_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match=r"min_area must be in \[0, 1\] and height above 0 mm"):
        AxialSlices(**options)
