"""ASR-Net by Winograd's tiles against ASR-Net itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ddad.networks import ASRNet, WinogradASRNet, fold


@pytest.fixture
def network() -> ASRNet:
    """An ASR-Net whose logits vary."""
    torch.manual_seed(0)
    network = ASRNet(2, width=24).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.05, 0.2)
            layer.bias.data.normal_(0, 0.3)
    return network


@pytest.mark.parametrize("channels, size", [(2, (32, 32)), (1, (16, 48)), (2, (4, 4))])
def test_the_logits_are_those_of_the_network_to_rounding(channels, size):
    torch.manual_seed(1)
    network = ASRNet(channels, width=24).eval().double()
    maps = torch.rand(3, channels, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = network(maps)
        assert expected.std() > 1e-3
        torch.testing.assert_close(WinogradASRNet(fold(network).double())(maps), expected.float(), atol=2e-6, rtol=2e-6)


def test_borders_parts_and_scripts_change_nothing(network, monkeypatch):
    maps = torch.rand(5, 2, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    maps[:, :, 0] = maps[:, :, :, -1] = 9.0  # a border that counts
    with torch.inference_mode():
        expected = network(maps)
        tiled = WinogradASRNet(fold(network))
        whole = tiled(maps)
        torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.jit.script(tiled)(maps), whole, atol=1e-6, rtol=1e-6)
        monkeypatch.setattr("monai_ddad.networks.winograd.CACHE", 1)
        torch.testing.assert_close(WinogradASRNet(fold(network))(maps), whole, atol=1e-5, rtol=1e-5)


def test_half_precision_rounds_the_logits_by_little(network):
    maps = torch.rand(4, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = network(maps).softmax(dim=1)[:, 1]
        found = WinogradASRNet(fold(network)).to(torch.bfloat16)(maps).softmax(dim=1)[:, 1]
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 0.03
    torch.testing.assert_close(found.mean(dim=(1, 2)), expected.mean(dim=(1, 2)), atol=1e-3, rtol=5e-3)
