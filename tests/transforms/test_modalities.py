"""Chest films, fundus photographs and head slices: what is cut out and what brightness does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.transforms import BrainSlice, ChestFilm, FundusField
from monai_ddad.transforms.brain_mri import head_mask
from monai_ddad.transforms.chest_xray import exposed_field
from monai_ddad.transforms.fundus import field_of_view


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


class TestBrainSlice:
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """A bright scalp, a dark ring of bone and a brain, with a thin frame and a letter beside it."""
        whole = disc(120, 100, (60, 50), 40)
        picture = 0.02 * noise((120, 100))
        picture[whole] = 0.8
        picture[disc(120, 100, (60, 50), 37)] = 0.01
        brain = disc(120, 100, (60, 50), 33)
        picture[brain] = 0.4 + 0.2 * noise((120, 100))[brain]
        picture[0], picture[:, 0] = 1, 1
        picture[5:12, 90:92] = 1
        return picture, whole

    def test_the_head_is_found_with_the_bone_and_without_frame_and_letter(self):
        picture, whole = self.head()
        assert overlap(head_mask(picture), whole) > 0.95

    @pytest.mark.parametrize("gain", [0.3, 0.5, 0.8])
    def test_brightness_of_the_whole_slice_does_not_matter(self, gain):
        picture, _ = self.head()
        one = BrainSlice(32)(torch.from_numpy(picture)[None])
        other = BrainSlice(32)(torch.from_numpy(gain * picture)[None])
        assert (one - other).abs().max() < 0.02

    def test_the_head_fills_the_square_wherever_it_lies(self):
        picture, _ = self.head()
        shifted = np.roll(picture[1:, 1:], (8, -6), axis=(0, 1))
        one, other = (BrainSlice(32)(torch.from_numpy(p.copy())[None]) for p in (picture[1:, 1:], shifted))
        assert (one - other).abs().mean() < 0.02
        rows = np.flatnonzero(np.asarray(one)[0].max(axis=1) > 0)
        assert np.ptp(rows) + 1 >= 29

    @pytest.mark.parametrize("options", [{"deviations": 0}, {"deviations": -3}, {"margin": -0.1}])
    def test_impossible_numbers_are_refused(self, options):
        with pytest.raises(ValueError, match="deviations must be above 0"):
            BrainSlice(**options)

    def test_air_is_black(self):
        square = BrainSlice(64)(torch.from_numpy(self.head()[0])[None])
        assert not square[0, :3, :3].any()


class TestChestFilm:
    @pytest.mark.parametrize("border", [0.0, 1.0])
    def test_the_collimation_border_is_cut_off(self, border):
        picture = np.full((100, 90), border, dtype=np.float32)
        picture[12:95, 20:80] = 0.2 + 0.6 * noise((83, 60))
        field = exposed_field(picture)
        assert field[12:95, 20:80].all() and field.sum() == 83 * 60

    def test_a_film_without_a_border_is_kept_whole(self):
        assert exposed_field(noise((50, 40))).all()

    def test_a_film_that_is_nearly_all_border_is_kept_whole(self):
        picture = np.zeros((50, 40))
        picture[10:14] = noise((4, 40))
        assert exposed_field(picture).any(axis=1).all()

    def test_the_aspect_ratio_is_kept(self):
        picture = noise((80, 40))
        square = np.asarray(ChestFilm(40)(torch.from_numpy(picture)[None]))[0]
        assert not square[:, :9].any() and not square[:, -9:].any() and square[:, 12:28].mean() > 0.4

    @pytest.mark.parametrize("gain, offset", [(0.5, 0.2), (0.3, 0.0)])
    def test_the_range_does_not_depend_on_the_exposure(self, gain, offset):
        picture = noise((64, 64))
        one, other = (ChestFilm(32)(torch.from_numpy(p)[None]) for p in (picture, gain * picture + offset))
        assert (one - other).abs().max() < 1e-5

    def test_one_glaring_letter_does_not_set_the_range(self):
        picture = 0.1 + 0.2 * noise((100, 100))
        picture[3:8, 3:8] = 1.0
        assert ChestFilm(50)(torch.from_numpy(picture)[None])[0, 20:].mean() > 0.4

    def test_clahe_raises_the_local_contrast(self):
        dim = np.linspace(0.4, 0.6, 64)[:, None] + 0.02 * noise((64, 64))
        dim[0, 0], dim[-1, -1] = 0, 1
        plain, clahe = (
            ChestFilm(64, percentiles=(0, 100), clahe=c)(torch.from_numpy(dim.astype(np.float32))[None])
            for c in (None, 0.03)
        )
        assert clahe[0, 20:40].std() > 1.5 * plain[0, 20:40].std()

    @pytest.mark.parametrize("clahe", [0, 5])
    def test_a_wrong_clip_limit_is_refused(self, clahe):
        with pytest.raises(ValueError, match="clahe must be in"):
            ChestFilm(clahe=clahe)

    @pytest.mark.parametrize("percentiles", [(99, 1), (-1, 50), (5, 101)])
    def test_wrong_percentiles_are_refused(self, percentiles):
        with pytest.raises(ValueError, match="two rising numbers"):
            ChestFilm(percentiles=percentiles)


class TestFundusField:
    def photograph(self, centre: tuple[int, int] = (60, 80), radius: int = 50) -> tuple[torch.Tensor, np.ndarray]:
        field = disc(120, 160, centre, radius)
        red, green = (low + 0.2 * noise((120, 160), seed) for seed, low in ((1, 0.7), (2, 0.3)))
        colours = np.stack([red, green, np.full_like(red, 0.1)])
        frame = 0.02 * noise((3, 120, 160), 3)
        return torch.from_numpy(np.where(field, colours, frame).astype(np.float32)), field

    @pytest.mark.parametrize("centre, radius", [((60, 80), 50), ((60, 70), 66), ((50, 90), 40)])
    def test_the_field_of_view_is_found(self, centre, radius):
        photograph, field = self.photograph(centre, radius)
        assert overlap(field_of_view(photograph.numpy()), field) > 0.97

    def test_outside_is_exactly_zero_and_inside_is_not(self):
        photograph, _ = self.photograph()
        square = np.asarray(FundusField(64)(photograph))[0]
        expected = disc(64, 64, (31.5, 31.5), 32)
        assert overlap(square > 0, expected) > 0.95
        assert square[square > 0].min() >= 1 / 255

    @pytest.mark.parametrize(
        "channels, expected",
        [("green", [0.4]), ("luminance", [0.299 * 0.8 + 0.587 * 0.4 + 0.114 * 0.1]), ("rgb", [0.8, 0.4, 0.1])],
    )
    def test_channels(self, channels, expected):
        square = FundusField(32, channels=channels)(self.photograph()[0])
        assert square.shape == (len(expected), 32, 32)
        for channel, value in zip(square, expected):
            assert abs(float(channel[12:20, 12:20].mean()) - value) < 0.02

    def test_a_field_cut_at_top_and_bottom_stays_round(self):
        photograph, _ = self.photograph(radius=75)
        square = np.asarray(FundusField(64)(photograph))[0] > 0
        assert square[32].sum() >= 62 and not square[:5].any() and not square[-5:].any()

    def test_a_grey_photograph_is_taken_as_it_is(self):
        grey = self.photograph()[0][1:2]
        assert FundusField(32, channels="green")(grey).shape == (1, 32, 32)

    def test_wrong_percentiles_are_refused(self):
        with pytest.raises(ValueError, match="two rising numbers"):
            FundusField(percentiles=(99, 1))

    def test_unknown_channels_are_refused(self):
        with pytest.raises(ValueError, match="luminance, green or rgb, got 'blue'"):
            FundusField(channels="blue")
