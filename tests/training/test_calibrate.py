"""A trained model is calibrated on images that no network has seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.data import normalise
from monai_ddad.networks import Deciding, build_model
from monai_ddad.networks.calibration import LEVELS
from monai_ddad.networks.ddad import BACKBONES
from monai_ddad.training import calibrate


@pytest.fixture
def calibrated(make_net, make_dataset):
    """A model, its training images, and the calibration images."""
    network, training = make_net(z_map="inter"), make_dataset(normal=8, unlabeled=4)
    held_out = make_dataset(normal=7, unlabeled=0, seed=5)
    calibrate(network, training, held_out, alpha=0.2)
    return network, training, held_out


def test_the_buffers_hold_the_scores_of_the_calibration_images_alone(calibrated):
    network, _, held_out = calibrated
    with torch.no_grad():
        expected = network.decide(normalise(held_out.images)).scores.T.sort(dim=1).values
    torch.testing.assert_close(network.calibration.images.scores, expected)
    assert network.calibration.alpha.item() == pytest.approx(0.2)
    assert network.calibration.volumes.scores.shape == (5, 0)


def test_a_z_map_has_mean_0_before_it_is_cut_and_that_deviation_on_the_known_normals(calibrated):
    network, training, _ = calibrated
    normal = normalise(training.images[:8])
    with torch.no_grad():
        inter = network.discrepancy.discrepancy_maps(normal)[:, :1].double()
        shown = network(normal)[:, network.map_names.index("z_inter")]
    mean, deviation = inter.mean(dim=0), inter.std(dim=0)
    expected = ((inter - mean) / (deviation + 0.05 * deviation.mean())).clamp(min=0)[:, 0]
    torch.testing.assert_close(shown.double(), expected, atol=1e-4, rtol=1e-4)
    assert network.map_names[-1] == "z_inter"


def test_calibrating_twice_changes_nothing(calibrated):
    network, training, held_out = calibrated
    first = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate(network, training, held_out, alpha=0.2)
    assert all(torch.equal(value, first[name]) for name, value in network.state_dict().items())


def test_without_calibration_images_maps_are_compared_with_the_known_normals(make_net, make_dataset):
    network, training = make_net(), make_dataset()
    calibrate(network, training, training.subset([]))
    assert network.calibration.images.scores.shape == (4, 0)
    with torch.no_grad():
        maps = network(normalise(training.images[:8]))
    for channel in range(4):
        expected = np.quantile(maps[:, channel].numpy(), np.array(LEVELS) / 100)
        np.testing.assert_allclose(network.calibration.map_quantiles[channel].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "backbone", ["AE-U", *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES if name != "AE-U")]
)
def test_weights_torchscript_and_onnx_give_the_same_p_values(make_net, make_dataset, tiny, backbone, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, training = make_net(backbone, members=2, z_map="rec"), make_dataset(normal=8, unlabeled=4)
    held_out, new = make_dataset(normal=19, unlabeled=0, seed=5), make_dataset(normal=6, unlabeled=0, seed=6)
    calibrate(network, training, held_out)
    images = torch.cat([normalise(new.images), normalise(held_out.images[:3])])  # the last ones are ties
    with torch.no_grad():
        scores = network.decide(images).scores
        expected = network.calibration.images.p_values(scores)
    ranks = (network.calibration.images.scores[None] >= scores[:, :, None] * (1 - 1e-5)).sum(-1)
    torch.testing.assert_close(expected, (ranks + 1) / 20)
    assert len(expected.unique()) > 3

    loaded = build_model(backbone=backbone, members=2, z_map="rec", calibration_images=19, **tiny)
    loaded.load_state_dict(network.state_dict())
    scripted = torch.jit.script(network)
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        Deciding(network).eval(), (images[:2],), file, dynamo=True, dynamic_shapes={"image": {0: batch}}, verbose=False
    )
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for module in (loaded.eval(), scripted):
            assert torch.equal(module.decide(images).p_values, expected)
        assert torch.equal(Deciding(network)(images)[2], expected)
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(outputs[1], scores.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(outputs[2], expected.numpy())
