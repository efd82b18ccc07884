"""Films in files for volumes: the way round that they are seen, their grey levels and their colours."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ddad.transforms import ChestFilm, ImageReadError, PlainResize, ReadImage, picture_to_slice, slice_to_picture

FILM = np.random.default_rng(0).integers(20, 200, (30, 40), np.uint8)  # rows and columns
UPRIGHT = np.diag([-0.2, -0.3, 1.0, 1.0])  # columns to the left, rows to the back


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("flips", product([False, True], repeat=2))
def test_a_film_is_seen_the_same_way_round_however_its_file_is_ordered(order, flips):
    grid, affine = FILM.T[..., None], UPRIGHT.copy()
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += (grid.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
            grid = np.flip(grid, axis)
    grid, affine = grid.transpose(order), affine[:, [*order, 3]]
    volume = MetaTensor(torch.from_numpy(grid[None].copy()), affine=torch.from_numpy(affine))
    picture = slice_to_picture(volume)
    np.testing.assert_array_equal(picture[0].numpy(), FILM)
    assert picture.meta["pixel_size"] == pytest.approx((0.3, 0.2))
    np.testing.assert_array_equal(picture_to_slice(picture[0].numpy(), volume.affine, grid.shape), grid)


@pytest.mark.parametrize(
    "directions, rows, columns",
    [(((-1, 0, 0), (0, 0, -1)), 1, 1), (((0, -1, 0), (0, 0, -1)), 1, 1), (((1, 0, 0), (0, 0, 1)), -1, -1)],
    ids=["from the front", "from the side", "from the front, upside down"],
)
def test_upright_films_have_the_head_above_and_the_patients_left_on_the_right(directions, rows, columns):
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions
    affine[:3, 2] = np.cross(*directions)
    film = MetaTensor(torch.from_numpy(FILM.T[None, ..., None].copy()), affine=torch.from_numpy(affine))
    np.testing.assert_array_equal(slice_to_picture(film)[0].numpy(), FILM[::rows, ::columns])


def test_an_identity_affine_says_nothing():
    picture = slice_to_picture(MetaTensor(torch.from_numpy(FILM.T[None, ..., None].copy())))
    np.testing.assert_array_equal(picture[0].numpy(), FILM)


@pytest.mark.parametrize("name, transform", [("a.nii.gz", ChestFilm(16)), ("b.nii", PlainResize(16))])
def test_a_sent_film_is_prepared_as_the_picture_that_it_was(name, transform, tmp_path):
    Image.fromarray(FILM).save(tmp_path / "film.png")
    nib.Nifti1Image(FILM.T[..., None], np.diag([-1.0, -1, 1, 1])).to_filename(tmp_path / name)
    sent, film = ReadImage()(tmp_path / name), ReadImage()(tmp_path / "film.png")
    assert sent.meta["photometry"]["range"] == "eight bits"
    torch.testing.assert_close(transform(sent).as_tensor(), transform(film).as_tensor())


@pytest.mark.parametrize("form", ["vector", "RGB"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_sent_photograph_keeps_its_colours(form, in_channels, tmp_path):
    colours = np.stack([FILM, 255 - FILM, FILM // 2], axis=-1)
    Image.fromarray(colours).save(tmp_path / "photograph.png")
    stored = np.ascontiguousarray(colours.transpose(1, 0, 2))[:, :, None]
    if form == "vector":
        stored = stored[:, :, :, None]
    else:
        stored = stored.view(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))[..., 0]
    nib.Nifti1Image(stored, np.diag([-1.0, -1, 1, 1])).to_filename(tmp_path / "sent.nii.gz")
    sent = slice_to_picture(ReadImage(in_channels)(tmp_path / "sent.nii.gz"))
    torch.testing.assert_close(sent.as_tensor(), ReadImage(in_channels)(tmp_path / "photograph.png").as_tensor())


def test_a_volume_of_several_slices_is_no_film():
    with pytest.raises(ImageReadError, match="single pictures are expected"):
        PlainResize(16)(MetaTensor(torch.zeros(1, 20, 20, 2)))
