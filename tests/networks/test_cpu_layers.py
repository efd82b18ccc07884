"""Layers computed otherwise on CPUs are those of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks import AE, ASRNet, cpu_layers
from monai_ddad.networks.cpu_layers import CPULayers


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """Shapes of the left factors that oneDNN has been given since."""
    made: list[torch.Size] = []
    product = cpu_layers.PRODUCT
    if product is None:
        pytest.skip("this PyTorch has no oneDNN")

    def count(rows: torch.Tensor, *rest: object) -> torch.Tensor:
        made.append(rows.shape)
        return product(rows, *rest)

    monkeypatch.setattr(cpu_layers, "PRODUCT", count)
    return made


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return an input, a weight and a bias."""
    generator = torch.Generator().manual_seed(0)
    sizes = (5, 24), (17, 24), (17,)
    return [torch.randn(size, generator=generator, dtype=dtype, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("given", [[True, True, True], [True, True, None], [True, True]])
@pytest.mark.parametrize("upstream", [torch.linspace(-1, 1, 85).view(5, 17), torch.ones(()).expand(5, 17)])
def test_outputs_and_gradients_are_those_of_pytorch(products, given, upstream):
    layer = [value if kept else None for value, kept in zip(tensors(), given)]
    wanted = [value for value in layer if value is not None]
    expected = F.linear(*layer)
    with CPULayers():
        found = F.linear(*layer)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    ):
        torch.testing.assert_close(one, other)
    assert products == [(5, 24), (5, 17), (17, 5)]


def test_frozen_inputs_get_no_gradient(products):
    image, weight, bias = tensors()
    with CPULayers():
        (found,) = torch.autograd.grad(F.linear(image.detach(), weight, bias).sum(), [weight])
    assert products == [(5, 24), (17, 5)] and found.shape == weight.shape


def test_what_onednn_does_not_take_is_left_to_pytorch(products):
    with CPULayers():
        F.linear(*tensors(torch.float64))
        F.linear(torch.zeros(2, 3, 24), tensors()[1])
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(*tensors()).dtype == torch.bfloat16
    assert products == []


def thin(transposed: bool, outputs: int = 2, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a last layer as those of ASR-Net and of the autoencoders are."""
    if transposed:
        return nn.ConvTranspose2d(16, outputs, 4, stride=2, padding=1, bias=bias, dtype=dtype)
    return nn.Conv2d(9 * outputs, outputs, 3, padding=1, bias=bias, dtype=dtype)


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """Names of the layers that were computed otherwise since."""
    names: list[str] = []

    def count(name, takes, compute):
        return takes, lambda *args: (names.append(name), compute(*args))[1]

    monkeypatch.setattr(
        cpu_layers, "LAYERS", {key: count(key.__name__, *found) for key, found in cpu_layers.LAYERS.items()}
    )
    return names


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_thin_convolutions_and_their_gradients_are_those_of_pytorch(taken, transposed, outputs, bias, memory_format):
    layer = thin(transposed, outputs, bias, torch.float64).to(memory_format=memory_format)
    channels = 16 if transposed else 9 * outputs
    image = torch.randn(3, channels, 6, 10, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    wanted = [image, *layer.parameters()]
    expected = layer(image)
    with CPULayers():
        found = layer(image)
    assert taken == ["conv_transpose2d" if transposed else "conv2d"]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("transposed", [True, False])
def test_thin_convolutions_under_autocast_have_its_precision(transposed):
    layer, image = thin(transposed), torch.rand(2, 16 if transposed else 18, 8, 8)
    exact = layer(image)
    with torch.autocast("cpu", torch.bfloat16), CPULayers():
        found = layer(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.02)
    found.sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_other_convolutions_are_left_to_pytorch(taken):
    with CPULayers():
        for layer in (
            nn.Conv2d(18, 2, 3),
            nn.Conv2d(18, 2, 3, padding=1, stride=2),
            nn.Conv2d(64, 18, 3, padding=1),
            nn.Conv2d(18, 2, 3, padding="same"),
            nn.Conv2d(18, 2, 3, padding=1, padding_mode="circular"),
            nn.ConvTranspose2d(18, 2, 4, stride=2),
            nn.ConvTranspose2d(18, 2, 4, stride=2, padding=1, output_padding=1),
            nn.ConvTranspose2d(18, 2, 4, stride=2, padding=1, groups=2),
            nn.ConvTranspose2d(18, 16, 4, stride=2, padding=1),
        ):
            layer(torch.rand(2, layer.in_channels, 8, 8))
    assert taken == []


def test_the_last_layers_of_both_networks_are_taken(taken):
    with CPULayers():
        AE(image_size=16, hidden_size=8, latent_size=2)(torch.rand(2, 1, 16, 16))
        ASRNet(2)(torch.rand(2, 2, 16, 16))
    assert [name for name in taken if name != "linear"] == ["conv_transpose2d", "conv2d"]
