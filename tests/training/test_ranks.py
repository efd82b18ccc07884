"""Work is shared out evenly among processes, whose number does not change the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events

from monai_ddad.networks import DDADNet, FeatureNet
from monai_ddad.ranks import assign
from monai_ddad.training import (
    EnsembleTrainer,
    FeatureRefineTrainer,
    FeatureTrainer,
    RefineTrainer,
    ResumeCheckpoint,
)
from tests.processes import start_ranks

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6, 8])
def test_every_piece_has_a_rank_and_loads_are_even(ranks):
    costs = [15, 15, 15, 31, 31, 31]
    found = assign(costs, ranks)
    loads = [sum(cost for cost, rank in zip(costs, found) if rank == number) for number in range(ranks)]
    assert sum(loads) == sum(costs) and set(found) <= set(range(ranks))
    assert max(loads) <= max(31, 4 / 3 * sum(costs) / ranks)  # Graham's bound of largest first


@pytest.fixture
def processes(tmp_path):
    """Return a function that calls another in several processes and returns what it returns in each."""

    def call(number: int, function: Callable[[], Any]) -> list[Any]:
        def run(rank: int) -> None:
            idist.initialize("gloo")
            torch.save(function(), tmp_path / f"rank_{rank}.pt")
            idist.finalize()

        started = start_ranks(run, number)
        for process in started:
            process.join(120)
        assert [process.exitcode for process in started] == [0] * number
        return [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(number)]

    return call


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("number, members", [(2, 3), (3, 2), (4, 2), (4, 1)])
def test_weights_are_those_of_one_process_in_each_of_several(
    make_discrepancy, make_dataset, processes, number, members
):
    data = make_dataset()

    def train() -> dict[str, torch.Tensor]:
        network = make_discrepancy(members=members, refine="none" if members == 1 else "dual")
        EnsembleTrainer("cpu", 3, network, data, ADAM, batch_size=4).run()
        RefineTrainer("cpu", 2, network, data, ADAM, batch_size=4).run()
        return network.state_dict()

    expected, before = (
        train(),
        make_discrepancy(members=members, refine="none" if members == 1 else "dual").state_dict(),
    )
    assert all(not torch.equal(value, before[name]) for name, value in expected.items() if name.endswith("0.weight"))
    assert all(equal(found, expected) for found in processes(number, train))


def test_one_module_alone_is_trained_by_all_processes(make_discrepancy, make_dataset, processes):
    data = make_dataset()

    def train() -> tuple[dict[str, torch.Tensor], list[str]]:
        network = make_discrepancy(members=2)
        trainer = EnsembleTrainer("cpu", 2, network, data, ADAM, batch_size=4, modules=["udm"])
        trainer.run()
        return network.state_dict(), [unit.entry.name for unit in trainer.units]

    expected, _ = train()
    (first, one), (second, other) = processes(2, train)
    assert equal(first, expected) and equal(second, expected) and sorted(one + other) == ["udm[0]", "udm[1]"]


class Weights:
    """Keep the weights at the end of each epoch, in every process if it is said so."""

    def __init__(self, network: DDADNet, every_process: bool) -> None:
        self.network, self.every_process = network, every_process
        self.found: list[dict[str, torch.Tensor]] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep)

    def keep(self) -> None:
        self.found.append({name: value.clone() for name, value in self.network.state_dict().items()})


@pytest.mark.parametrize("interval", [None, 1])
def test_weights_are_gathered_for_handlers_where_asked_for(make_discrepancy, make_dataset, processes, interval):
    data = make_dataset()

    def train() -> list[list[dict[str, torch.Tensor]]]:
        network = make_discrepancy(members=1, refine="none")
        handlers = [Weights(network, every_process=True), Weights(network, every_process=False)]
        options = {"gather_interval": interval, "train_handlers": handlers}
        EnsembleTrainer("cpu", 2, network, data, ADAM, batch_size=4, **options).run()
        return [handler.found for handler in handlers]

    expected = train()[0]
    first, second = processes(2, train)
    assert [len(found) for found in first] == [2, 2] and [len(found) for found in second] == [2, 0]
    gathered = interval is not None
    assert [equal(*pair) for pair in zip(first[0], expected)] == [gathered, gathered]
    assert [equal(*pair) for pair in zip(second[0], expected)] == [gathered, gathered]


@pytest.mark.parametrize("first, second", [(1, 3), (3, 1), (2, 4)])
def test_another_number_of_processes_goes_on(make_discrepancy, make_dataset, tmp_path, processes, first, second):
    data = make_dataset()

    def train(folder: Path, epochs: int) -> dict[str, torch.Tensor]:
        network, handlers = make_discrepancy(members=2), [ResumeCheckpoint(str(folder / f"{i}.pt")) for i in range(2)]
        EnsembleTrainer("cpu", min(epochs, 4), network, data, ADAM, 4, train_handlers=handlers[:1]).run()
        if epochs > 4:
            RefineTrainer("cpu", epochs - 4, network, data, ADAM, 4, train_handlers=handlers[1:]).run()
        return network.state_dict()

    expected = train(tmp_path / "whole", 7)
    processes(first, lambda: train(tmp_path, 2))  # in the middle of the ensembles
    processes(second, lambda: train(tmp_path, 5))  # in the middle of ASR-Net
    for found in processes(first, lambda: train(tmp_path, 7)):
        assert equal(found, expected)


@pytest.mark.parametrize("number, batch", [(2, 3), (4, 8)])  # of 12 images: with a part each, and with none for some
def test_features_are_summed_over_all_processes(make_dataset, processes, number, batch, tmp_path):
    data = make_dataset(side=64)

    def fit(folder: str) -> dict[str, torch.Tensor]:
        network = FeatureNet(seed=0, image_size=64)
        FeatureTrainer("cpu", network, data, tmp_path / folder, batch_size=batch).run()
        assert network.loaded
        return network.state_dict()

    expected = fit("one")
    for found in processes(number, lambda: fit("many")):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def test_a_refinement_of_features_is_that_of_one_process_in_each_of_several(make_dataset, processes, tmp_path):
    data = make_dataset(side=64)

    def refine(folder: str, epochs: int) -> dict[str, torch.Tensor]:
        network = FeatureNet(seed=0, image_size=64, refine="inter")
        fitted = FeatureTrainer("cpu", network, data, tmp_path / folder)
        fitted.run()
        handlers = [ResumeCheckpoint(str(tmp_path / f"{folder}.pt"))]
        trainer = FeatureRefineTrainer("cpu", epochs, network, fitted, ADAM, 4096, train_handlers=handlers)
        trainer.run()
        assert trainer.epochs == {"asr": epochs} and trainer.state.metrics["asr_loss"] > 0
        return network.asr.state_dict()

    expected = refine("one", 4)
    processes(2, lambda: refine("many", 2))
    for found in processes(2, lambda: refine("many", 4)):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
