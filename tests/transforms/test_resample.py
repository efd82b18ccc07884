"""Cutting out, resizing and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from monai_ddad.transforms import BrainSlice, ChestFilm, FundusField, ImageReadError, PlainResize, PlainResized
from monai_ddad.transforms.resample import Box, SquareTransform, square_around


class CutOut(SquareTransform):
    """Keeps one box, whatever the picture."""

    def __init__(self, box: Box, image_size: int = 16) -> None:
        super().__init__(image_size)
        self.box = box

    def prepare(self, picture, pixel_size):
        return picture, self.box


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (0.3 + 0.4 * x + 0.2 * y)[None]


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_resize_is_pils_on_eight_bits(channels):
    values = np.random.default_rng(0).integers(0, 256, (40, 30, channels), dtype=np.uint8).squeeze()
    expected = np.array(Image.fromarray(values).resize((16, 16), Image.Resampling.BILINEAR)).reshape(16, 16, channels)
    picture = torch.from_numpy(values.reshape(40, 30, channels).transpose(2, 0, 1).copy()) / 255
    result = PlainResize(16)(picture)
    found = result.as_tensor().mul(255).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(found, torch.from_numpy(expected))


@pytest.mark.parametrize("box", [Box(4, 6, 20, 20), Box(-5, 3, 30, 30), Box(25, 20, 30, 30), Box(0, 0, 40, 32)])
def test_the_way_back_puts_a_map_where_it_came_from(box):
    transform = CutOut(box, image_size=64)
    picture = smooth(40, 32)
    there = transform(picture)
    back = transform.inverse(MetaTensor(there.as_tensor(), applied_operations=list(there.applied_operations)))
    assert back.shape == picture.shape
    inside = torch.zeros(40, 32, dtype=torch.bool)
    inside[max(box.top, 0) : box.top + box.height, max(box.left, 0) : box.left + box.width] = True
    core = inside & ~(torch.nn.functional.max_pool2d((~inside)[None].float(), 5, 1, 2)[0] > 0)
    core[:2] = core[-2:] = core[:, :2] = core[:, -2:] = False
    assert core.sum() > 50 and (back[0] - picture[0]).abs()[core].max() < 0.02
    assert not back[0][~inside].any()


def test_a_box_beyond_the_picture_is_black_there():
    square = CutOut(Box(-10, -10, 20, 20), image_size=20)(torch.ones(1, 10, 10))
    assert square[0, 12:, 12:].min() == 1 and square[0, :8].max() == square[0, :, :8].max() == 0


@pytest.mark.parametrize("pixel_size, shape", [(None, (12, 12)), ((1.0, 2.0), (12, 6)), ((3.0, 1.0), (4, 12))])
def test_the_box_is_square_in_millimetres_around_the_middle_of_the_mask(pixel_size, shape):
    mask = np.zeros((30, 30), dtype=bool)
    mask[10 : 22 if pixel_size != (3.0, 1.0) else 13, 8 : 20 if pixel_size != (1.0, 2.0) else 10] = True
    box = square_around(mask, pixel_size)
    assert (box.height, box.width) == shape
    middle = [np.flatnonzero(mask.any(axis=axis)).mean() for axis in (1, 0)]
    assert abs(box.top + (box.height - 1) / 2 - middle[0]) <= 0.5
    assert abs(box.left + (box.width - 1) / 2 - middle[1]) <= 0.5


def test_a_compose_can_be_inverted():
    chain = Compose([PlainResized("image", image_size=16)])
    there = chain({"image": MetaTensor(smooth(40, 30))})["image"]
    back = chain.inverse({"image": MetaTensor(torch.ones(3, 16, 16), applied_operations=there.applied_operations)})
    assert back["image"].shape == (3, 40, 30) and back["image"].min() == 1


@pytest.mark.parametrize("transform", [PlainResize(16), BrainSlice(16), ChestFilm(16), FundusField(16)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_pictures_give_finite_values_in_range(transform, value):
    result = transform(torch.full((1, 24, 20), value))
    assert result.shape == (1, 16, 16) and torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("transform", [PlainResize(16), BrainSlice(16), ChestFilm(16), FundusField(16)])
def test_a_volume_is_refused_and_the_picture_given_is_left_alone(transform):
    with pytest.raises(ImageReadError, match="single pictures are expected"):
        transform(torch.zeros(1, 8, 8, 8))
    picture = torch.rand(1, 24, 20, generator=torch.Generator().manual_seed(0))
    before = picture.clone()
    transform(picture)
    assert torch.equal(picture, before)


def test_tiny_squares_are_refused():
    with pytest.raises(ValueError, match="at least 8 pixels, got 4"):
        PlainResize(4)


def test_absurd_pixels_are_refused_before_any_memory_is_taken():
    picture = MetaTensor(smooth(64, 64), meta={"pixel_size": (1e-4, 0.5)})
    with pytest.raises(ImageReadError, match="50 times as long as wide"):
        BrainSlice(16)(picture)
