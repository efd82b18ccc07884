"""Members trained as one network end as those trained one by one."""

from __future__ import annotations

import copy
import io
from functools import partial

import pytest
import torch
from ignite.engine import Events

from monai_ddad.data import normalise
from monai_ddad.engines import EnsembleTrainer, RefineTrainer
from monai_ddad.engines.members import FusedMembers, Member
from monai_ddad.handlers import ResumeCheckpoint
from monai_ddad.networks import DDADNet
from monai_ddad.placement import autocast
from monai_ddad.runtimes import Runtime

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)


@pytest.fixture
def members(tiny, make_dataset, monkeypatch):
    """Return a function that makes the same 3 networks in training, fused and one by one, in float64."""
    monkeypatch.setattr("monai_ddad.engines.members.normalise", lambda image: normalise(image).double())
    context = autocast(torch.device("cpu"), "float32")

    def make(backbone: str) -> tuple[FusedMembers, list[Member]]:
        images = make_dataset(normal=12, unlabeled=2).images
        first = DDADNet(backbone, members=3, refine="none", seed=0, **tiny).double().ndm.members
        second = copy.deepcopy(first)
        single = [Member(network, ADAM, images, context) for network in second]
        return FusedMembers(list(first), ADAM, images, context), single

    return make


def draw(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.stack([torch.randperm(12, generator=generator)[:5] for _ in range(3)])


def assert_equal(fused: FusedMembers, single: list[Member]) -> None:
    for network, member in zip(fused.networks, single):
        expected = member.network.state_dict()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_ten_steps_equal_those_of_each_member_alone(members, backbone):
    fused, single = members(backbone)
    before = copy.deepcopy(single[0].network.state_dict())
    for step in range(10):
        positions = draw(step)
        expected = torch.cat([member.step(positions[k : k + 1]) for k, member in enumerate(single)])
        torch.testing.assert_close(fused.step(positions), expected, rtol=0, atol=1e-12)
    assert_equal(fused, single)
    assert not torch.equal(before["encoder.0.weight"], fused.networks[0].encoder[0].weight)
    assert fused.networks[0].encoder[1].num_batches_tracked == 10


@pytest.mark.parametrize("to_fused", [True, False])
def test_optimizers_are_taken_over_from_one_form_to_the_other(members, to_fused):
    fused, single = members("AE")
    for step in range(3):
        fused.step(draw(step))
        for k, member in enumerate(single):
            member.step(draw(step)[k : k + 1])
    buffer = io.BytesIO()  # as a checkpoint keeps them
    torch.save([state for member in single for state in member.states()] if to_fused else fused.states(), buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)
    if to_fused:
        fused.load_states(states)
    else:
        for member, state in zip(single, states):
            member.load_states([state])
    for step in range(3, 6):
        positions = draw(step)
        expected = torch.cat([member.step(positions[k : k + 1]) for k, member in enumerate(single)])
        torch.testing.assert_close(fused.step(positions), expected, rtol=0, atol=1e-12)
    assert_equal(fused, single)


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_a_run_begun_one_by_one_goes_on_fused(tiny, make_dataset, tmp_path, monkeypatch, backbone):
    monkeypatch.setattr("monai_ddad.engines.members.normalise", lambda image: normalise(image).double())
    networks = {}
    for name, parts in {"whole": [(4, False)], "mixed": [(2, False), (3, True), (4, False)]}.items():
        for epochs, fused in parts:
            networks[name] = DDADNet(backbone, members=2, refine="none", seed=0, **tiny).double()
            handlers = [ResumeCheckpoint(str(tmp_path / f"{name}.pt"))]
            trainer = EnsembleTrainer(
                "cpu", epochs, networks[name], make_dataset(), ADAM, 4, fused=fused, train_handlers=handlers
            )
            trainer.run()
    for name, value in networks["mixed"].state_dict().items():
        torch.testing.assert_close(value, networks["whole"].state_dict()[name], rtol=0, atol=1e-9)


def test_members_are_trained_also_where_the_network_was_placed_in_between(tiny, make_dataset, monkeypatch):
    monkeypatch.setattr("monai_ddad.engines.members.normalise", lambda image: normalise(image).double())
    networks = [DDADNet(members=2, seed=0, **tiny).double() for _ in range(2)]
    for network, fused in zip(networks, (False, True)):
        trainer = EnsembleTrainer("cpu", 2, network, make_dataset(), ADAM, 4, fused=fused)
        RefineTrainer("cpu", 1, network, make_dataset(), ADAM)  # which changes the memory layout
        trainer.run()
    untrained = DDADNet(members=2, seed=0, **tiny).double().state_dict()
    expected = networks[0].state_dict()
    for name, value in networks[1].state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)
        if name.endswith("encoder.0.weight"):
            assert not torch.equal(value, untrained[name])


@pytest.mark.parametrize("fused", [False, True])
def test_both_forms_learn_in_bfloat16(tiny, make_dataset, fused):
    def train(precision: str) -> list[float]:
        found: list[float] = []
        network = DDADNet(members=2, seed=0, **tiny)
        trainer = EnsembleTrainer("cpu", 8, network, make_dataset(), ADAM, 4, precision=precision, fused=fused)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(trainer.state.metrics["ndm_loss"]))
        trainer.run()
        return found

    losses = {precision: train(precision) for precision in ("float32", "bfloat16")}
    assert losses["float32"][-1] < 0.9 * losses["float32"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_runtimes_notice_what_the_fused_form_has_trained(tiny, make_dataset, images):
    network = DDADNet(members=2, refine="none", seed=0, **tiny)
    runtime, found = Runtime(network), []
    trainer = EnsembleTrainer("cpu", 3, network, make_dataset(), ADAM, 4, fused=True)

    @trainer.on(Events.EPOCH_COMPLETED)
    def compare() -> None:
        found.append(runtime(images))
        torch.testing.assert_close(found[-1], Runtime(copy.deepcopy(network))(images))

    trainer.run()
    assert not torch.allclose(found[0], found[1], rtol=0.01) and not torch.allclose(found[1], found[2], rtol=0.01)
