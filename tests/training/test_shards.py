"""A batch computed in parts gives what it gives as a whole."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from ignite.engine import Events
from torch import nn

from monai_ddad.networks import ASRNet
from monai_ddad.training import RefineTrainer
from monai_ddad.training.shards import Shards, apply_sharded

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4)


def test_sums_are_over_all_parts_time_after_time():
    with Shards(3) as shards:
        totals = shards.run(lambda shard: [shards.sum(shard, torch.tensor(10.0**shard * n)).item() for n in range(50)])
    assert totals == [[111.0 * n for n in range(50)]] * 3


@pytest.mark.parametrize("number, sizes", [(2, [3, 2]), (4, [2, 1, 1, 1])])
def test_parts_cover_a_batch(number, sizes):
    shards = Shards(number)
    parts = [shards.cut(torch.arange(5), shard) for shard in shards.local]
    assert [len(part) for part in parts] == sizes and torch.equal(torch.cat(parts), torch.arange(5))


def test_the_error_of_one_part_is_raised_and_does_not_hang_the_others():
    def fail(shard: int) -> torch.Tensor:
        if shard == 1:
            raise FloatingPointError("part 1")
        return shards.sum(shard, torch.ones(1))

    with Shards(3) as shards:
        with pytest.raises(FloatingPointError, match="part 1"):
            shards.run(fail)
        assert shards.run(lambda shard: shards.sum(shard, torch.ones(1)).item()) == [3.0] * 3


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_batch_normalisation_is_that_of_the_whole_batch(number, offset):
    torch.manual_seed(0)
    image = torch.randn(5, 2, 6, 6, dtype=torch.float64) + offset
    whole = ASRNet(2, width=4).double().model.train()
    cut = copy.deepcopy(whole)
    weight = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    image.requires_grad_()
    output = whole(image)
    expected = torch.autograd.grad((output * weight).sum(), [image, *whole.parameters()])

    def part(shard: int) -> tuple[torch.Tensor, ...]:
        own = shards.cut(image.detach(), shard).requires_grad_()
        result = apply_sharded(cut, own, shards, shard)
        first, *others = torch.autograd.grad((result * shards.cut(weight, shard)).sum(), [own, *cut.parameters()])
        return result.detach(), first, *(shards.sum(shard, value) for value in others)

    with Shards(number) as shards:
        found = shards.run(part)
    close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-8)
    close(torch.cat([results[0] for results in found]), output.detach())
    close(torch.cat([results[1] for results in found]), expected[0])
    for value, reference in zip(found[0][2:], expected[1:]):
        close(value, reference)
    for name, value in cut.state_dict().items():
        close(value, whole.state_dict()[name])


def test_running_statistics_move_as_those_of_the_layer_itself():
    layer, image = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)
    twin = copy.deepcopy(layer)
    with Shards(2) as shards:
        for _ in range(3):
            shards.run(lambda shard: apply_sharded(nn.Sequential(twin), shards.cut(image, shard), shards, shard))
            layer(image)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[name])


@pytest.fixture
def losses(make_discrepancy, make_dataset):
    """Return a function that trains an ASR-Net and returns the mean losses of its epochs."""

    def train(**options: object) -> list[float]:
        network, found = make_discrepancy(members=2, image_size=16), []
        trainer = RefineTrainer("cpu", 3, network, make_dataset(side=16), ADAM, batch_size=4, **options)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(trainer.state.metrics["asr_loss"]))
        trainer.run()
        assert found[2] < found[0]
        return found

    return train


def test_the_weights_of_asr_net_do_not_depend_on_threads(make_discrepancy, make_dataset):
    before = torch.get_num_threads()
    networks = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            networks.append(make_discrepancy(members=2, image_size=16))
            RefineTrainer("cpu", 2, networks[-1], make_dataset(side=16), ADAM, batch_size=4).run()
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, networks[1].state_dict()[name]) for name, value in networks[0].state_dict().items())


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_asr_net_learns_the_same_in_any_number_of_parts(losses, shards):
    assert losses(shards=shards) == pytest.approx(losses(shards=4), rel=1e-4)


def test_maps_kept_of_unchanged_images_change_nothing(losses, monkeypatch):
    kept = losses()
    monkeypatch.setattr("monai_ddad.training.maps_ahead.KEPT", 0)
    assert losses() == pytest.approx(kept, rel=1e-4)
