"""ASR-Net learns from synthetic anomalies while the ensembles stay frozen."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from ignite.engine import Events

from monai_ddad.data import normalise
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADNet
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training import RefineTrainer, StopOnNonFinite
from monai_ddad.transforms import RandBlendPatch

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4)


SIDE = 16


@pytest.fixture
def make_net(make_discrepancy):
    """Return a maker of networks of 2 members and small images."""
    return partial(make_discrepancy, members=2, image_size=SIDE)


@pytest.fixture
def make_dataset(make_dataset):
    """Return a maker of sets of small images."""
    return partial(make_dataset, side=SIDE)


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def recorded(trainer: RefineTrainer) -> list[torch.Tensor]:
    """Let a trainer run; return the loss of each step."""
    losses: list[torch.Tensor] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"]))
    trainer.run()
    return losses


def plain_loss(network: DDADNet, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The focal loss of method.md on asr's softmax, everything written out."""
    with torch.no_grad():
        ndm = torch.stack([member(images) for member in network.ndm.members])
        udm = torch.stack([member(images) for member in network.udm.members])
        deviation = torch.ones(())
        if network.settings.backbone == "AE-U":
            deviation = ndm[:, :, 1:].exp().mean(dim=0).sqrt()
            ndm, udm = ndm[:, :, :1], udm[:, :, :1]
        inter, intra = (udm.mean(dim=0) - ndm.mean(dim=0)).abs() / deviation, ndm.std(dim=0) / deviation
    probability = network.asr(
        torch.cat([inter, intra] if network.settings.refine == "dual" else [intra], dim=1)
    ).softmax(dim=1)
    one_hot = torch.stack([1.0 - masks, 1.0 * masks], dim=1).clamp(1e-5, 1 - 1e-5)
    pt = (one_hot * probability).sum(dim=1) + 1e-5
    return (-((1 - pt) ** 2) * pt.log()).mean()


@pytest.mark.parametrize("refine", ["dual", "intra"])
@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_training_equals_a_plain_loop(make_net, make_dataset, backbone, refine):
    dataset = make_dataset(normal=10, unlabeled=3)
    network, twin = (make_net(backbone, refine=refine) for _ in range(2))
    losses = recorded(RefineTrainer("cpu", 2, network, dataset, ADAM, batch_size=4, seed=5))

    normal, expected = normalise(dataset.images[:10]), []
    optimizer, anomaly = ADAM(twin.asr.parameters()), RandBlendPatch()
    twin.asr.train()
    for epoch in (1, 2):
        anomaly.set_random_state(derive_seed(5, 2, 1, epoch))
        for batch in epoch_order(10, 4, derive_seed(5, 2, 0, epoch)).tolist():
            images, masks = zip(*(anomaly(normal[i], i, normal.__getitem__, 10) for i in batch))
            loss = plain_loss(twin, torch.stack(images), torch.stack(masks))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.detach())
    assert len(losses) == 4
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(losses[0], expected[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_only_asr_changes(make_net, make_dataset, backbone):
    network = make_net(backbone)
    before = state(network)
    RefineTrainer("cpu", 2, network, make_dataset(), ADAM, batch_size=4).run()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("asr.")}
    assert all(parameter.grad is None for part in (network.ndm, network.udm) for parameter in part.parameters())
    assert not any(module.training for module in network.modules())


def test_only_known_normal_images_are_seen(make_net, make_dataset):
    first, second = make_dataset(), make_dataset()
    second.images[8:] = 0
    networks = [make_net() for _ in range(2)]
    for network, dataset in zip(networks, (first, second)):
        RefineTrainer("cpu", 1, network, dataset, ADAM, batch_size=4).run()
    assert all(torch.equal(value, networks[1].state_dict()[name]) for name, value in networks[0].state_dict().items())


@pytest.mark.parametrize("seed, same", [(0, True), (1, False)])
def test_the_seed_fixes_the_weights(make_net, make_dataset, seed, same):
    networks = [make_net() for _ in range(2)]
    for value, network in enumerate(networks):
        np.random.seed(value)
        torch.manual_seed(value)
        RefineTrainer("cpu", 2, network, make_dataset(), ADAM, batch_size=4, seed=[0, seed][value]).run()
    assert torch.equal(networks[0].asr.model[0].weight, networks[1].asr.model[0].weight) == same


def test_each_epoch_draws_new_anomalies(make_net, make_dataset, monkeypatch):
    drawn: list[tuple] = []
    original = RandBlendPatch.randomize

    def spy(self: RandBlendPatch, data: tuple[int, int, int, int]) -> None:
        original(self, data)
        drawn.append((self.box, data))

    monkeypatch.setattr(RandBlendPatch, "randomize", spy)
    RefineTrainer("cpu", 2, make_net(), make_dataset(), ADAM, batch_size=4).run()
    boxes = [box for box, _ in drawn if box is not None]
    assert len(drawn) == 16 and len(set(boxes)) == len(boxes) > 3
    assert {data[2] for _, data in drawn[:8]} == {data[2] for _, data in drawn[8:]} == set(range(8))
    assert {(*data[:2], data[3]) for _, data in drawn} == {(SIDE, SIDE, 8)}


def test_the_anomaly_given_is_the_one_drawn(make_net, make_dataset):
    network = make_net()
    trainer = RefineTrainer("cpu", 12, network, make_dataset(), ADAM, batch_size=4, anomaly=RandBlendPatch(prob=0.0))
    losses = recorded(trainer)
    assert losses[-1] < 0.5 * losses[0]  # nothing but normal pixels is soon learnt
    assert network(normalise(make_dataset().images)).maps[:, 0].mean() < 0.5


def test_the_mean_loss_of_the_epoch_is_a_metric(make_net, make_dataset):
    trainer = RefineTrainer("cpu", 2, make_net(), make_dataset(), ADAM, batch_size=4)
    losses = recorded(trainer)
    assert trainer.state.metrics == {"asr_loss": pytest.approx(float(torch.stack(losses[2:]).mean()), rel=1e-6)}


def test_no_epochs_are_refused(make_net, make_dataset):
    for epochs in (0, "two"):
        with pytest.raises(ValueError, match=f"integers of at least 1, got {epochs!r}"):
            RefineTrainer("cpu", epochs, make_net(), make_dataset(), ADAM, batch_size=4)


@pytest.mark.parametrize("epochs", [0, 3])
def test_nothing_is_done_without_asr(make_net, make_dataset, epochs):
    network = make_net(refine="none")
    before = state(network)
    trainer = RefineTrainer("cpu", epochs, network, make_dataset(), ADAM, batch_size=4)
    assert recorded(trainer) == []
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_fewer_images_than_a_batch_train_on_what_there_is(make_net, make_dataset):
    network = make_net()
    before = state(network)
    losses = recorded(RefineTrainer("cpu", 1, network, make_dataset(normal=3, unlabeled=2, seed=5), ADAM, batch_size=8))
    assert len(losses) == 1 and not torch.equal(network.asr.model[0].weight, before["asr.model.0.weight"])


@pytest.mark.parametrize("normal", [0, 1])
def test_too_few_normal_images_are_refused(make_net, make_dataset, normal):
    with pytest.raises(DataError, match=f"at least 2 known normal images, got {normal}"):
        RefineTrainer("cpu", 1, make_net(), make_dataset(normal=normal, unlabeled=3, seed=6), ADAM)


@pytest.mark.parametrize("part", ["asr.model.0.weight", "ndm.members.0.decoder.9.weight"])
def test_a_loss_that_is_not_finite_stops_the_run(make_net, make_dataset, part):
    network = make_net()
    with torch.no_grad():
        network.get_parameter(part).fill_(float("nan"))
    trainer = RefineTrainer("cpu", 1, network, make_dataset(), ADAM, 4, train_handlers=[StopOnNonFinite()])
    with pytest.raises(FloatingPointError, match="loss of asr is not finite at epoch 1"):
        trainer.run()


def test_bfloat16_trains_with_finite_losses(make_net, make_dataset):
    network = make_net("AE-U")
    losses = recorded(RefineTrainer("cpu", 2, network, make_dataset(), ADAM, batch_size=4, precision="bfloat16"))
    assert len(losses) == 4 and all(torch.isfinite(loss) for loss in losses)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    exact = recorded(RefineTrainer("cpu", 1, make_net("AE-U"), make_dataset(), ADAM, batch_size=4))
    assert losses[0].item() == pytest.approx(exact[0].item(), rel=0.05) and losses[0] != exact[0]


def test_an_unknown_precision_is_refused(make_net, make_dataset):
    with pytest.raises(ValueError, match="float32, tf32 or bfloat16, got 'int8'"):
        RefineTrainer("cpu", 1, make_net(), make_dataset(), ADAM, precision="int8")
