"""A GPU gives what the CPU gives."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_ddad.engines import EnsembleTrainer, RefineTrainer, place
from monai_ddad.handlers import ResumeCheckpoint
from monai_ddad.runtimes import Runtime

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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_recorded_steps_equal_plain_ones(make_net, make_dataset, backbone, fused, caplog):
    networks = {graph: make_net(backbone) for graph in (False, True)}
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
    for graph, network in networks.items():
        trainer = EnsembleTrainer("cuda", 2, network, make_dataset(), adam, batch_size=8, fused=fused, graph=graph)
        trainer.run()
        refine = RefineTrainer("cuda", 2, network, make_dataset(), adam, batch_size=4, graph=graph)
        refine.run()
        assert refine._graphed.enabled == graph
    assert "cannot be recorded" not in caplog.text
    for name, value in networks[False].state_dict().items():
        torch.testing.assert_close(networks[True].state_dict()[name], value, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("graph", [False, True])
def test_a_run_begun_on_a_gpu_goes_on_on_a_cpu(make_net, make_dataset, tmp_path, graph):
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
    networks = [make_net() for _ in range(2)]
    for network, parts in zip(networks, ([("cpu", 3)], [("cuda", 2), ("cpu", 3)])):
        for device, epochs in parts:
            handlers = [ResumeCheckpoint(str(tmp_path / f"{len(parts)}.pt"))]
            trainer = EnsembleTrainer(
                device, epochs, network, make_dataset(), adam, batch_size=8, graph=graph, train_handlers=handlers
            )
            trainer.run()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("runtime", ["torch", "torchscript"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_runtimes_give_the_maps_of_the_cpu(make_net, images, runtime, precision):
    network = make_net()
    with torch.inference_mode():
        expected = network(images)
        found = Runtime(network, runtime, precision, "cuda")(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02 if precision == "bfloat16" else 1e-3)
