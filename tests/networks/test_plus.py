"""Scores beyond the paper: the same in every form of the model, learned from the training's images alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.data import normalise
from monai_ddad.networks import PLUS_NAMES, DDADModel, PlusScores, fold, unlearnable
from monai_ddad.networks.scores import f_score, image_scores, ratio_score, ssim_map
from monai_ddad.serving.runtimes import RUNTIMES, Runtime
from monai_ddad.training import calibrate

BACKBONES = ["AE", "AE-U", "MemAE"]


@pytest.fixture
def calibrated(make_net, make_dataset):
    """Return a maker of models with scores beyond the paper, calibrated on random images."""

    def make(backbone: str = "AE", **settings: object) -> DDADModel:
        network = make_net(backbone, scores="plus", **settings)
        training = make_dataset(normal=25, unlabeled=25)
        training.images[25:, :, 8:16, 8:16] = 255
        calibrate(network, training, make_dataset(normal=7, unlabeled=0, seed=5))
        assert network.head.plus.weight > 0.1
        return network

    return make


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_and_the_papers_scores_stay_as_they_are(make_net, images, calibrated, backbone):
    network, paper = calibrated(backbone), make_net(backbone)
    with torch.no_grad():
        maps, scores, *_ = network.decide(images)
        torch.testing.assert_close(maps, paper(images))
        torch.testing.assert_close(scores[:, :4], paper.decide(images).scores)
        assert torch.equal(network(images), maps) and torch.equal(network.decide(images).scores, scores)
    assert network.map_names == paper.map_names == paper.score_names
    assert network.score_names == [*paper.map_names, *PLUS_NAMES] and scores.shape == (5, 12)
    assert paper.head.plus is None and not any("plus" in name for name in paper.state_dict())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_ratio_f_and_ssim_are_those_of_the_reconstructions(images, calibrated, backbone, masked):
    network, images = calibrated(backbone, masked=masked), images.clone()
    images[:, :, :8] = -1
    with torch.no_grad():
        scores = dict(zip(network.score_names, network.decide(images).scores.T))
        ndm, udm, unit = network.discrepancy.ndm(images), network.discrepancy.udm(images), torch.ones_like(images)
        if backbone == "AE-U":
            (ndm, log_variances), (udm, _) = ndm.chunk(2, dim=2), udm.chunk(2, dim=2)
            unit = log_variances.exp().mean(dim=0).sqrt()
    field = (images > -1).float() if masked else torch.ones_like(images)
    torch.testing.assert_close(scores["ratio"], ratio_score(images / unit, udm / unit, ndm / unit, field))
    torch.testing.assert_close(scores["f"], f_score(udm / unit, ndm / unit, field))
    torch.testing.assert_close(scores["ssim"], image_scores(ssim_map(udm, ndm), field)[:, 0])


@pytest.mark.parametrize(
    "backbone, runtime", [("AE", name) for name in RUNTIMES[:2]] + [("AE-U", name) for name in RUNTIMES]
)
def test_every_runtime_gives_the_same_scores(images, calibrated, backbone, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxscript")
    network = calibrated(backbone, masked=True)
    with torch.no_grad():
        maps, scores, *_ = network.decide(images)
        folded = fold(network).decide(images).scores
    found_maps, found, *_ = Runtime(network, runtime).decide(images)
    torch.testing.assert_close(found_maps, maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(folded, scores, atol=1e-4, rtol=1e-3)


def test_half_precision_is_near(images, calibrated):
    network = calibrated()
    with torch.no_grad():
        expected = network.decide(images).scores
    found = Runtime(network, precision="bfloat16").decide(images).scores
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.2)


def test_the_calibration_holds_all_scores_and_the_maps_alone(calibrated):
    network = calibrated()
    assert network.calibration.images.scores.shape == (12, 7)
    assert network.calibration.map_quantiles.shape[0] == 4
    assert network.calibration.images.p_values(torch.zeros(3, 12)).shape == (3, 12)


def test_the_calibration_images_teach_nothing(make_net, make_dataset, calibrated):
    network, other = calibrated(), make_net(scores="plus")
    training = make_dataset(normal=25, unlabeled=25)
    training.images[25:, :, 8:16, 8:16] = 255
    calibrate(other, training, make_dataset(normal=3, unlabeled=0, seed=9))
    for name, value in network.head.plus.state_dict().items():
        assert torch.equal(value, other.head.plus.state_dict()[name])


def test_what_the_pool_holds_and_known_normals_do_not_scores_higher(calibrated, make_dataset):
    network = calibrated()
    new = make_dataset(normal=20, unlabeled=0, seed=3)
    with torch.no_grad():
        normal = network.decide(normalise(new.images)).scores
        new.images[:, :, 8:16, 8:16] = 255
        abnormal = network.decide(normalise(new.images)).scores
    for name in ("pu_latent", "ddad_plus"):
        channel = network.score_names.index(name)
        assert (abnormal > normal).float().mean(dim=0)[channel] > 0.8


def features_of(number: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(number, 131 + 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_parts_of_the_sum_are_in_units_of_known_normals_that_did_not_teach_them():
    plus = PlusScores(latents=6)
    plus.fit(features_of(400, seed=0), features_of(300, seed=1, shift=0.2))
    new = features_of(4000, seed=2)
    units = (plus.parts(new) - plus.means) / plus.deviations
    assert units.mean(dim=0).abs().max() < 0.25 and (units.std(dim=0) - 1).abs().max() < 0.25
    expected = units[:, 0] + plus.weight * (units[:, 1] + units[:, 2])
    torch.testing.assert_close(plus(new)[:, -1], expected)
    assert 0.2 < plus.weight < 0.9


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.0, 0.15), (-3.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_a_pool_like_the_known_normals_has_no_weight_and_another_one_full_weight(shift, low, high):
    plus = PlusScores(latents=6)
    plus.fit(features_of(400, seed=0), features_of(300, seed=1, shift=shift))
    assert low <= plus.weight <= high


def test_images_of_one_patient_teach_nothing_of_each_other():
    generator = torch.Generator().manual_seed(0)
    known, pool = (torch.randn(20, 1, 137, generator=generator).repeat(1, 20, 1).flatten(0, 1) for _ in range(2))
    known, pool = (part + 0.1 * torch.randn(part.shape, generator=generator) for part in (known, pool))
    groups = [i // 20 for i in range(400)]
    plus = PlusScores(latents=6)
    plus.fit(known, pool, groups, groups)
    assert plus.weight < 0.3
    plus.fit(known, pool)
    assert plus.weight > 0.6  # which is what groups prevent: the pool is of the same kind


@pytest.mark.gpu
def test_a_gpu_learns_and_scores_as_the_cpu_does_wherever_the_features_are():
    expected, plus = PlusScores(latents=6), PlusScores(latents=6).cuda()
    for scores in (expected, plus):
        scores.fit(features_of(400, seed=0), features_of(300, seed=1, shift=0.2))
    new = features_of(9, seed=2)
    torch.testing.assert_close(plus(new.cuda()).cpu(), expected(new), atol=1e-4, rtol=1e-4)


def test_features_are_moved_to_where_the_scores_are():
    plus = PlusScores(latents=6).to("meta")
    with pytest.raises(NotImplementedError, match="out of meta tensor"):  # a feature was moved there, and is read
        plus.fit(features_of(30, seed=0), features_of(30, seed=1))


@pytest.mark.parametrize("number", [20, 22, 24])
def test_the_fewest_images_that_are_enough_are_cross_fitted_like_more(number):
    plus = PlusScores(latents=6)
    plus.fit(features_of(number, seed=0), features_of(number, seed=1, shift=2.0))
    units = (plus.parts(features_of(500, seed=2)) - plus.means) / plus.deviations
    assert plus.weight == 1 and 0.3 < units[:, 2].std() < 3


def test_few_images_leave_unfitted_what_they_cannot_teach():
    plus = PlusScores(latents=6)
    plus.fit(features_of(400, seed=0), features_of(300, seed=1))
    plus.fit(features_of(400, seed=0), features_of(3, seed=1))
    found = dict(zip(PLUS_NAMES, plus(features_of(9, seed=2)).T))
    assert set(unlearnable(400, 3)) == {"pu_latent", "pu_map"} and "and 3 are left" in unlearnable(400, 3)["pu_map"]
    assert not found["pu_latent"].any() and not found["pu_map"].any() and found["maha_rec"].all()
    plus.fit(features_of(5, seed=0), features_of(300, seed=1))
    found = dict(zip(PLUS_NAMES, plus(features_of(9, seed=2)).T))
    assert set(unlearnable(5, 300)) == {*PLUS_NAMES} - {"ratio", "f", "ssim"} and not unlearnable(20, 20)
    assert found["maha_rec"].std() < 1e-9 and found["ddad_plus"].std() < 1e-4 < found["f"].std()


def test_a_score_without_a_map_shows_inter(make_net):
    assert make_net(scores="plus", score="ddad_plus").shown_map == "inter"
    assert make_net(scores="plus", score="rec").shown_map == "rec"
    assert make_net(scores="plus").score == "ddad_plus" and make_net().score == "r_dual"
    bare = make_net(scores="plus", score="ddad_plus").without_refinement()
    assert bare.score_names == bare.map_names == ["inter", "intra", "rec"] and bare.shown_map == "inter"


def test_what_is_learned_changes_no_score_that_is_said_to_need_nothing(make_net, images):
    network = make_net(scores="plus", refine="none")
    before = dict(zip(network.score_names, network.decide(images).scores.T))
    sample = torch.randn(200, network.discrepancy(images).features.shape[1])
    network.head.plus.fit(sample[:100], sample[100:] + 1)
    after = dict(zip(network.score_names, network.decide(images).scores.T))
    changed = [name for name in PLUS_NAMES if not torch.equal(before[name], after[name])]
    assert changed == [name for name in PLUS_NAMES if name not in ("ratio", "f", "ssim")]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scores": "all"}, "scores must be one of paper, plus, got 'all'"),
        ({"scores": "plus", "members": 1, "refine": "none"}, "at least 2 members, got 1: set scores to paper"),
        ({"score": "ddad_plus"}, "score must be one of r_dual, inter, intra, rec, got 'ddad_plus'"),
    ],
)
def test_what_cannot_be_is_refused(make_net, settings, message):
    with pytest.raises(ValueError, match=message):
        make_net(**settings)
