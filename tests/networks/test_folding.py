"""Folded networks against the networks that they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ddad.networks import fold


@pytest.fixture
def make_trained(make_net):
    """Return a maker of tiny models all of whose batch normalisations do something, those of ASR-Net included."""

    def make(backbone: str, **settings: object) -> nn.Module:
        network = make_net(backbone, **settings)
        generator = torch.Generator().manual_seed(3)
        for layer in network.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.running_mean.normal_(0, 0.2, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
                layer.weight.data.uniform_(0.5, 1.5, generator=generator)
                layer.bias.data.normal_(0, 0.2, generator=generator)
        return network

    return make


@pytest.mark.parametrize("refine, masked", [("dual", False), ("intra", True), ("none", False)])
@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_a_folded_network_equals_the_network_and_leaves_it_as_it_was(make_trained, images, backbone, refine, masked):
    network = make_trained(backbone, refine=refine, masked=masked)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold(network)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network(images), atol=1e-6, rtol=1e-5)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not [layer for layer in folded.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert (
        folded.map_names == network.map_names and folded.score == network.score and folded.discrepancy.masked is masked
    )


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_nothing_but_rounding_tells_a_folded_network_from_the_network(make_trained, images, backbone):
    network, images = make_trained(backbone).double(), images.double()
    with torch.inference_mode():
        torch.testing.assert_close(fold(network)(images), network(images), atol=1e-12, rtol=1e-10)


def test_a_folded_network_is_scripted(make_trained, images):
    network = make_trained("AE")
    with torch.inference_mode():
        scripted = torch.jit.script(fold(network))
        torch.testing.assert_close(scripted(images), network(images), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(scripted.decide(images).scores, network.decide(images).scores, atol=1e-6, rtol=1e-5)


def test_a_network_in_training_is_folded_with_its_running_statistics(make_trained, images):
    network = make_trained("AE").train()
    folded = fold(network)
    assert network.training and not folded.training
    assert all(weight.requires_grad for weight in network.discrepancy.ndm.parameters())
    assert not any(weight.requires_grad for weight in folded.parameters())
    torch.testing.assert_close(folded(images), network.eval()(images).detach(), atol=1e-6, rtol=1e-5)


def test_batch_normalisations_without_a_layer_before_them_stay():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
    folded = fold(network)
    assert [type(layer) for layer in folded] == [type(layer) for layer in network]
