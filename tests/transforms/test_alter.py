"""Alterations against PyTorch's own operations, and draws that stay within their limits."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.transforms import Alterations, RandAlter, alter

SIDE = 8
LEFT_AS_IT_IS = [[1.0, 0, 0], [0, 1, 0]]


@pytest.fixture
def images() -> torch.Tensor:
    """Three (2, 8, 8) images."""
    return torch.rand(3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def same(**other: torch.Tensor) -> Alterations:
    """Return alterations of three images that do nothing but what is given."""
    neutral = {
        "places": torch.tensor(LEFT_AS_IT_IS).repeat(3, 1, 1),
        "gain": torch.ones(3),
        "gamma": torch.ones(3),
        "noise": torch.zeros(3, 2, SIDE, SIDE),
        "holes": torch.zeros(3, 3),
    }
    return Alterations(**neutral | other)


@pytest.mark.parametrize(
    "places, expected",
    [
        (LEFT_AS_IT_IS, lambda image: image),
        ([[-1.0, 0, 0], [0, 1, 0]], lambda image: image.flip(3)),
        ([[0.0, -1, 0], [1, 0, 0]], lambda image: image.rot90(1, (2, 3))),
        (
            [[1.0, 0, 4 / SIDE], [0, 1, 0]],
            lambda image: torch.cat([image[..., 2:], image[..., -1:].expand(-1, -1, -1, 2)], 3),
        ),
    ],
    ids=["none", "mirror", "turn", "shift"],
)
def test_images_are_moved(images, places, expected):
    found = alter(images, same(places=torch.tensor(places).repeat(3, 1, 1)))
    torch.testing.assert_close(found, expected(images), atol=1e-5, rtol=1e-5)


def test_brightness_gets_an_exponent_a_factor_and_noise_and_stays_in_range(images):
    gain, gamma, noise = torch.tensor([0.5, 1, 2]), torch.tensor([2.0, 1, 0.5]), torch.randn(3, 2, SIDE, SIDE) / 10
    found = alter(images, same(gain=gain, gamma=gamma, noise=noise))
    for k in range(3):
        bright = (gain[k] * ((images[k] + 1) / 2) ** gamma[k] + noise[k]).clamp(0, 1)
        torch.testing.assert_close(found[k], 2 * bright - 1, atol=1e-5, rtol=1e-5)


def test_a_hole_is_black_and_the_rest_stays(images):
    found = alter(images, same(holes=torch.tensor([[0.0, 0, 0], [0, 0.5, 0.25], [-1, -1, 0.5]])))
    expected = images.clone()
    expected[1, :, 5:7, 3:5] = -1
    expected[2, :, :2, :2] = -1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_draws_stay_within_their_limits(flip):
    limits = RandAlter(flip, degrees=20, scale=0.1, shift=0.05, gain=0.2, gamma=0.3, noise=0.05, hole=0.1)
    how = limits.draw(torch.Size([2000, 1, 4, 4]), torch.Generator().manual_seed(0))
    turned, size = how.places[:, :, :2], torch.linalg.det(how.places[:, :, :2]).abs().sqrt()
    assert size.min() >= 0.9 and size.max() <= 1.1 and size.std() > 0.05
    mirrored = torch.linalg.det(turned) < 0
    assert mirrored.float().mean() == pytest.approx(0.5 if flip else 0, abs=0.05)
    angle = torch.atan2(-turned[:, 0, 1], turned[:, 1, 1]).rad2deg()
    assert 19 < angle.max() <= 20.001 and -20.001 <= angle.min() < -19
    torch.testing.assert_close(turned @ turned.mT, (size**2)[:, None, None] * torch.eye(2).expand(2000, 2, 2))
    assert 0.09 < how.places[:, :, 2].abs().max() <= 0.1
    assert 0.8 <= how.gain.min() < 0.82 and 1.18 < how.gain.max() <= 1.2
    assert 0.29 < how.gamma.log().abs().max() <= 0.3001
    assert how.holes[:, 2].min() >= 0 and 0.19 < how.holes[:, 2].max() <= 0.2 and how.holes[:, :2].abs().max() <= 1
    assert how.noise.std() == pytest.approx(0.05 / 3**0.5, rel=0.05)


def test_the_generator_alone_decides(images):
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        found.append(RandAlter()(images, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
