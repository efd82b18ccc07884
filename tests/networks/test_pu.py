"""The score of the classifiers between known normals and unlabelled images, in every form of the model."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.checkpoints import RECORD_KEY
from monai_ddad.engines import calibrate
from monai_ddad.networks import PU_NAME, DDADNet, Decision, fold
from monai_ddad.onnx_models import export_onnx
from monai_ddad.runtimes import RUNTIMES, Runtime


@pytest.mark.parametrize("settings", [{}, {"scores": "plus"}, {"members": 1, "refine": "none"}, {"masked": True}])
def test_the_score_is_the_mean_logit_and_the_others_stay_as_they_are(make_net, images, settings):
    network, without = make_net(pu_members=3, **settings), make_net(**settings)
    for part in ("ndm", "udm", "asr"):
        if (module := getattr(without, part)) is not None:
            module.load_state_dict(getattr(network, part).state_dict())
    with torch.no_grad():
        maps, scores = network.scored(images)
        expected = sum(member(images)[:, 0] for member in network.pu.members) / 3
        expected_maps, others = without.scored(images)
    assert network.score_names == [*without.score_names, PU_NAME]
    torch.testing.assert_close(scores[:, -1], expected)
    assert torch.equal(maps, expected_maps) and torch.equal(scores[:, :-1], others) and scores[:, -1].std() > 0
    assert without.pu is None and network.score == without.score


def test_the_score_has_no_map_and_can_decide(make_net, images):
    network = make_net(pu_members=1, score=PU_NAME)
    assert (network.score, network.shown_map) == (PU_NAME, "inter") and PU_NAME not in network.map_names
    bare = network.without_refinement()
    assert bare.pu is None and bare.pu_members == 0 and bare.scored(images)[1].shape == (5, 3)


@pytest.mark.parametrize("runtime", RUNTIMES[:2])
def test_a_runtime_gives_the_same_score(make_net, images, runtime):
    network = make_net(pu_members=2, scores="plus")
    with torch.no_grad():
        expected = network.image_scores(images)[:, -1]
        folded = fold(network).image_scores(images)[:, -1]
    torch.testing.assert_close(Runtime(network, runtime).scored(images)[1][:, -1], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded, expected, atol=1e-4, rtol=1e-4)


def test_half_precision_is_near(make_net, images):
    network = make_net(pu_members=2)
    found = Runtime(network, precision="bfloat16").scored(images)[1]
    with torch.no_grad():
        torch.testing.assert_close(found[:, -1], network.image_scores(images)[:, -1], atol=0.05, rtol=0.05)


def test_an_onnx_file_has_the_score_and_its_p_value(make_net, make_dataset, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = make_net(pu_members=2, members=2)
    calibrate(network, make_dataset(normal=8, unlabeled=4), make_dataset(normal=19, unlabeled=0, seed=5))
    export_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["scores", "p_values"], {"image": images.numpy()})
    with torch.no_grad():
        _, scores, p_values, _ = Decision(network)(images)
    assert session.get_modelmeta().custom_metadata_map["score_names"].endswith(PU_NAME)
    torch.testing.assert_close(torch.from_numpy(found[0]), scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found[1]), p_values)


def test_the_score_is_calibrated_on_the_held_out_images(make_net, make_dataset):
    network, held_out = make_net(pu_members=2), make_dataset(normal=19, unlabeled=0, seed=5)
    calibrate(network, make_dataset(normal=8, unlabeled=4), held_out)
    with torch.no_grad():
        own = network.image_scores(torch.stack([held_out[i]["image"] for i in range(19)]))
    order = own[:, -1].argsort(descending=True)
    expected = torch.arange(2, 21) / 20  # how many of the 19 are as high or higher, and the image itself, of 20
    torch.testing.assert_close(network.p_values(own)[order, -1], expected)


def test_weights_come_from_the_seed_and_leave_those_of_the_ensembles(tiny):
    network, again, without = (
        DDADNet(**tiny, seed=3, pu_members=2),
        DDADNet(**tiny, seed=3, pu_members=3),
        DDADNet(**tiny, seed=3),
    )
    for name, value in without.state_dict().items():
        if not name.startswith("calibration.") and name != RECORD_KEY:
            assert torch.equal(value, network.state_dict()[name])
    first, second = (member.model[0].weight for member in network.pu.members)
    assert torch.equal(first, again.pu.members[0].model[0].weight) and not torch.equal(first, second)


def test_fewer_than_no_members_are_refused(make_net):
    with pytest.raises(ValueError, match="pu_members must be at least 0, got -1"):
        make_net(pu_members=-1)
