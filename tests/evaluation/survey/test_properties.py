"""Files and pixels are measured as a plain loop, PIL and the file's writer say."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_ddad.evaluation.survey.properties import measure_pixels, read_properties

SIDE = 24


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (SIDE, SIDE), dtype=np.uint8)


def test_pixel_measures_are_those_of_a_plain_loop():
    grey = np.random.default_rng(0).random((21, 40)).astype(np.float32)
    grey[3, 3], grey[4, 4] = 5 / 255, 250 / 255
    rows, columns = range(21), range(40)
    border = [grey[r, c] for r in rows for c in columns if min(r, c, 20 - r, 39 - c) < 1]
    laplacian = [
        grey[r - 1, c] + grey[r + 1, c] + grey[r, c - 1] + grey[r, c + 1] - 4 * grey[r, c]
        for r in rows[1:-1]
        for c in columns[1:-1]
    ]
    expected = {
        "mean": grey.mean(),
        "standard_deviation": grey.std(),
        "black": np.mean([value <= np.float32(5 / 255) for value in grey.ravel()]),
        "saturated": np.mean([value >= np.float32(250 / 255) for value in grey.ravel()]),
        "border": np.mean(border),
        "sharpness": np.var(laplacian),
    }
    assert measure_pixels(grey) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_quality_is_that_of_the_writer(write_image, quality):
    found = read_properties(write_image("a.jpg", noise(0), quality=quality), image_size=16)
    assert found.measures["jpeg_quality"] == pytest.approx(quality, abs=1)
    assert found.format == "JPEG" and found.bits == 8 and found.mode == "grey"


@pytest.mark.parametrize(
    "name, pixels, mode, bits",
    [
        ("a.png", noise(0), "grey", 8),
        ("a.png", noise(0).astype(np.uint16) * 257, "grey", 16),
        ("a.tif", (noise(0) / 255).astype(np.float32), "grey", 32),
        ("a.png", np.repeat(noise(0)[..., None], 3, axis=2), "RGB with equal channels", 8),
        ("a.png", np.stack([noise(0), noise(1), noise(2)], axis=2), "RGB", 8),
    ],
)
def test_modes_and_bits_are_told_apart(write_image, name, pixels, mode, bits):
    found = read_properties(write_image(name, pixels), image_size=16)
    assert (found.mode, found.bits, "jpeg_quality" in found.measures) == (mode, bits, False)
    assert (found.measures["width"], found.measures["height"], found.measures["aspect"]) == (SIDE, SIDE, 1)


def test_thumbnail_is_what_the_paper_scores(write_image):
    path = write_image("a.png", np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    expected = np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(read_properties(path, image_size=16).thumbnail, expected)


def test_a_volume_is_measured_in_the_middle_slice_across_its_shortest_side(tmp_path):
    voxels = np.zeros((20, 5, 30), dtype=np.float32)
    voxels[:, 2, :15], voxels[0, 0, 0] = 0.5, 1  # J is the shortest side; the rows of its slice are K
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    found = read_properties(str(tmp_path / "a.nii"), image_size=10)
    assert (found.format, found.mode, found.measures["width"], found.measures["height"]) == ("NIfTI", "grey", 20, 30)
    assert found.measures["mean"] == pytest.approx(0.25)
    assert found.thumbnail[:4].min() == 128 and found.thumbnail[6:].max() == 0
