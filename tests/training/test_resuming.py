"""A run that was stopped goes on as if it had not been, for all trainers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events

from monai_ddad.io.checkpoints import CheckpointError, load_file, save_file
from monai_ddad.networks import DDADNet
from monai_ddad.training import EnsembleTrainer, RefineTrainer, ResumeCheckpoint
from monai_ddad.transforms import RandBlendPatch

TRAINERS = {"ensemble": EnsembleTrainer, "refine": RefineTrainer}


class Run:
    """A network, its trainer, and the number of steps that were done."""

    def __init__(self, network: DDADNet, trainer: Any) -> None:
        self.network, self.trainer, self.steps = network, trainer, 0
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.count)

    def count(self) -> None:
        self.steps += 1

    def same(self, other: Run) -> bool:
        state = other.network.state_dict()
        return all(torch.equal(value, state[name]) for name, value in self.network.state_dict().items())


@pytest.fixture(params=list(TRAINERS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def start(kind, make_discrepancy, make_dataset, tmp_path) -> Callable[..., Run]:
    """Return a function that prepares a run; each one starts from the same weights, with its own optimiser."""

    def prepare(
        epochs: int,
        interval: int = 1,
        on_mismatch: str = "raise",
        file: str = "state.pt",
        dataset: int = 0,
        network: dict[str, Any] | None = None,
        rate: float = 1e-3,
        **options: Any,
    ) -> Run:
        net = make_discrepancy(**{"members": 2, "refine": "dual", "image_size": 16} | (network or {}))
        handler = ResumeCheckpoint(str(tmp_path / "run" / file), interval, on_mismatch)
        settings = {"batch_size": 4, "seed": 0, "optimizer": partial(torch.optim.Adam, lr=rate)} | options
        if kind == "ensemble":
            settings["num_workers"] = 4  # all members side by side
        data = make_dataset(seed=dataset, side=16)
        return Run(net, TRAINERS[kind]("cpu", epochs, net, data, train_handlers=[handler], **settings))

    def run(*args: Any, **kwargs: Any) -> Run:
        result = prepare(*args, **kwargs)
        result.trainer.run()
        return result

    run.prepare = prepare  # type: ignore[attr-defined]
    return run


STEPS = {"ensemble": 3, "refine": 2}  # an epoch


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_a_run_stopped_between_epochs_equals_an_uninterrupted_one(start, kind, interval):
    whole = start(5, file="whole.pt")
    assert whole.steps == 5 * STEPS[kind]
    assert start(2, interval).steps == 2 * STEPS[kind]
    resumed = start(5, interval)
    assert resumed.steps == 3 * STEPS[kind] and resumed.same(whole)
    assert resumed.trainer.epochs == whole.trainer.epochs and set(whole.trainer.epochs.values()) == {5}
    assert resumed.trainer.state.metrics == whole.trainer.state.metrics


@pytest.mark.parametrize("interval, lost", [(1, 0), (2, 1)])
def test_a_run_that_breaks_off_inside_an_epoch_loses_what_was_not_saved(start, kind, interval, lost):
    broken = start.prepare(5, interval)

    def fail(engine: Any) -> None:
        if engine.state.epoch == 4:
            raise RuntimeError("power cut")

    broken.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=STEPS[kind] - 1), fail)
    with pytest.raises(RuntimeError, match="power cut"):
        broken.trainer.run()
    resumed = start(5, interval)
    assert resumed.steps == (2 + lost) * STEPS[kind] and resumed.same(start(5, file="whole.pt"))


def test_a_finished_run_trains_nothing_when_it_is_started_again(start, tmp_path):
    first = start(2)
    written = (tmp_path / "run" / "state.pt").read_bytes()
    again = start(2)
    assert again.steps == 0 and again.same(first)
    assert (tmp_path / "run" / "state.pt").read_bytes() == written


def test_the_same_trainer_started_again_trains_nothing(start, kind):
    run = start(2)
    weights = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.trainer.run()
    assert run.steps == 2 * STEPS[kind]
    assert all(torch.equal(value, weights[name]) for name, value in run.network.state_dict().items())


def test_the_checkpoint_holds_every_interval_and_the_end(start, tmp_path):
    seen: list[int] = []
    run = start.prepare(5, interval=2)
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED | Events.COMPLETED,
        lambda: seen.append(next(iter(load_file(path)["state"]["epochs"].values())) if path.exists() else 0),
    )
    path = tmp_path / "run" / "state.pt"
    run.trainer.run()
    assert seen == [0, 2, 2, 4, 4, 5]


def test_seconds_add_up_over_the_parts_of_a_run(start):
    first = start(2).trainer.seconds
    assert 0 < first < start(3).trainer.seconds


@pytest.mark.parametrize(
    "other, named",
    [
        ({"seed": 1}, ["seed"]),
        ({"batch_size": 3}, ["batch_size"]),
        ({"dataset": 1}, ["images"]),
        ({"precision": "bfloat16"}, ["precision"]),
        ({"rate": 2e-3}, ["optimizer"]),
        ({"seed": 1, "batch_size": 3}, ["batch_size", "seed"]),
    ],
    ids=["seed", "batch size", "data", "precision", "learning rate", "two"],
)
def test_a_checkpoint_of_a_run_with_other_settings_is_refused_or_restarted(start, kind, other, named):
    start(1)
    with pytest.raises(CheckpointError) as caught:
        start(2, **other)
    assert all(name in str(caught.value) for name in [*named, "state.pt"])
    assert ("seed" in str(caught.value)) == ("seed" in other)
    restarted = start(2, on_mismatch="restart", **other)
    assert restarted.steps == 2 * restarted.trainer.state.epoch_length
    assert restarted.same(start(2, file="fresh.pt", **other))
    assert start(2, **other).steps == 0  # the checkpoint is now that of the new run


@pytest.mark.parametrize("kind", ["refine"], indirect=True)
@pytest.mark.parametrize("anomaly", [{"prob": 0.9}, {"half_width_range": (0.1, 0.4)}, {"centre_range": (0.3, 0.7)}])
def test_a_checkpoint_of_a_run_with_other_anomalies_is_refused(start, anomaly):
    start(1)
    with pytest.raises(CheckpointError, match="anomaly"):
        start(2, anomaly=RandBlendPatch(**anomaly))


@pytest.mark.parametrize("kind", ["ensemble", "refine"], indirect=True)
@pytest.mark.parametrize("network", [{"backbone": "MemAE"}, {"members": 3}, {"hidden_size": 9}])
def test_a_checkpoint_of_another_network_is_refused(start, network):
    start(2)
    with pytest.raises(CheckpointError, match="other"):
        start(3, network=network)


def test_a_checkpoint_trained_for_longer_than_asked_is_refused(start):
    start(3)
    with pytest.raises(CheckpointError, match="trained for 3 epochs, 2 were asked for"):
        start(2)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_refused(start, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        start(2)


@pytest.mark.parametrize(
    "content", [{"weights": torch.zeros(2)}, [1], None, torch.zeros(2), {"fingerprint": 3, "state": {}}]
)
def test_a_file_that_is_no_checkpoint_is_refused(start, tmp_path, content):
    save_file(content, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        start(2)


def test_a_checkpoint_without_its_state_is_refused(start, tmp_path):
    start(2)
    content = load_file(tmp_path / "run" / "state.pt")
    save_file(content | {"state": {}}, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError):
        start(3)
