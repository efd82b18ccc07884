"""The protocol check against plain numpy, and whether it tells ordinary images from misfits."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from monai_ddad.data.phantom import draw_phantom
from monai_ddad.networks.protocol import MIN_IMAGES, REASONS, ProtocolCheck, protocol_features, reason

SIDE = 64
KINDS = ("brain", "chest", "fundus")
TURNS = [lambda x, k=k, m=m: torch.rot90(x.flip(-1) if m else x, k, (-2, -1)) for m in (False, True) for k in range(4)]


def random_images(number: int, channels: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Images whose neighbours resemble each other, each of a smoothness and brightness of its own."""
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.rand(number, channels, n, n, generator=generator) * 2 - 1 for n in (side, side // 4))
    weight = torch.rand(number, 1, 1, 1, generator=generator)
    return (weight * fine + (1 - weight) * F.interpolate(coarse, side)) * torch.linspace(0.3, 1, side)


@cache
def phantoms(kind: str, seeds: range, abnormal: bool = False) -> torch.Tensor:
    """(N, C, 64, 64) in [-1, 1]."""
    drawn = (Image.fromarray(draw_phantom(seed, abnormal, SIDE, kind)[0]).resize((SIDE, SIDE)) for seed in seeds)
    pixels = np.stack([np.atleast_3d(np.asarray(picture)) for picture in drawn])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(scope="module")
def fitted() -> dict[str, ProtocolCheck]:
    checks = {}
    for kind in KINDS:
        images = torch.cat([phantoms(kind, range(100)), phantoms(kind, range(100, 150), abnormal=True)])
        checks[kind] = ProtocolCheck(images.shape[1])
        checks[kind].fit(images)
    return checks


MISFITS = {
    "rotated by 90 degrees": lambda x: x.rot90(1, (2, 3)),
    "inverted": lambda x: -x,
    "all black": lambda x: torch.full_like(x, -1),
    "all white": torch.ones_like,
    "all grey": torch.zeros_like,
    "framed": lambda x: F.pad(F.avg_pool2d(x, 2), [SIDE // 4] * 4, value=-1),
    "cut": lambda x: F.interpolate(x[..., : SIDE // 2, : SIDE // 2], SIDE, mode="bilinear"),
    "noise": lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    "blurred": lambda x: F.interpolate(F.avg_pool2d(x, 8), SIDE, mode="bilinear"),
    "over-exposed": lambda x: (2.5 * x + 1.9).clamp(-1, 1),
}


# --- against plain numpy -------------------------------------------------------------------------------------------


def features_by_loops(image: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Features of one (C, H, W) image, written down from their definition."""
    side = image.shape[-1]
    brightness = []
    for level in range(9):
        for channel in image.astype(float):
            share = np.mean([min(max((value + 1) * 4 - level + 0.5, 0), 1) for value in channel.ravel()])
            brightness.append(np.log((share + 0.02) / (1 - share + 0.02)))

    grey, faint = image.astype(float).mean(axis=0), (2 / 255) ** 2
    cells = grey.reshape(8, side // 8, 8, side // 8).mean(axis=(1, 3)).ravel()
    layout = list((cells - cells.mean()) / (cells.std() + 0.1))
    energy = np.zeros((2, side, side))
    for y in range(side):
        for x in range(side):
            energy[0, y, x] = sum((grey[y, x] - grey[j, x]) ** 2 for j in (y - 1, y + 1) if 0 <= j < side)
            energy[1, y, x] = sum((grey[y, x] - grey[y, j]) ** 2 for j in (x - 1, x + 1) if 0 <= j < side)
    energy = energy.reshape(2, 8, side // 8, 8, side // 8).mean(axis=(2, 4)).ravel()
    layout += list(np.sqrt(energy / (energy.mean() + faint)))

    detail = []
    for _ in range(4):
        for axis in (0, 1):
            squared = np.diff(grey, axis=axis) ** 2
            detail += [np.log(squared.mean() + faint), np.log(squared + faint).mean()]
        grey = grey.reshape(len(grey) // 2, 2, len(grey) // 2, 2).mean(axis=(1, 3))
    return brightness, layout, detail


def covariance_of(features: np.ndarray) -> np.ndarray:
    """The shrunk covariance, from its definition."""
    number, size = features.shape
    deviation = np.sqrt(features.var(axis=0, ddof=1) + 0.1**2)
    shrunk = np.cov(features.T) * number / (number + size)
    np.fill_diagonal(shrunk, deviation**2)
    return shrunk


def distance_of(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of each row, over the root of the number of features."""
    difference = features - training.mean(axis=0)
    solved = np.linalg.solve(covariance_of(training), difference.T).T
    return np.sqrt((difference * solved).sum(axis=1) / training.shape[1])


def distances_of(images: torch.Tensor, training: torch.Tensor) -> np.ndarray:
    """All four, the images turned one by one."""
    learnt = [group.numpy().astype(float) for group in protocol_features(training)]
    groups = [group.numpy().astype(float) for group in protocol_features(images)]
    brightness, upright, detail = (distance_of(*pair) for pair in zip(groups, learnt))
    turned = [distance_of(protocol_features(turn(images))[1].numpy().astype(float), learnt[1]) for turn in TURNS[1:]]
    return np.stack([brightness, upright, detail, (upright / np.min(turned, axis=0)) ** 2], axis=1)


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32), (1, 48)])
def test_features_are_what_they_are_said_to_be(channels, side):
    images = random_images(2, channels, side)
    for index, image in enumerate(images):
        for ours, expected in zip(protocol_features(images), features_by_loops(image.numpy())):
            np.testing.assert_allclose(ours[index].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize(("channels", "number"), [(1, 60), (3, 61)])
def test_ratios_equal_mahalanobis_distances_over_limits_of_the_half_left_out(channels, number):
    images, others = random_images(number, channels), random_images(9, channels, seed=1)
    check = ProtocolCheck(channels)
    check.fit(images)
    left_out = [distances_of(images[1 - half :: 2], images[half::2]) for half in (0, 1)]
    limits = np.quantile(np.concatenate(left_out), 0.98, axis=0) * 1.3 * (1 + 1 / np.sqrt(number))
    limits = np.maximum(limits, 1.1)
    np.testing.assert_allclose(check.limits.numpy(), limits, rtol=1e-3)
    np.testing.assert_allclose(check(others).numpy(), distances_of(others, images) / limits, rtol=1e-3)


# --- what it is for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abnormal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_phantoms_are_inside(fitted, kind, abnormal):
    ratios = fitted[kind](phantoms(kind, range(1000, 1040), abnormal))
    assert (ratios > 1).any(dim=1).float().mean() <= 0.05
    assert ratios[:, :3].median() > 0.3  # the limits are not simply far away


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("kind", KINDS)
def test_misfits_are_outside(fitted, kind, misfit):
    ratios = fitted[kind](MISFITS[misfit](phantoms(kind, range(1000, 1040))))
    assert (ratios > 1).any(dim=1).float().mean() >= 0.95


@pytest.mark.parametrize("trained", KINDS)
def test_other_kinds_are_outside(fitted, trained):
    for kind in set(KINDS) - {trained}:
        images = phantoms(kind, range(1000, 1040)).mean(dim=1, keepdim=True)
        ratios = fitted[trained](images.expand(-1, fitted[trained].in_channels, -1, -1))
        assert (ratios > 1).any(dim=1).float().mean() >= 0.9


def test_a_turned_image_is_said_to_be_turned(fitted):
    for turn in TURNS[1:]:
        for row in fitted["chest"](turn(phantoms("chest", range(1000, 1010)))).tolist():
            assert "turned or mirrored" in reason(row)


def test_strays_among_the_training_images_do_not_set_the_limits():
    ordinary, black = phantoms("chest", range(150)), -torch.ones(1, 1, SIDE, SIDE)
    check = ProtocolCheck()
    check.fit(torch.cat([ordinary[:70], phantoms("brain", range(1)), black, ordinary[70:]]))
    for name, misfit in MISFITS.items():
        assert (check(misfit(ordinary[:40])) > 1).any(dim=1).float().mean() >= 0.95, name


# --- edges ---------------------------------------------------------------------------------------------------------


def test_an_unfitted_check_has_nothing_outside():
    images = torch.cat([random_images(5), torch.ones(1, 1, 32, 32), -torch.ones(1, 1, 32, 32), 9 * random_images(1)])
    assert (ProtocolCheck()(images) == 0).all()


def test_too_few_images_leave_the_check_unfitted_and_say_so(caplog):
    check = ProtocolCheck()
    check.fit(random_images(MIN_IMAGES))
    assert check(random_images(1, seed=1)).min() > 0
    with caplog.at_level(logging.WARNING):
        check.fit(random_images(MIN_IMAGES - 1))
    assert f"at least {MIN_IMAGES}" in caplog.text
    assert (check(random_images(1, seed=1)) == 0).all()


def test_constant_images_are_measured(fitted):
    constant = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, SIDE, SIDE)
    assert fitted["brain"](constant).isfinite().all()
    check = ProtocolCheck()
    check.fit(constant[:1].expand(30, -1, -1, -1))
    ratios = check(torch.cat([constant, random_images(1, side=SIDE)]))
    assert ratios.isfinite().all()
    assert ((ratios > 1).any(dim=1) == torch.tensor([False] + 5 * [True])).all()


def test_a_symmetric_image_is_not_turned():
    half = random_images(40)
    images = torch.cat([half[..., :16], half[..., :16].flip(-1)], dim=-1)
    images = images + images.flip(-2)
    images = images + images.transpose(2, 3)
    check = ProtocolCheck()
    check.fit(images[:30] / 4)
    assert (check(images[30:] / 4)[:, 3] <= 1).all()


@pytest.mark.parametrize(
    "images", [torch.zeros(30, 3, 32, 32), torch.zeros(30, 1, 32, 48), torch.zeros(30, 1, 40, 40)], ids=str
)
def test_images_of_another_shape_are_refused(images):
    with pytest.raises(ValueError, match="square images of 1 channels whose side is a multiple of 16"):
        ProtocolCheck().fit(images)


def test_images_that_are_not_finite_are_refused():
    images = random_images(30)
    images[7, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        ProtocolCheck().fit(images)


def test_the_reason_is_the_group_farthest_outside():
    assert reason([1.0, 1.0, 1.0, 1.0]) == ""
    for group, sentence in enumerate(REASONS):
        assert reason([1.2 if other == group else 1.1 for other in range(4)]) == sentence


# --- in every form of the model ------------------------------------------------------------------------------------


def test_a_state_dict_carries_the_check(fitted):
    for kind, check in fitted.items():
        copy = ProtocolCheck(check.in_channels)
        copy.load_state_dict(check.state_dict())
        images = phantoms(kind, range(1000, 1040))
        assert torch.equal(copy(images), check(images))


def test_torchscript_equals_eager(fitted):
    for kind, check in fitted.items():
        images = phantoms(kind, range(1000, 1040))
        torch.testing.assert_close(torch.jit.script(check)(images), check(images))


def test_onnx_runtime_equals_eager(fitted, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images, file = phantoms("fundus", range(1000, 1040)), tmp_path / "check.onnx"
    torch.onnx.export(fitted["fundus"].eval(), (images,), file, dynamo=True, input_names=["image"], verbose=False)
    (ratios,) = runtime.InferenceSession(file).run(None, {"image": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(ratios), fitted["fundus"](images), rtol=1e-3, atol=1e-4)


# --- on real images ------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_chest_films_are_inside_and_misfits_outside(real_data, read_square):
    def images(folder: Path, names: list[str]) -> torch.Tensor:
        read = read_square(SIDE)
        return (
            torch.stack([read({"image": str(folder / "images" / name)})["image"].as_tensor() for name in names]) * 2 - 1
        )

    folder = real_data / "chest_xray"
    lists = json.loads((folder / "data.json").read_text())
    unlabeled = lists["train"]["unlabeled"]
    check = ProtocolCheck()
    check.fit(images(folder, lists["train"]["0"][:200] + unlabeled["0"][:50] + unlabeled["1"][:100]))
    for label in ("0", "1"):
        films = images(folder, lists["test"][label][:80])
        assert (check(films) > 1).any(dim=1).float().mean() <= 0.05
        for misfit in ("rotated by 90 degrees", "inverted", "all black", "noise", "blurred", "framed"):
            assert (check(MISFITS[misfit](films)) > 1).any(dim=1).float().mean() >= 0.95, misfit
    brain = real_data / "brain_mri"
    heads = images(brain, json.loads((brain / "data.json").read_text())["test"]["0"][:40])
    assert (check(heads) > 1).any(dim=1).float().mean() >= 0.95
