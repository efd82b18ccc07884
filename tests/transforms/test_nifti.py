"""NIfTI volumes: values, affine, and what is refused."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ddad.transforms import ImageReadError, ReadImage

AFFINE = np.array([[0.0, -2.0, 0.3, 10.0], [1.5, 0.0, 0.0, -5.0], [0.0, 0.2, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def voxels(dtype=np.int16, shape=(9, 11, 4)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def write(path, values, affine=AFFINE, kind=nib.Nifti1Image, slope=None, intercept=0.0, order="<"):
    image = kind(values, affine, kind.header_class(endianness=order))
    image.set_data_dtype(values.dtype)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_values_go_from_the_smallest_to_the_largest_and_the_affine_is_kept(tmp_path, name, kind, order, dtype):
    values = voxels(dtype)
    volume = ReadImage()(write(tmp_path / name, values, kind=kind, order=order))
    expected = (values.astype(float) - values.min()) / (float(values.max()) - values.min())
    assert volume.dtype == torch.float32 and volume.shape == (1, *values.shape)
    np.testing.assert_allclose(volume[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, atol=1e-6)
    assert volume.meta["photometry"]["source"] == "nifti" and volume.meta["photometry"]["range"] == "min to max"


def test_scaling_is_applied_as_nibabel_does(tmp_path):
    path = write(tmp_path / "a.nii", voxels(), slope=-0.5, intercept=3.0)
    expected = nib.load(path).get_fdata()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(ReadImage()(path)[0].numpy(), expected, atol=1e-6)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(-1).tobytes()  # scl_slope, past nibabel's own rescaling on writing
    path.write_bytes(content)
    raw = nib.load(path).get_fdata()
    assert np.unravel_index(ReadImage()(path)[0].argmax(), raw.shape) == np.unravel_index(raw.argmax(), raw.shape)


@pytest.mark.parametrize(
    "shape, expected", [((9, 11), (9, 11, 1)), ((9, 11, 4, 1), (9, 11, 4)), ((9, 11, 1), (9, 11, 1))]
)
def test_slices_and_single_time_points_are_volumes(tmp_path, shape, expected):
    assert ReadImage()(write(tmp_path / "a.nii", voxels(shape=shape))).shape == (1, *expected)


def test_grey_is_repeated_for_three_channels(tmp_path):
    volume = ReadImage(3)(write(tmp_path / "a.nii", voxels()))
    assert volume.shape == (3, 9, 11, 4) and torch.equal(volume[0], volume[2])


def test_a_constant_volume_keeps_its_place_in_the_range_of_its_type(tmp_path):
    path = write(tmp_path / "a.nii", np.full((9, 9, 9), 51, np.uint8))
    assert (
        torch.allclose(ReadImage()(path), torch.tensor(0.2)) and ReadImage()(path).meta["photometry"]["range"] == "type"
    )


@pytest.mark.parametrize(
    "values, message",
    [
        (voxels(shape=(9, 11, 4, 2)), "several volumes"),
        (voxels(shape=(9, 11, 4, 1, 3)), "several volumes"),
        (voxels(np.complex64), "colours or complex"),
        (np.zeros((9, 11, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours or complex"),
        (np.where(voxels() == 7, np.nan, 1.0), "NaN"),
        (np.where(voxels() == 7, np.inf, 1.0), "infinite"),
        (np.ones((9, 11, 4), np.float32), "all values are equal"),
        (voxels(shape=(7, 7, 7)), "fewer than 8 x 8"),
        (voxels(shape=(11,)), "fewer than 2 dimensions"),
    ],
    ids=["4-D", "5-D", "complex", "RGB", "NaN", "infinite", "constant", "small", "1-D"],
)
def test_other_volumes_are_refused(tmp_path, values, message):
    with pytest.raises(ImageReadError, match=message):
        ReadImage()(write(tmp_path / "a.nii", values))


def header(**fields) -> bytes:
    """Header of a file that claims what it likes."""
    made = nib.Nifti1Header()
    made.set_data_shape((9, 11, 4))
    made["magic"], made["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        made[name] = value
    return made.binaryblock + bytes(4)


@pytest.mark.parametrize(
    "content, message",
    [
        (header() + bytes(100), "truncated"),
        (header(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]) + bytes(1000), "more than 134217728 pixels"),
        (header(dim=[3, -9, 11, 4, 1, 1, 1, 1]) + bytes(1000), "fewer than"),
        (header(vox_offset=1e9) + bytes(4000), "damaged"),
        (header(datatype=999) + bytes(4000), "damaged"),
        (header()[:200], "not an image file"),
        (header(sform_code=1, srow_x=[np.nan] * 4) + bytes(4000), "no inverse"),
        (header(sform_code=1) + bytes(4000), "no inverse"),
    ],
    ids=["truncated", "huge", "negative", "offset", "type", "half", "NaN affine", "flat affine"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_headers_are_refused(tmp_path, content, message, packed):
    (tmp_path / "patient_doe.nii").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(
        ImageReadError, match="no NIfTI volume" if packed and message == "not an image file" else message
    ):
        ReadImage()(tmp_path / "patient_doe.nii")


def test_a_gzip_file_cut_short_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz", voxels())
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageReadError, match="truncated"):
        ReadImage()(path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name, expected",
    [
        ("anatomical.nii", (33, 41, 25)),
        ("avg152T1_LR_nifti.nii.gz", (91, 109, 91)),
        ("example4d.nii.gz", "the NIfTI file holds several volumes, one is expected: split it"),
        ("not-nifti.nii", "not an image file of a known kind (DICOM, NIfTI, PNG, JPEG, TIFF, BMP), or a damaged one"),
    ],
)
def test_real_files_are_read_or_refused(real_data, name, expected):
    path = real_data / "nifti" / name
    if isinstance(expected, str):
        with pytest.raises(ImageReadError) as caught:
            ReadImage()(path)
        assert str(caught.value) == expected
    else:
        volume, loaded = ReadImage()(path), nib.load(path)
        values = loaded.get_fdata()
        assert volume.shape == (1, *expected)
        np.testing.assert_allclose(volume.affine.numpy(), loaded.affine)
        np.testing.assert_allclose(
            volume[0].numpy(), (values - values.min()) / (values.max() - values.min()), atol=1e-6
        )
