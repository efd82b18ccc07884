"""A score that could not be learnt, or that tells nothing, never decides, in whatever form the model is run."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_ddad.data import normalise
from monai_ddad.decision import cautions
from monai_ddad.networks import DDADModel, build_model
from monai_ddad.serving.runtimes import RUNTIMES, Runtime
from monai_ddad.training import calibrate

NEED_NORMALS = {"maha_rec", "maha_inter", "ddad_plus"}
NEED_POOL = {"pu_latent", "pu_map"}


@pytest.fixture
def learn(make_net, make_dataset):
    """Return a maker of models calibrated after a training on so many images."""

    def make(normal: int, unlabeled: int, set_aside: int = 20, **settings: object) -> DDADModel:
        network = make_net(**({"scores": "plus"} | settings))
        calibrate(network, make_dataset(normal, unlabeled), make_dataset(set_aside, 0, seed=5))
        return network

    return make


def deciding(network: DDADModel, scores: torch.Tensor) -> torch.Tensor:
    return scores[:, network.score_names.index(network.score)]


@pytest.mark.parametrize(
    ("normal", "unlabeled", "score", "left_out"),
    [
        (2, 25, "rec", NEED_NORMALS | NEED_POOL),
        (19, 25, "rec", NEED_NORMALS | NEED_POOL),
        (20, 19, "ddad_plus", NEED_POOL),
        (20, 20, "ddad_plus", set()),
    ],
)
def test_a_score_that_so_few_images_cannot_teach_is_left_out_and_another_one_decides(
    learn, make_dataset, normal, unlabeled, score, left_out
):
    network = learn(normal, unlabeled)
    with torch.no_grad():
        scores = network.decide(normalise(make_dataset(9, 0, seed=7).images)).scores
    assert (
        deciding(network, scores).std() > 1e-3
        and len(deciding(network, network.calibration.images.p_values(scores)).unique()) > 2
    )
    assert network.score == score and set(network.left_out) == left_out
    assert scores.shape[1] == len(network.score_names) == len(network.calibration.images.scores) == 12 - len(left_out)
    assert not set(network.score_names) & left_out and (scores.std(dim=0) > 0).all()
    said = " ".join(network.notes)
    assert bool(said) is bool(left_out) and all(name in said for name in left_out)
    if score == "rec":
        assert "it takes 20 known normals to learn from" in said and f"and {normal} are left for it" in said
        assert said.endswith("rec decides instead of ddad_plus.")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_leaves_out_the_same(learn, images, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxscript")
    network = learn(5, 25, masked=True)
    with torch.no_grad():
        expected = network.decide(images).scores
    found = Runtime(network, runtime).decide(images).scores
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_model_that_is_built_from_its_record_scores_as_it_did(learn, images, tiny):
    network = learn(5, 25)
    settings = {"scores": "plus", "score": network.score, "wanted_score": "ddad_plus", "left_out": network.left_out}
    other = build_model(**tiny, **settings, calibration_images=20)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval().decide(images).scores, network.decide(images).scores)
    assert other.notes == network.notes and other.score_names == network.score_names
    asked = build_model(**tiny, **(settings | {"score": "inter"}))
    assert asked.score == "inter" and asked.notes[-1] == "inter decides instead of ddad_plus."
    with pytest.raises(ValueError, match=r"ddad_plus could not be learnt \(it takes 20 known normals.*5 are left"):
        build_model(**tiny, **(settings | {"score": "ddad_plus"}))


def test_with_images_enough_a_later_calibration_learns_the_score_again(learn, make_dataset):
    network = learn(5, 25)
    calibrate(network, make_dataset(25, 25), make_dataset(20, 0, seed=5))
    assert network.score == "ddad_plus" and not network.notes and len(network.score_names) == 12


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_score_that_is_constant_or_not_finite_for_another_reason_never_decides(make_net, make_dataset, value):
    network = make_net()
    for parameter in network.discrepancy.asr.parameters():
        parameter.data.fill_(value)
    calibrate(network, make_dataset(9, 9), make_dataset(20, 0, seed=5))
    assert network.score == "rec" and list(network.left_out) == ["r_dual"] and network.score_names[0] == "inter"
    assert "of the training. rec decides instead of r_dual." in " ".join(network.notes)
    assert network.calibration.images.scores.isfinite().all()


def test_images_that_are_all_the_same_are_no_training(make_net, make_dataset):
    training = make_dataset(9, 9)
    training.images[:] = training.images[:1]
    with pytest.raises(ValueError, match="no score tells the images apart"):
        calibrate(make_net(), training, make_dataset(3, 0, seed=5))


def test_what_the_calibration_cannot_flag_is_said(learn):
    network = learn(20, 20, set_aside=18)
    normals = network.calibration.images
    (said,) = cautions(network, normals, alpha=0.05)
    assert "Nothing can be flagged at alpha 0.05" in said and "18 groups" in said and "takes 19" in said
    assert cautions(network, normals, alpha=0.06) == cautions(network, normals, alpha=0) == []
    few = copy.deepcopy(network)
    few.protocol.fit(torch.zeros(3, 1, 32, 32))
    assert "What is out of protocol is not known: it takes 20 images" in cautions(few, normals, 0.06)[0]
