"""The false-positive rate promised on normal images holds, and the edge cases of few or equal scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from monai_ddad.decision.decisions import decide
from monai_ddad.networks.calibration import LEVELS, Calibration, NormalScores, map_percentiles, smallest_alpha


def normals_of(*scores: float, groups: list[int] | None = None) -> NormalScores:
    """One score's calibration images."""
    normals = NormalScores(1)
    normals.fit(torch.tensor(scores)[:, None], groups or range(len(scores)))
    return normals


@pytest.mark.parametrize("normals", [1, 2, 19, 100])
def test_p_values_are_those_of_a_plain_count(normals):
    rng = np.random.default_rng(normals)
    known, new = rng.integers(0, 30, (normals, 2)).astype(np.float32), rng.integers(0, 30, (50, 2)).astype(np.float32)
    expected = [[(1 + (known[:, m] >= row[m]).sum()) / (normals + 1) for m in range(2)] for row in new]
    found = NormalScores(2)
    found.fit(torch.from_numpy(known), range(normals))
    np.testing.assert_allclose(found.p_values(torch.from_numpy(new)).numpy(), expected, rtol=1e-6)
    assert found.groups == len(found) == normals


def test_each_group_counts_as_one():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 40)
    groups = np.repeat(np.arange(40), sizes).tolist()
    known, new = rng.random((len(groups), 2)), rng.random((50, 2))
    found = NormalScores(2)
    found.fit(torch.from_numpy(known).float(), groups)
    expected, ranks = np.zeros((50, 2)), np.zeros((50, 2))
    for group in range(40):
        part = known[np.array(groups) == group]
        expected += (part[:, None] >= new).mean(axis=0)
        ranks += (part[:, None] < new).mean(axis=0)
    np.testing.assert_allclose(found.p_values(torch.from_numpy(new)).numpy(), (1 + expected) / 41, rtol=1e-5)
    np.testing.assert_allclose(found.percentiles(torch.from_numpy(new)).numpy(), 100 * ranks / 40, rtol=1e-3, atol=1e-3)
    assert found.groups == 40 and len(found) == len(groups)


def test_percentiles_are_those_of_scipy():
    rng = np.random.default_rng(0)
    known, new = rng.integers(0, 30, 80).astype(float), rng.integers(0, 30, 50).astype(float)
    found = normals_of(*known).percentiles(torch.from_numpy(new)[:, None])
    np.testing.assert_allclose(found[:, 0].numpy(), stats.percentileofscore(known, new, kind="mean"), rtol=1e-6)


@pytest.mark.parametrize(
    "normals, alpha", [(n, a) for n in (1, 2, 19, 30, 99) for a in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)]
)
def test_the_promised_rate_of_false_positives_holds_on_new_normal_images(normals, alpha):
    repeats, new = 500, 25
    rng = np.random.default_rng(round(1000 * alpha) + normals)
    draws = torch.from_numpy(rng.gamma(2.0, size=(repeats, normals + new)))
    flagged = 0
    for draw in draws:
        found = decide(draw[normals:].numpy()[:, None], ["rec"], normals_of(*draw[:normals]), "rec", alpha)
        flagged += int(found.flagged.sum())
    exact = np.floor(alpha * (normals + 1) + 1e-6) / (normals + 1)  # of distinct scores
    # images that share their calibration are dependent: the spread of the rate over repeats adds to the binomial one
    spread = np.sqrt(exact * (1 - exact) * (1 / new + 1 / (normals + 2)) / repeats)
    assert exact <= alpha + 1e-6
    assert abs(flagged / (repeats * new) - exact) <= 4 * spread


def test_the_promised_rate_holds_where_patients_have_several_images_that_are_alike():
    """Counting images one by one, a patient with many of them would decide alone."""
    repeats, patients, alpha = 2000, 19, 0.1
    rng = np.random.default_rng(0)
    flags = np.zeros((repeats, 2))
    for repeat in range(repeats):
        sizes = np.where(rng.random(patients) < 0.2, 30, 1)
        groups = np.repeat(np.arange(patients), sizes)
        centres = rng.normal(size=patients + 1) - np.r_[np.log(sizes), 0]  # those with many images score lower
        centres[-1] -= np.log(30 if rng.random() < 0.2 else 1)
        known = torch.from_numpy(centres[groups] + 0.1 * rng.normal(size=len(groups))).float()
        for column, counted in enumerate((groups.tolist(), range(len(groups)))):
            normals = NormalScores(1)
            normals.fit(known[:, None], counted)
            flags[repeat, column] = normals.p_values(torch.tensor([[centres[-1]]])).item() <= alpha
    by_group, one_by_one = flags.mean(axis=0)
    assert by_group <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / repeats)
    assert one_by_one > 2 * alpha


def test_without_calibration_images_nothing_is_flagged():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert NormalScores(2).p_values(scores).tolist() == [[1, 1], [1, 1]]
    assert NormalScores(2).percentiles(scores).tolist() == [[50, 50], [50, 50]]


def test_one_normal_reaches_one_half_and_two_one_third():
    scores = torch.tensor([[0.0], [9.0]])
    assert normals_of(5.0).p_values(scores)[:, 0].tolist() == [1.0, 0.5]
    torch.testing.assert_close(normals_of(5.0, 6.0).p_values(scores)[:, 0], torch.tensor([1.0, 1 / 3]))
    assert smallest_alpha(1) == 0.5 and smallest_alpha(2) == pytest.approx(1 / 3)


def test_equal_scores_are_never_flagged():
    known = normals_of(*[0.25] * 40)
    assert known.p_values(torch.tensor([[0.25]])).item() == 1
    assert known.percentiles(torch.tensor([[0.25]])).item() == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_another_runtime_does_not_part_a_tie(dtype):
    known = normals_of(0.1, 0.2, 0.3).to(dtype)
    for factor in (1 - 1e-6, 1.0, 1 + 1e-6):
        assert known.p_values(torch.tensor([[0.2 * factor]], dtype=dtype)).item() == 0.75
        assert known.percentiles(torch.tensor([[0.2 * factor]], dtype=dtype)).item() == pytest.approx(50)


@pytest.mark.parametrize("alpha, flagged", [(0.0, [False] * 3), (1.0, [True] * 3), (0.25, [False, False, True])])
def test_alpha_at_its_ends_and_at_the_smallest_p_value(alpha, flagged):
    scores = np.array([[0.0], [0.15], [9.0]])
    assert decide(scores, ["rec"], normals_of(0.1, 0.2, 0.3), "rec", alpha).flagged.tolist() == flagged


@pytest.mark.parametrize("normals", [19, 39, 99])
def test_an_alpha_equal_to_the_smallest_p_value_flags(normals):
    known = normals_of(*range(normals))
    alpha = smallest_alpha(normals)
    assert decide(np.array([[1e6]]), ["rec"], known, "rec", alpha).flagged.tolist() == [True]
    assert decide(np.array([[1e6]]), ["rec"], known, "rec", 0.999 * alpha).flagged.tolist() == [False]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be a rate in \[0, 1\]"):
        decide(np.zeros((1, 1)), ["rec"], normals_of(1, 2), "rec", alpha)


def test_a_score_that_the_model_lacks_is_refused():
    with pytest.raises(ValueError, match="score must be one of inter, rec, got 'other'"):
        decide(np.zeros((1, 2)), ["inter", "rec"], NormalScores(2), score="other")


def test_volumes_are_calibrated_by_the_means_of_their_slices():
    calibration = Calibration(2, 2)
    scores = torch.tensor([[5.0, 0.0], [1.0, 2.0], [3.0, 4.0], [9.0, 9.0], [7.0, 8.0]])
    calibration.fit_scores(scores, groups=[3, 3, 3, 8, 9], volumes=[7, 4, 4, None, 5])
    assert calibration.images.scores.tolist() == [[1, 3, 5, 7, 9], [0, 2, 4, 8, 9]]
    assert calibration.volumes.scores.tolist() == [[2, 5, 7], [0, 3, 8]]
    assert calibration.volumes.weights.tolist() == [[0.5, 0.5, 1], [0.5, 0.5, 1]]  # two volumes of one patient
    assert calibration.images.groups == 3 and calibration.volumes.groups == 2


def test_map_percentiles_are_the_share_of_normal_pixels_below():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(40, 2, 16, 16, generator=generator) ** 2
    calibration = Calibration(2, 2)
    calibration.fit_maps(maps)
    values = np.array([0.001, 0.1, 0.5, 0.9, 0.99])
    for channel in range(2):
        pixels = maps[:, channel].flatten().numpy()
        found = map_percentiles(values, calibration.map_quantiles[channel].numpy())
        exact = [100 * (pixels < value).mean() for value in values]
        levels = np.array(LEVELS)
        steps = [np.diff(levels)[max(0, np.searchsorted(levels, level) - 1)] for level in exact]
        assert (np.abs(found - exact) < 0.25 * np.array(steps)).all()  # linear between levels
    assert map_percentiles(np.array([2.0]), calibration.map_quantiles[0].numpy()).item() == 100
