"""Linear layers by oneDNN are those of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_ddad.networks import onednn
from monai_ddad.networks.onednn import OneDNNLinear


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """Shapes of the left factors that oneDNN has been given since."""
    made: list[torch.Size] = []
    product = onednn.PRODUCT
    if product is None:
        pytest.skip("this PyTorch has no oneDNN")

    def count(rows: torch.Tensor, *rest: object) -> torch.Tensor:
        made.append(rows.shape)
        return product(rows, *rest)

    monkeypatch.setattr(onednn, "PRODUCT", count)
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
    with OneDNNLinear():
        found = F.linear(*layer)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    ):
        torch.testing.assert_close(one, other)
    assert products == [(5, 24), (5, 17), (17, 5)]


def test_frozen_inputs_get_no_gradient(products):
    image, weight, bias = tensors()
    with OneDNNLinear():
        (found,) = torch.autograd.grad(F.linear(image.detach(), weight, bias).sum(), [weight])
    assert products == [(5, 24), (17, 5)] and found.shape == weight.shape


def test_what_onednn_does_not_take_is_left_to_pytorch(products):
    with OneDNNLinear():
        F.linear(*tensors(torch.float64))
        F.linear(torch.zeros(2, 3, 24), tensors()[1])
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(*tensors()).dtype == torch.bfloat16
    assert products == []
