"""DDADModel's maps and scores against NumPy, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.io.checkpoints import RECORD_KEY
from monai_ddad.networks import DDADModel, build_model

BACKBONES = ["AE", "AE-U", "MemAE"]


def numpy_maps(network: DDADModel, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Compute (B, H, W) maps from the members' own outputs, in loops of float64."""
    x, channels = image.double().numpy(), image.shape[1]
    ndm = [member(image).detach().double().numpy() for member in network.discrepancy.ndm.members]
    udm = [member(image).detach().double().numpy() for member in network.discrepancy.udm.members]
    variance = np.ones_like(x)
    if network.discrepancy.settings.backbone == "AE-U":
        variance = sum(np.exp(output[:, channels:]) for output in ndm) / len(ndm)
        ndm, udm = [output[:, :channels] for output in ndm], [output[:, :channels] for output in udm]
    mean_a, mean_b = sum(udm) / len(udm), sum(ndm) / len(ndm)
    maps = {"inter": np.sqrt((mean_a - mean_b) ** 2 / variance), "rec": (x - mean_b) ** 2 / variance}
    if len(ndm) > 1:
        spread = sum((output - mean_b) ** 2 for output in ndm) / (len(ndm) - 1)
        maps["intra"] = np.sqrt(spread / variance)
    return {name: values.mean(axis=1) for name, values in maps.items()}


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_and_scores_equal_numpy(make_net, images, backbone, members, in_channels):
    network = make_net(backbone, members=members, in_channels=in_channels, refine="none")
    image = torch.rand(4, in_channels, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        maps, scores = network(image).numpy(), network.decide(image).scores.numpy()
    expected = numpy_maps(network, image)
    assert network.map_names == ["inter", "intra", "rec"]
    for channel, name in enumerate(network.map_names):
        np.testing.assert_allclose(maps[:, channel], expected[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[:, channel], expected[name].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_the_predicted_variances_differ_enough_to_be_tested(make_net, images):
    log_variances = make_net("AE-U").discrepancy.ndm(images).chunk(2, dim=2)[1]
    assert log_variances.std() > 0.1


@pytest.mark.parametrize("refine, inputs", [("dual", ["inter", "intra"]), ("intra", ["intra"])])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_refined_map_is_the_softmax_of_asr_on_the_raw_maps(make_net, images, backbone, refine, inputs):
    network = make_net(backbone, refine=refine)
    with torch.no_grad():
        maps, scores = network(images).numpy(), network.decide(images).scores.numpy()
        expected = numpy_maps(network, images)
        stacked = torch.from_numpy(np.stack([expected[name] for name in inputs], axis=1)).float()
        logits = network.discrepancy.asr(stacked).double().numpy()
    refined = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    assert network.map_names == [f"r_{refine}", "inter", "intra", "rec"]
    np.testing.assert_allclose(maps[:, 0], refined, atol=1e-5)
    np.testing.assert_allclose(scores[:, 0], refined.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(maps[:, 1], expected["inter"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_member_gives_finite_inter_and_rec_maps_alone(make_net, images, backbone):
    network = make_net(backbone, members=1, refine="none")
    expected = numpy_maps(network, images)
    assert network.map_names == ["inter", "rec"]
    for channel, name in enumerate(network.map_names):
        np.testing.assert_allclose(network(images)[:, channel].detach(), expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no ASR-Net"):
        network.discrepancy.refine_logits(network(images))


@pytest.mark.parametrize("refine", ["dual", "intra"])
def test_refining_one_member_is_refused_with_the_way_out(tiny, refine):
    with pytest.raises(ValueError, match="members to 2 or more, or set refine to none"):
        build_model(members=1, refine=refine, **tiny)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"backbone": "VAE"}, "one of AE, AE-U, MemAE, got 'VAE'"),
        ({"refine": "inter"}, "one of dual, intra, none, got 'inter'"),
        ({"members": 0}, "at least 1, got 0"),
        ({"image_size": 40}, "multiple of 16, got 40"),
    ],
)
def test_wrong_settings_are_named(tiny, wrong, message):
    with pytest.raises(ValueError, match=message):
        build_model(**tiny | wrong)


def test_half_a_model_never_counts_as_loaded(make_net, tiny):
    network, other = build_model(backbone="AE", **tiny), make_net("AE", seed=1)
    assert not network.loaded
    weights = other.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict(dict(list(weights.items())[:-1]), strict=False)
    assert not network.loaded
    network.load_state_dict(weights)
    assert network.loaded and all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_model_takes_up_another_number_of_calibration_images(make_net):
    network, other = make_net("AE"), make_net("AE", seed=1)
    scores = torch.rand(7, len(other.map_names))
    other.calibration.images.fit(scores, range(7))
    network.load_state_dict(other.state_dict())
    assert torch.equal(network.calibration.images.p_values(scores), other.calibration.images.p_values(scores))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_order_of_members_does_not_matter(make_net, images, backbone):
    network = make_net(backbone)
    with torch.no_grad():
        before = network(images)
        for module in (network.discrepancy.ndm, network.discrepancy.udm):
            module.members = torch.nn.ModuleList([module.members[k] for k in (2, 0, 1)])
        torch.testing.assert_close(network(images), before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_equal_members_have_no_intra_and_equal_modules_no_inter(make_net, images, backbone):
    network = make_net(backbone, refine="none")
    for module in (network.discrepancy.ndm, network.discrepancy.udm):
        for member in module.members:
            member.load_state_dict(network.discrepancy.ndm.members[0].state_dict())
    inter, intra, rec = network(images).unbind(dim=1)
    assert inter.max() < 1e-6 and intra.max() < 1e-6 < rec.max()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_image_scores_the_same_alone_and_in_a_batch(make_net, images, backbone):
    network = make_net(backbone)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=1e-5)


def test_the_seed_fixes_every_weight_whatever_was_drawn_before(tiny):
    torch.manual_seed(5)
    first = build_model(backbone="MemAE", seed=3, **tiny).state_dict()
    torch.manual_seed(6)
    second = build_model(backbone="MemAE", seed=3, **tiny).state_dict()
    other = build_model(backbone="MemAE", seed=4, **tiny).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name, value in first.items() if name.endswith("weight") and value.dim() > 1]
    assert drawn and all(not torch.equal(first[name], other[name]) for name in drawn)


def test_each_member_starts_with_weights_of_its_own(tiny):
    network = build_model(seed=0, **tiny)
    weights = [
        member.encoder[0].weight
        for module in (network.discrepancy.ndm, network.discrepancy.udm)
        for member in module.members
    ]
    assert len({weight.detach().numpy().tobytes() for weight in weights}) == 6


def test_a_members_initial_weights_do_not_depend_on_how_many_there_are(tiny):
    few, many = build_model(members=2, seed=0, **tiny).state_dict(), build_model(members=4, seed=0, **tiny).state_dict()
    del few[RECORD_KEY]  # which says how many
    assert all(torch.equal(value, many[name]) for name, value in few.items())


@pytest.mark.parametrize("refine, members", [("dual", 3), ("intra", 2), ("none", 1)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_torchscript_equals_eager(make_net, images, backbone, refine, members):
    network = make_net(backbone, refine=refine, members=members)
    scripted = torch.jit.script(network)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images), network(images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scripted.decide(images).scores, network.decide(images).scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_onnx_runtime_equals_eager(make_net, images, backbone, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, file = make_net(backbone, members=2), tmp_path / "model.onnx"
    torch.onnx.export(
        network,
        (images[:2],),
        file,
        dynamo=True,
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        input_names=["image"],
        output_names=["maps"],
        verbose=False,
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        (maps,) = session.run(None, {"image": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(maps), network(batch).detach(), atol=1e-5, rtol=1e-5)


@pytest.fixture
def framed(images):
    """Images whose left half and one corner are outside the field of view; the last one is outside altogether."""
    framed = images.clamp(min=-0.99)
    framed[:, :, :, :16] = framed[:, :, 24:, 24:] = framed[-1] = -1
    return framed


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_masked_model_leaves_what_is_outside_the_field_out_of_maps_and_scores(make_net, framed, backbone):
    masked, plain = (make_net(backbone, masked=value) for value in (True, False))
    inside = framed[:, 0] > -1
    with torch.no_grad():
        maps, whole, scores = masked(framed), plain(framed), masked.decide(framed).scores
    for k in range(len(framed)):
        assert not maps[k][:, ~inside[k]].any()
        assert torch.equal(maps[k][:, inside[k]], whole[k][:, inside[k]])
        expected = whole[k][:, inside[k]].mean(dim=1) if inside[k].any() else torch.zeros(4)
        torch.testing.assert_close(scores[k], expected)


def test_a_masked_pixel_is_one_that_is_black_in_all_channels(make_net):
    image = torch.full((1, 3, 32, 32), -1.0)
    image[0, 1, 4, 5] = 0.2
    assert make_net(in_channels=3, masked=True).discrepancy.field(image).nonzero().tolist() == [[0, 0, 4, 5]]


def test_a_masked_model_is_the_same_in_torchscript_and_onnx(make_net, framed, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, file = make_net(members=2, masked=True), tmp_path / "model.onnx"
    scripted = torch.jit.script(network)
    torch.onnx.export(network, (framed,), file, dynamo=True, input_names=["image"], verbose=False)
    (maps,) = runtime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": framed.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(scripted(framed), network(framed), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scripted.decide(framed).scores, network.decide(framed).scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.from_numpy(maps), network(framed), atol=1e-5, rtol=1e-5)
