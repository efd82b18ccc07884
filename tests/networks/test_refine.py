"""ASR-Net is the network of method.md, section 4."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.networks import ASRNet


@pytest.mark.parametrize("maps, parameters", [(2, 152_834), (1, 151_682)])
def test_parameter_count_is_that_of_the_authors(maps, parameters):
    assert sum(parameter.numel() for parameter in ASRNet(maps).parameters()) == parameters


@pytest.mark.parametrize("maps", [1, 2])
def test_every_layer_keeps_the_image_size(maps):
    network, seen = ASRNet(maps).eval(), []
    for layer in network.model:
        layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, maps, 64, 64))
    assert seen == [(128, 64, 64)] * 6 + [(2, 64, 64)]


def test_state_dict_has_the_authors_names():
    names = {name.rsplit(".", 1)[0] for name in ASRNet(2).state_dict()}
    assert names == {f"model.{place}" for place in (0, 1, 3, 4, 6)}
    assert all(ASRNet(2).model[place].bias is not None for place in (0, 3, 6))
