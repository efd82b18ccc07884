"""Volumes of DICOM slices and frames: order, geometry, one scale."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset

from monai_ddad.transforms import AxialSlices, ImageReadError, ReadImage
from tests.transforms.encodings import dataset

ROWS, COLUMNS, SLICES = 10, 12, 5
RIGHT, DOWN = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])  # oblique
NORMAL = np.cross(RIGHT, DOWN)
SPACING = (0.7, 1.3)  # of rows, of columns
START, GAP = np.array([-31.0, 20.5, 7.25]), 2.5


def voxels(seed: int = 0) -> np.ndarray:
    """(K, rows, columns) int16."""
    return np.random.default_rng(seed).integers(-900, 3000, (SLICES, ROWS, COLUMNS), dtype=np.int16)


def position(k: float) -> list[float]:
    return [float(f"{value:.10g}") for value in START + k * GAP * NORMAL]


def slices(stored: np.ndarray, **header) -> list[Dataset]:
    """Single-frame images from the lowest slice up, whose instance numbers tell nothing."""
    return [
        dataset(
            pixels,
            ImagePositionPatient=position(k),
            ImageOrientationPatient=[*RIGHT, *DOWN],
            PixelSpacing=list(SPACING),
            InstanceNumber=(k * 3) % 5,
            **header,
        )
        for k, pixels in enumerate(stored)
    ]


def scaled(values: np.ndarray) -> np.ndarray:
    """(K, rows, columns) -> (1, I, J, K) in [0, 1]."""
    values = values.astype(float)
    return ((values - values.min()) / (values.max() - values.min())).transpose(2, 1, 0)[None]


def assert_right_place(affine: torch.Tensor) -> None:
    """Compare each voxel's place with the standard's formula, in LPS."""
    for i, j, k in itertools.product((0, 3, COLUMNS - 1), (0, 5, ROWS - 1), range(SLICES)):
        lps = START + RIGHT * SPACING[1] * i + DOWN * SPACING[0] * j + NORMAL * GAP * k
        ras = affine.numpy() @ [i, j, k, 1]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_a_series_is_sorted_by_position_and_placed_by_the_standard(tmp_path, order):
    stored, paths = voxels(), []
    for name, k in enumerate(order):
        paths.append(tmp_path / f"{name}.dcm")
        slices(stored)[k].save_as(paths[-1])
    volume = ReadImage()(paths)
    np.testing.assert_allclose(volume.numpy(), scaled(stored), atol=1e-6)
    assert_right_place(volume.affine)
    assert volume.meta["spatial_shape"].tolist() == [COLUMNS, ROWS, SLICES]
    np.testing.assert_array_equal(volume.meta["original_affine"], volume.affine)


def test_slices_are_rescaled_one_by_one_and_their_windows_left_out():
    stored = voxels()
    series = slices(stored, WindowCenter=100, WindowWidth=50)
    for k, one in enumerate(series):
        one.RescaleSlope, one.RescaleIntercept = k + 1, 10 * k
    expected = scaled(stored * np.arange(1.0, 6)[:, None, None] + 10 * np.arange(5)[:, None, None])
    volume = ReadImage()(series)
    np.testing.assert_allclose(volume.numpy(), expected, atol=1e-6)
    assert volume.meta["photometry"]["modality"] == "rescale" and volume.meta["photometry"]["voi"] == "none"


def test_monochrome1_and_padding_hold_in_volumes():
    stored = voxels()
    stored[2, :3] = -2000
    volume = ReadImage()(slices(stored, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000))
    inside = np.where(stored == -2000, stored.max(), stored)
    expected = 1 - scaled(inside)
    np.testing.assert_allclose(volume.numpy(), expected, atol=1e-6)
    assert (volume[0, :, :3, 2] == 0).all() and volume.meta["photometry"]["inverted"]


def test_colour_slices_make_a_volume_of_three_channels():
    colours = np.random.default_rng(0).integers(0, 256, (SLICES, ROWS, COLUMNS, 3), dtype=np.uint8)
    series = slices(colours, PhotometricInterpretation="RGB")
    np.testing.assert_allclose(ReadImage(3)(series).numpy(), colours.transpose(3, 2, 1, 0) / 255, atol=1e-7)
    grey = ReadImage(1)(series).numpy()[0]
    np.testing.assert_allclose(grey, (colours @ [0.299, 0.587, 0.114]).transpose(2, 1, 0) / 255, atol=0.6 / 255)


def test_a_list_of_one_file_is_that_file():
    one = slices(voxels())[0]
    assert torch.equal(ReadImage()([one]), ReadImage()(one)) and ReadImage()([one]).shape == (1, ROWS, COLUMNS)


def test_a_folder_is_the_series_of_its_files(tmp_path):
    with pytest.raises(ImageReadError, match="the folder is empty"):
        ReadImage()(tmp_path)
    for k, image in enumerate(slices(voxels())):
        image.save_as(tmp_path / f"{k}.dcm")
    (tmp_path / ".hidden").write_bytes(b"nothing of the series")
    read = ReadImage()(tmp_path)
    assert torch.equal(read, ReadImage()(slices(voxels()))) and read.shape == (1, COLUMNS, ROWS, SLICES)


def moved(k: int, shift: float):
    """Return a change that moves a slice along the normal."""
    return lambda series: setattr(series[k], "ImagePositionPatient", position(k + shift))


@pytest.mark.parametrize(
    "change, message",
    [
        (moved(2, 1.0), "1 of 5 slices lie where another one does"),
        (moved(2, 0.2), "2 of 4 gaps between slices differ by more than 10%"),
        (lambda series: series.pop(2), "1 of 3 gaps between slices differ by more than 10%"),
        (lambda series: setattr(series[1], "ImagePositionPatient", [0, 0, 0]), "gaps between slices differ"),
        (lambda series: series[3].pop("ImagePositionPatient"), "no position, orientation or pixel spacing"),
        (lambda series: series[3].pop("ImageOrientationPatient"), "no position, orientation or pixel spacing"),
        (lambda series: setattr(series[3], "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), "differ in orientation"),
        (lambda series: setattr(series[3], "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "not possible"),
        (lambda series: setattr(series[3], "PixelSpacing", [1, 1]), "differ in orientation or pixel size"),
        (lambda series: setattr(series[3], "PixelSpacing", [1, 0]), "not possible"),
        (lambda series: setattr(series[3], "Rows", ROWS - 1), "differ in size"),
        (lambda series: setattr(series[3], "PhotometricInterpretation", "MONOCHROME1"), "photometric interpretation"),
        (lambda series: series[3].update(multi_frame(voxels())), "several frames, one a file is expected"),
    ],
)
def test_series_that_are_none_are_refused(change, message):
    series = slices(voxels())
    change(series)
    with pytest.raises(ImageReadError, match=message):
        ReadImage()(series)


def test_uneven_gaps_of_less_than_a_tenth_are_accepted():
    series = slices(voxels())
    moved(2, 0.05)(series)
    assert ReadImage()(series).shape == (1, COLUMNS, ROWS, SLICES)


def test_files_that_are_no_dicom_and_empty_lists_are_refused(write_image):
    with pytest.raises(ImageReadError, match="a file of the series is no DICOM file"):
        ReadImage()([write_image("a.png"), write_image("b.png")])
    with pytest.raises(ImageReadError, match="empty list"):
        ReadImage()([])
    with pytest.raises(TypeError, match="got int"):
        ReadImage()([1, 2])


def test_a_series_may_not_exceed_the_limit_before_it_is_decoded():
    huge = slices(voxels(), NumberOfFrames=None)
    for one in huge:
        one.Rows = one.Columns = 6000  # one is below the limit, five are not; there are no such pixels
    with pytest.raises(ImageReadError, match="claims more than 134217728 pixels"):
        ReadImage()(huge)


def item(**elements) -> list[Dataset]:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return [made]


def multi_frame(stored: np.ndarray, order=range(SLICES), **header) -> Dataset:
    """Enhanced multi-frame image whose frames lie in the given order."""
    frames = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=position(k)),
            PixelValueTransformationSequence=item(RescaleSlope=k + 1, RescaleIntercept=10 * k),
        )[0]
        for k in order
    ]
    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[*RIGHT, *DOWN]),
        PixelMeasuresSequence=item(PixelSpacing=list(SPACING)),
    )
    groups = {"PerFrameFunctionalGroupsSequence": frames, "SharedFunctionalGroupsSequence": shared}
    return dataset(stored[list(order)], **(groups | header))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_frames_are_rescaled_and_placed_by_their_functional_groups(order):
    stored = voxels()
    volume = ReadImage()(multi_frame(stored, order))
    expected = scaled(stored * np.arange(1.0, 6)[:, None, None] + 10 * np.arange(5)[:, None, None])
    np.testing.assert_allclose(volume.numpy(), expected, atol=1e-6)
    assert_right_place(volume.affine)


def test_frames_without_positions_are_taken_for_axial_slices_seen_as_usual():
    stored = voxels()
    volume = ReadImage()(dataset(stored))
    np.testing.assert_allclose(volume.numpy(), scaled(stored), atol=1e-6)
    slices = AxialSlices(min_area=0, height=500)(volume)
    assert len(slices) == len(stored)
    for found, frame in zip(slices, scaled(stored)[0].transpose(2, 1, 0)):
        np.testing.assert_allclose(found[0].numpy(), frame, atol=1e-6)


def test_frames_that_are_described_in_part_are_refused():
    made = multi_frame(voxels())
    del made.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    with pytest.raises(ImageReadError, match="no position, orientation or pixel spacing"):
        ReadImage()(made)
    made.PerFrameFunctionalGroupsSequence.pop()
    with pytest.raises(ImageReadError, match="describes another number of frames than it claims"):
        ReadImage()(made)


@pytest.mark.real_data
def test_a_real_series_is_a_head(real_data):
    paths = sorted((real_data / "dicom/mr_brain_series").iterdir())
    volume = ReadImage(modalities=("MR",))(paths)
    assert volume.shape == (1, 274, 384, 32) and volume.min() == 0 and volume.max() == 1
    assert torch.equal(ReadImage()(paths[::-1]), volume)
    np.testing.assert_allclose(np.linalg.norm(volume.affine.numpy()[:3, :3], axis=0), [0.7, 0.667, 8.0], rtol=0.01)
    centre = volume[0, 100:170, 150:230, 10:24].mean()
    assert centre > 5 * volume[0, :20].mean()  # the head is in the middle, air at the side
