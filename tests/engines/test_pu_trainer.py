"""Classifiers learn what the unlabelled images hold and the known normals do not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ignite.engine import Events

from monai_ddad.data import DataError, ResidentDataset, normalise
from monai_ddad.engines import PUTrainer
from monai_ddad.handlers import StopOnNonFinite
from monai_ddad.losses import nnpu_loss
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.transforms import RandAlter

ADAM = partial(torch.optim.Adam, lr=1e-3)
SIDE = 16


@pytest.fixture
def make_net(make_net):
    """Return a maker of models with two classifiers."""
    return partial(make_net, members=2, image_size=SIDE, **{"pu_members": 2})


@pytest.fixture
def data(make_dataset) -> ResidentDataset:
    """10 known normals and 6 unlabelled images, half of them with a white square."""
    dataset = make_dataset(normal=10, unlabeled=6, side=SIDE)
    dataset.images[13:, :, 4:10, 4:10] = 255
    return dataset


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_training_equals_a_plain_loop(make_net, data):
    network, twin = make_net(), make_net()
    trainer, found = PUTrainer("cpu", 2, network, data, ADAM, prior=0.3, batch_size=4, seed=5), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: found.append(trainer.state.output[0]["losses"]))
    trainer.run()

    expected: list[list[torch.Tensor]] = [[], []]
    for k, member in enumerate(twin.pu.members):
        optimizer = ADAM(member.train().parameters())
        for epoch in (1, 2):
            generator = torch.Generator().manual_seed(derive_seed(5, 3, k, epoch, 2))
            known = epoch_order(10, 4, derive_seed(5, 3, k, epoch, 0)).tolist()
            pool = epoch_order(6, 4, derive_seed(5, 3, k, epoch, 1)).tolist()
            assert (len(known), len(pool)) == (2, 1)
            for batch in known:
                images = normalise(data.images[[*batch, *(10 + i for i in pool[0])]])
                logits = member(RandAlter()(images, generator))[:, 0]
                loss = nnpu_loss(logits[:4], logits[4:], 0.3)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                expected[k].append(loss.detach())
    assert [sorted(losses) for losses in found] == 4 * [["pu[0]", "pu[1]"]]
    for k in range(2):
        losses = torch.stack([step[f"pu[{k}]"] for step in found])
        torch.testing.assert_close(losses, torch.stack(expected[k]), atol=1e-4, rtol=1e-3)
    assert trainer.state.metrics["pu_loss"] == pytest.approx(
        float(torch.stack([*expected[0][2:], *expected[1][2:]]).mean()), rel=1e-3
    )


def test_weights_depend_neither_on_threads_nor_on_workers_nor_on_the_other_members(make_net, data):
    networks, before = [], torch.get_num_threads()
    for threads, workers, members in ((1, 1, 2), (2, 2, 2), (1, 3, 3)):
        torch.set_num_threads(threads)
        torch.manual_seed(threads)
        networks.append(make_net(pu_members=2))
        if members == 3:
            networks[-1] = make_net(pu_members=3)
            for ours, theirs in zip(networks[-1].pu.members, make_net().pu.members):
                ours.load_state_dict(theirs.state_dict())
        PUTrainer("cpu", 2, networks[-1], data, ADAM, batch_size=4, num_workers=workers).run()
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert equal(networks[0], networks[1])
    assert all(equal(ours, theirs) for ours, theirs in zip(networks[0].pu.members, networks[2].pu.members))
    other = make_net()
    PUTrainer("cpu", 2, other, data, ADAM, batch_size=4, seed=1).run()
    assert not equal(networks[0], other)


def test_the_classifiers_alone_change(make_net, data):
    network = make_net()
    before = state(network)
    PUTrainer("cpu", 1, network, data, ADAM, batch_size=4).run()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("pu.")}
    assert not any(module.training for module in network.modules())


def test_what_the_pool_alone_holds_scores_higher_also_on_images_that_are_new(make_net, make_dataset, data):
    network = make_net()
    PUTrainer("cpu", 40, network, data, partial(ADAM, lr=1e-2), batch_size=8).run()
    new = make_dataset(normal=20, unlabeled=0, seed=3, side=SIDE)
    with torch.no_grad():
        normal = network.image_scores(normalise(new.images))[:, -1]
        new.images[:, :, 4:10, 4:10] = 255
        abnormal = network.image_scores(normalise(new.images))[:, -1]
    assert (abnormal[:, None] > normal).float().mean() > 0.95


def test_nothing_is_done_without_classifiers(make_net, make_dataset):
    network = make_net(pu_members=0)
    before = state(network)
    trainer = PUTrainer("cpu", 0, network, make_dataset(normal=4, unlabeled=0, side=SIDE), ADAM)
    trainer.run()
    assert trainer.epochs == {} == trainer.unfinished
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_bfloat16_trains_with_finite_losses(make_net, data):
    network = make_net()
    trainer = PUTrainer("cpu", 2, network, data, ADAM, batch_size=4, precision="bfloat16")
    trainer.run()
    assert 0 < trainer.state.metrics["pu_loss"] < 1
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_a_loss_that_is_not_finite_ends_the_training(make_net, data):
    network = make_net()
    with torch.no_grad():
        network.pu.members[1].model[0].weight.fill_(float("nan"))
    trainer = PUTrainer("cpu", 1, network, data, ADAM, batch_size=4, train_handlers=[StopOnNonFinite()])
    with pytest.raises(FloatingPointError, match=r"loss of pu\[1\] is not finite at epoch 1"):
        trainer.run()


@pytest.mark.parametrize("normal, unlabeled", [(4, 0), (0, 4)])
def test_one_kind_of_image_alone_is_refused(make_net, make_dataset, normal, unlabeled):
    with pytest.raises(DataError, match=f"unlabelled images, got {normal} and {unlabeled}: set it to 0"):
        PUTrainer("cpu", 1, make_net(), make_dataset(normal=normal, unlabeled=unlabeled, side=SIDE), ADAM)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"prior": 1}, "pu_prior, .* between 0 and 1, got 1"),
        ({"precision": "int8"}, "float32, tf32 or bfloat16, got 'int8'"),
        ({"max_epochs": 0}, "pu_epochs must be integers of at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused_at_once(make_net, data, options, message):
    with pytest.raises(ValueError, match=message):
        PUTrainer(
            **{"device": "cpu", "max_epochs": 1, "network": make_net(), "dataset": data, "optimizer": ADAM} | options
        )
