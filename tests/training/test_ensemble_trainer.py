"""Training the members side by side equals training each alone, and a run can be repeated and resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from ignite.engine import Events
from torch.nn import functional as F

from monai_ddad.data import normalise
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADNet
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training import EnsembleTrainer, ResumeCheckpoint, StopOnNonFinite

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
BACKBONES = ["AE", "AE-U", "MemAE"]


@pytest.fixture
def train(tiny, make_dataset) -> Callable[..., DDADNet]:
    """Return a function that trains a model of 2 members on 8 normal and 4 unlabelled images."""

    def run(*, backbone="AE", seed=0, epochs=2, dataset=None, network=None, **options) -> DDADNet:
        network = network or DDADNet(backbone=backbone, members=2, refine="none", seed=0, **tiny)
        options = {"batch_size": 4, "num_workers": 1, "optimizer": ADAM} | options
        EnsembleTrainer(
            "cpu", epochs, network, make_dataset() if dataset is None else dataset, seed=seed, **options
        ).run()
        return network

    return run


def equal(first: DDADNet, second: DDADNet) -> bool:
    """Say whether all weights and BatchNorm statistics are equal bit by bit."""
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def plain_loss(member: torch.nn.Module, backbone: str, x: torch.Tensor) -> torch.Tensor:
    if backbone == "AE-U":
        mean, log_variance = member(x).split(1, dim=1)
        return ((-log_variance).exp() * (mean - x) ** 2).mean() + log_variance.mean()
    if backbone == "MemAE":
        rows = member.mem_rep.memory.weight
        attention = (member.encode(x) @ rows.T).softmax(dim=1)
        entropy = -(attention * (attention + 1e-12).log()).sum(dim=1).mean()
        return F.mse_loss(member.decode(attention @ rows), x) + 0.0002 * entropy
    return F.mse_loss(member(x), x)


def plain_training(network: DDADNet, dataset, epochs: int, steps: int | None = None) -> dict[str, list[torch.Tensor]]:
    """Train each member by itself, one after the other; return the losses of its steps."""
    normal = torch.tensor([i for i, label in enumerate(dataset.labels) if label == 0])
    losses: dict[str, list[torch.Tensor]] = {}
    for number, (name, positions) in enumerate({"ndm": normal, "udm": torch.arange(len(dataset))}.items()):
        for k, member in enumerate(getattr(network, name).members):
            member.train()
            optimizer = ADAM(member.parameters())
            losses[f"{name}[{k}]"] = []
            for epoch in range(1, epochs + 1):
                for batch in epoch_order(len(positions), 4, derive_seed(0, number, k, epoch))[:steps]:
                    x = normalise(dataset.images[positions[batch]]).to(next(member.parameters()).dtype)
                    loss = plain_loss(member, network.settings.backbone, x)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses[f"{name}[{k}]"].append(loss.detach())
    return losses


def recorded(trainer: EnsembleTrainer, stop_after: int | None = None) -> dict[str, list[torch.Tensor]]:
    """Let a trainer run; return the losses that it reported, by network."""
    losses: dict[str, list[torch.Tensor]] = {}

    def record(engine: EnsembleTrainer) -> None:
        for name, loss in engine.state.output[0]["losses"].items():
            losses.setdefault(name, []).append(loss)
        if engine.state.iteration == stop_after:
            engine.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    trainer.run()
    return losses


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_steps_equal_a_plain_loop_over_each_member(tiny, make_dataset, backbone):
    dataset = make_dataset()
    networks = [DDADNet(backbone=backbone, members=2, refine="none", seed=0, **tiny) for _ in range(2)]
    trainer = EnsembleTrainer("cpu", 1, networks[0], dataset, ADAM, batch_size=4, num_workers=4)
    losses, expected = recorded(trainer, stop_after=2), plain_training(networks[1], dataset, 1, steps=2)
    assert losses.keys() == expected.keys() == {"ndm[0]", "ndm[1]", "udm[0]", "udm[1]"}
    for name in losses:
        torch.testing.assert_close(torch.stack(losses[name]), torch.stack(expected[name]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_in_float64_whole_epochs_equal_a_plain_loop_over_each_member(tiny, make_dataset, monkeypatch, backbone):
    monkeypatch.setattr("monai_ddad.training.members.normalise", lambda image: normalise(image).double())
    dataset = make_dataset()
    networks = [DDADNet(backbone=backbone, members=2, refine="none", seed=0, **tiny).double() for _ in range(2)]
    trainer = EnsembleTrainer("cpu", 3, networks[0], dataset, ADAM, batch_size=4, num_workers=2)
    losses, expected = recorded(trainer), plain_training(networks[1], dataset, 3)
    assert [len(losses[name]) for name in ("ndm[0]", "udm[1]")] == [6, 9]  # 3 epochs of 8 // 4 and 12 // 4 steps
    for name in losses:
        torch.testing.assert_close(torch.stack(losses[name]), torch.stack(expected[name]), atol=1e-9, rtol=1e-9)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(value, networks[1].state_dict()[name], atol=1e-7, rtol=1e-7)


def test_metrics_are_the_mean_losses_of_each_modules_epoch(tiny, make_dataset):
    network = DDADNet(members=2, refine="none", seed=0, **tiny)
    trainer = EnsembleTrainer("cpu", 2, network, make_dataset(), ADAM, batch_size=4, num_workers=1)
    losses = recorded(trainer)
    for module, steps in (("ndm", 2), ("udm", 3)):
        last = torch.stack([loss for k in range(2) for loss in losses[f"{module}[{k}]"][steps:]])
        assert len(last) == 2 * steps
        assert trainer.state.metrics[f"{module}_loss"] == pytest.approx(float(last.mean()), rel=1e-6)


def test_training_lowers_the_loss(tiny, make_dataset):
    network = DDADNet(members=2, refine="none", seed=0, **tiny)
    losses = recorded(EnsembleTrainer("cpu", 40, network, make_dataset(), ADAM, 4, modules=["ndm"], num_workers=1))
    for values in losses.values():
        assert torch.stack(values[-5:]).mean() < 0.9 * torch.stack(values[:3]).mean()


def test_only_the_udm_sees_unlabelled_images(train, make_dataset):
    first, second = make_dataset(), make_dataset()
    second.images[8:] = 255 - second.images[8:]
    a, b = train(dataset=first), train(dataset=second)
    assert all(torch.equal(value, b.ndm.state_dict()[name]) for name, value in a.ndm.state_dict().items())
    assert not torch.equal(a.udm.members[0].encoder[0].weight, b.udm.members[0].encoder[0].weight)


@pytest.fixture(params=[1, 2])
def threads(request) -> Iterator[int]:
    """Let PyTorch use this many threads for an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_do_not_depend_on_the_number_of_workers(train, threads, backbone):
    networks = [train(backbone=backbone, num_workers=workers) for workers in (1, 2, 4)]
    assert equal(networks[1], networks[2]) and equal(networks[0], networks[1])


@pytest.mark.parametrize("seed, same", [(0, True), (1, False)])
def test_the_seed_fixes_the_weights(train, seed, same):
    assert equal(train(seed=0), train(seed=seed)) == same


def test_nothing_else_that_is_random_matters(train):
    torch.manual_seed(0)
    first = train()
    torch.manual_seed(1)
    assert equal(first, train())


def test_members_end_with_weights_of_their_own(train):
    network = train()
    members = [member for module in (network.ndm, network.udm) for member in module.members]
    assert len({member.linear_dec[3].weight.detach().numpy().tobytes() for member in members}) == 4


def test_members_that_start_alike_part_by_their_data_order_alone(train, tiny):
    network = DDADNet(members=2, refine="none", **tiny)
    network.ndm.members[1].load_state_dict(network.ndm.members[0].state_dict())
    train(network=network)
    assert not torch.equal(network.ndm.members[0].encoder[0].weight, network.ndm.members[1].encoder[0].weight)


@pytest.mark.parametrize("module, other", [("ndm", "udm"), ("udm", "ndm")])
def test_the_module_not_asked_for_keeps_its_weights(train, tiny, module, other):
    before = DDADNet(members=2, refine="none", seed=0, **tiny).state_dict()
    after = train(modules=[module]).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith(other))
    name = f"{module}.members.1.encoder.0.weight"
    assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("module", ["ndm", "udm"])
def test_training_one_module_and_then_both_equals_training_both_at_once(train, tmp_path, module):
    handlers = [ResumeCheckpoint(str(tmp_path / "state.pt"))]
    train(modules=[module], train_handlers=handlers)
    resumed = train(train_handlers=[ResumeCheckpoint(str(tmp_path / "state.pt"))])
    assert equal(resumed, train())


def test_fewer_images_than_a_batch_train_on_what_there_is(train, tiny, make_dataset):
    before = DDADNet(members=2, refine="none", seed=0, **tiny)
    after = train(dataset=make_dataset(normal=3, unlabeled=2, seed=5), batch_size=64)
    for module in ("ndm", "udm"):
        for k in range(2):
            old, new = getattr(before, module).members[k], getattr(after, module).members[k]
            assert not torch.equal(old.encoder[0].weight, new.encoder[0].weight)
            assert new.encoder[1].num_batches_tracked == 2  # one step in each of the 2 epochs


@pytest.mark.parametrize("normal, unlabeled", [(1, 8), (8, 1), (0, 0), (8, 0)])
def test_too_few_images_are_refused(train, make_dataset, normal, unlabeled):
    with pytest.raises(DataError, match=f"2 known normal and 2 unlabelled images, got {normal} and {unlabeled}"):
        train(dataset=make_dataset(normal=normal, unlabeled=unlabeled, seed=6))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_network_whose_loss_is_not_finite_stops_the_run_and_is_named(train, tiny, tmp_path, weight):
    network = DDADNet(members=2, refine="none", seed=0, **tiny)
    with torch.no_grad():
        network.udm.members[1].decoder[9].weight.fill_(weight)
    with pytest.raises(FloatingPointError, match=r"loss of udm\[1\] is not finite at epoch 1"):
        train(
            network=network,
            num_workers=4,
            train_handlers=[ResumeCheckpoint(str(tmp_path / "state.pt")), StopOnNonFinite()],
        )
    assert list(tmp_path.glob("*.pt")) == []


@pytest.mark.parametrize("rate", [1e30, float("inf")])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_learning_rate_that_destroys_the_weights_stops_the_run_before_it_is_saved(train, tmp_path, rate, epochs):
    handlers = [StopOnNonFinite(), ResumeCheckpoint(str(tmp_path / "state.pt"))]
    with pytest.raises(FloatingPointError, match=r"[nu]dm.* epoch 1"):
        train(optimizer=partial(torch.optim.Adam, lr=rate), epochs=epochs, train_handlers=handlers)
    assert list(tmp_path.glob("*.pt")) == []


def test_weights_destroyed_by_the_last_step_are_not_saved(train, tiny, tmp_path):
    network = DDADNet(members=2, refine="none", seed=0, **tiny)
    network.ndm.members[0].encoder[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    handlers = [StopOnNonFinite(), ResumeCheckpoint(str(tmp_path / "state.pt"))]
    with pytest.raises(FloatingPointError, match=r"ndm\.members\.0\..* epoch 1"):  # the loss of the only step is finite
        train(network=network, epochs=1, batch_size=64, train_handlers=handlers)
    assert list(tmp_path.glob("*.pt")) == []


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_trains_with_finite_losses(tiny, make_dataset, backbone):
    network = DDADNet(backbone=backbone, members=2, refine="none", seed=0, **tiny)
    losses = recorded(EnsembleTrainer("cpu", 2, network, make_dataset(), ADAM, batch_size=4, precision="bfloat16"))
    assert all(torch.isfinite(loss) for values in losses.values() for loss in values)
    assert all(value.dtype == torch.float32 for value in network.parameters())
    network = DDADNet(backbone=backbone, members=2, refine="none", seed=0, **tiny)
    exact = recorded(EnsembleTrainer("cpu", 1, network, make_dataset(), ADAM, batch_size=4))
    assert losses["ndm[0]"][0].item() == pytest.approx(exact["ndm[0]"][0].item(), rel=0.02, abs=0.01)
    assert losses["ndm[0]"][0] != exact["ndm[0]"][0]


@pytest.mark.parametrize(
    "wrong, message",
    [({"precision": "float16"}, "float32, tf32 or bfloat16, got 'float16'"), ({"modules": ["asr"]}, "asr")],
)
def test_wrong_settings_are_named(train, wrong, message):
    with pytest.raises(ValueError, match=message):
        train(**wrong)


def test_a_trained_network_is_ready_for_scoring(train):
    assert not any(module.training for module in train().modules())


@pytest.mark.parametrize("rate", [1e-3, 1e30])
def test_a_run_leaves_the_number_of_threads_as_it_was_also_where_it_fails(train, threads, rate):
    with nullcontext() if rate < 1 else pytest.raises(FloatingPointError):
        train(num_workers=2, optimizer=partial(torch.optim.Adam, lr=rate), train_handlers=[StopOnNonFinite()])
    assert torch.get_num_threads() == threads
