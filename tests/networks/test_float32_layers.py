"""Layers kept in float32 are those of PyTorch in float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_ddad.networks import float32_layers
from monai_ddad.networks.float32_layers import Float32Layers


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """Shapes of the left factors that oneDNN has been given since."""
    made: list[torch.Size] = []
    product = float32_layers.PRODUCT
    if product is None:
        pytest.skip("this PyTorch has no oneDNN")

    def count(rows: torch.Tensor, *rest: object) -> torch.Tensor:
        made.append(rows.shape)
        return product(rows, *rest)

    monkeypatch.setattr(float32_layers, "PRODUCT", count)
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
    with Float32Layers():
        found = F.linear(*layer)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    ):
        torch.testing.assert_close(one, other)
    assert products == [(5, 24), (5, 17), (17, 5)]


def test_frozen_inputs_get_no_gradient(products):
    image, weight, bias = tensors()
    with Float32Layers():
        (found,) = torch.autograd.grad(F.linear(image.detach(), weight, bias).sum(), [weight])
    assert products == [(5, 24), (17, 5)] and found.shape == weight.shape


def test_under_autocast_they_stay_in_float32(products):
    expected = F.linear(*tensors())
    decoder = torch.nn.ConvTranspose2d(6, 3, kernel_size=4, stride=2)
    image = torch.rand(2, 6, 5, 5)
    with torch.autocast("cpu", torch.bfloat16), Float32Layers():
        torch.testing.assert_close(F.linear(*tensors()), expected)
        torch.testing.assert_close(decoder(image.bfloat16()), decoder(image.bfloat16().float()))
        assert torch.nn.ConvTranspose2d(6, 16, kernel_size=4)(image).dtype == torch.bfloat16
        assert torch.nn.Conv2d(6, 3, kernel_size=3)(image).dtype == torch.bfloat16
        assert decoder.bfloat16()(image.bfloat16()).dtype == torch.bfloat16
    assert products == [(5, 24)]


def test_what_onednn_does_not_take_is_left_to_pytorch(products):
    with Float32Layers():
        assert F.linear(*tensors(torch.float64)).dtype == torch.float64
        assert F.linear(torch.zeros(2, 3, 24), tensors()[1]).shape == (2, 3, 17)
    assert products == []
