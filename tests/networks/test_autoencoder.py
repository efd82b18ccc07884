"""AE and AE-U are the networks of method.md, section 2."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ddad.networks import AE, AEU, MemAE

SHAPES = {  # one image of 64 x 64, from method.md
    "encoder": [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3 + [(64, 4, 4)] * 3,
    "linear_enc": [(2048,)] * 3 + [(16,)],
    "linear_dec": [(2048,)] * 3 + [(1024,)],
    "decoder": [(64, 8, 8)] * 3 + [(32, 16, 16)] * 3 + [(16, 32, 32)] * 3 + [(1, 64, 64)],
}
PLACES = {"encoder": (0, 1, 3, 4, 6, 7, 9, 10), "linear_enc": (0, 1, 3), "linear_dec": (0, 1, 3)}
PLACES["decoder"] = (0, 1, 3, 4, 6, 7, 9)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("kind, parameters", [(AE, 4_487_248), (AEU, 4_487_504), (MemAE, 4_487_648)])
def test_parameter_count_is_that_of_the_authors(kind, parameters):
    assert count(kind()) == parameters


@pytest.mark.parametrize("kind, channels", [(AE, 1), (AEU, 2), (MemAE, 1)])
def test_every_layer_has_the_shape_of_the_method(kind, channels):
    network, seen = kind().eval(), {}
    for part in SHAPES:
        for place, layer in enumerate(getattr(network, part)):
            layer.register_forward_hook(lambda _, __, out, key=(part, place): seen.update({key: tuple(out.shape[1:])}))
    with torch.no_grad():
        network(torch.zeros(1, 1, 64, 64))
    expected = {(part, place): shape for part, shapes in SHAPES.items() for place, shape in enumerate(shapes)}
    assert seen == expected | {("decoder", 9): (channels, 64, 64)}


@pytest.mark.parametrize("kind", [AE, AEU, MemAE])
def test_state_dict_has_the_authors_names(kind):
    found = {name.rsplit(".", 1)[0] for name in kind().state_dict()}
    expected = {f"{part}.{place}" for part, places in PLACES.items() for place in places}
    assert found == expected | ({"mem_rep.memory"} if kind is MemAE else set())


@pytest.mark.parametrize("kind", [AE, AEU, MemAE])
def test_only_linear_layers_and_batch_norm_have_a_bias(kind, tiny):
    layers = dict(kind(**tiny).named_modules())
    with_bias = {name for name, layer in layers.items() if getattr(layer, "bias", None) is not None}
    kinds = (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    expected = {name for name, layer in layers.items() if isinstance(layer, kinds)}
    assert with_bias == expected - {"mem_rep.memory"}


@pytest.mark.parametrize("kind", [AE, AEU])
def test_forward_equals_the_layers_written_out(kind, tiny, images):
    network = kind(**tiny).eval()
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.uniform_(-0.1, 0.1)
    weights, functional = network.state_dict(), nn.functional

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{key}"].view(1, -1, *[1] * (x.dim() - 2))
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu((x - mean) / (var + 1e-5).sqrt() * scale + shift)

    x = images
    for i in (0, 3, 6, 9):
        x = norm(functional.conv2d(x, weights[f"encoder.{i}.weight"], stride=2, padding=1), f"encoder.{i + 1}")
    x = x.reshape(len(x), -1)
    for part in ("linear_enc", "linear_dec"):
        x = norm(x @ weights[f"{part}.0.weight"].T + weights[f"{part}.0.bias"], f"{part}.1")
        x = x @ weights[f"{part}.3.weight"].T + weights[f"{part}.3.bias"]
    x = x.reshape(len(x), 8, 2, 2)
    for i in (0, 3, 6, 9):
        x = functional.conv_transpose2d(x, weights[f"decoder.{i}.weight"], stride=2, padding=1)
        x = norm(x, f"decoder.{i + 1}") if i < 9 else x
    torch.testing.assert_close(network(images), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, channels", [(AE, 3), (AEU, 6), (MemAE, 3)])
def test_colour_images_are_reconstructed_in_colour(kind, channels, tiny):
    assert kind(in_channels=3, **tiny).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, channels, 32, 32)


@pytest.mark.parametrize("kind", [AE, AEU, MemAE])
@pytest.mark.parametrize("image_size", [16, 48, 128])
def test_any_multiple_of_16_is_an_image_size(kind, image_size, tiny):
    network = kind(**tiny | {"image_size": image_size}).eval()
    assert network(torch.zeros(2, 1, image_size, image_size)).shape[-2:] == (image_size, image_size)


@pytest.mark.parametrize("kind", [AE, AEU, MemAE])
@pytest.mark.parametrize("image_size", [-16, 0, 8, 63, 72])
def test_other_image_sizes_are_refused(kind, image_size, tiny):
    with pytest.raises(ValueError, match=f"multiple of 16, got {image_size}"):
        kind(**tiny | {"image_size": image_size})
