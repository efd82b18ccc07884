"""A GPU gives what the CPU gives."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ignite.engine import Events

from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.networks import DDADNet
from monai_ddad.placement import place
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training import EnsembleTrainer, RefineTrainer, ResumeCheckpoint

pytestmark = pytest.mark.gpu

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_maps_equal_those_of_the_cpu(make_net, images, backbone):
    network = make_net(backbone)
    with torch.inference_mode():
        expected = network(images)
        found = place(network, torch.device("cuda"))(images.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def float64(monkeypatch):
    """Let networks in float64 be trained."""
    monkeypatch.setattr("monai_ddad.training.members.normalise", lambda image: normalise(image).double())


def assert_trained_alike(first: DDADNet, second: DDADNet, untrained: DDADNet) -> None:
    before = untrained.state_dict()
    found = {name: value.cpu() for name, value in second.state_dict().items()}
    for name, value in first.state_dict().items():
        torch.testing.assert_close(found[name], value.cpu(), rtol=1e-8, atol=1e-8)
        if name.endswith("0.weight"):
            assert (value.cpu() - before[name]).abs().max() > 1e-3


def train(network: DDADNet, data: ResidentDataset, device: str, epochs: int, **options: object) -> EnsembleTrainer:
    trainer = EnsembleTrainer(device, epochs, network, data, ADAM, batch_size=4, **options)
    trainer.run()
    return trainer


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
@pytest.mark.parametrize("graph", [False, True])
def test_thirty_steps_equal_those_of_the_cpu(make_discrepancy, make_dataset, float64, caplog, backbone, graph):
    networks = [make_discrepancy(backbone, refine="none").double() for _ in range(3)]
    train(networks[0], make_dataset(), "cpu", 10)
    train(networks[1], make_dataset(), "cuda", 10, graph=graph)
    assert "cannot be recorded" not in caplog.text
    assert_trained_alike(*networks)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_recorded_steps_have_the_losses_of_plain_ones(make_discrepancy, caplog, backbone, channels, precision):
    pixels = torch.rand((12, channels, 32, 32), generator=torch.Generator().manual_seed(0))
    items = [{"image": 2 * image - 1, "label": 0 if place < 8 else None} for place, image in enumerate(pixels)]
    data = ResidentDataset(items, lambda item: {"image": item["image"]})

    def losses(graph: bool) -> list[float]:
        network = make_discrepancy(backbone, refine="none", in_channels=channels)
        trainer = EnsembleTrainer("cuda", 5, network, data, ADAM, 4, precision=precision, graph=graph)
        found: list[float] = []
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(trainer.state.metrics["ndm_loss"]))
        trainer.run()
        return found

    assert losses(True) == pytest.approx(losses(False), rel=0.05 if precision == "bfloat16" else 0.01)
    assert "cannot be recorded" not in caplog.text


@pytest.mark.parametrize("graph", [False, True])
def test_asr_net_learns_the_same(make_discrepancy, make_dataset, graph):
    def losses(device: str) -> list[float]:
        found: list[float] = []
        refine = RefineTrainer(device, 10, make_discrepancy(), make_dataset(), ADAM, batch_size=4, graph=graph)
        refine.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(refine.state.metrics["asr_loss"]))
        refine.run()
        assert refine._graphed.enabled == (graph and device == "cuda")
        assert found[-1] < 0.9 * found[0]
        return found

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-2)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("fused_adam", [False, True])
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(make_discrepancy, make_dataset, tmp_path, float64, devices, graph, fused_adam):
    networks = [make_discrepancy(refine="none").double() for _ in range(3)]
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=fused_adam)
    for network, parts in zip(networks, ([("cpu", 8)], list(zip(devices, (4, 8))))):
        for device, epochs in parts:
            handlers = [ResumeCheckpoint(str(tmp_path / f"{len(parts)}.pt"))]
            EnsembleTrainer(
                device, epochs, network, make_dataset(), adam, batch_size=4, graph=graph, train_handlers=handlers
            ).run()
    assert_trained_alike(*networks)


@pytest.mark.parametrize("runtime", ["torch", "torchscript"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_runtimes_give_the_maps_of_the_cpu(make_net, images, runtime, precision):
    network = make_net()
    with torch.inference_mode():
        expected = network(images)
        found = Runtime(network, runtime, precision, "cuda")(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02 if precision == "bfloat16" else 1e-3)
