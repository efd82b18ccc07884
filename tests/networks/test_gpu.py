"""A GPU gives what the CPU gives."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_ddad.engines import EnsembleTrainer, RefineTrainer, place

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_maps_equal_those_of_the_cpu(make_net, images, backbone):
    network = make_net(backbone)
    with torch.inference_mode():
        expected = network(images)
        found = place(network, torch.device("cuda"))(images.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_the_first_steps_equal_those_of_the_cpu(make_net, make_dataset):
    networks = {device: make_net() for device in ("cpu", "cuda")}
    for device, network in networks.items():
        adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
        EnsembleTrainer(device, 1, network, make_dataset(), adam, batch_size=8).run()
        RefineTrainer(device, 1, network, make_dataset(), adam, batch_size=8).run()
    for name, value in networks["cpu"].state_dict().items():
        torch.testing.assert_close(networks["cuda"].state_dict()[name].cpu(), value, rtol=1e-2, atol=5e-3)
