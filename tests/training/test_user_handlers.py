"""Handlers of MONAI and Ignite that users know do on these engines what they do on MONAI's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader
from monai.handlers import CheckpointSaver, EarlyStopHandler, LrScheduleHandler, ValidationHandler

from monai_ddad.data import collate_items
from monai_ddad.decision import Judge
from monai_ddad.evaluation import ImageScores, ItemEvaluator
from monai_ddad.training import EnsembleTrainer, RefineTrainer
from monai_ddad.transforms.eight_bit import normalise

ADAM = partial(torch.optim.Adam, lr=0.01)


def make_trainer(network: Any, dataset: Any, epochs: int = 3, **options: Any) -> EnsembleTrainer:
    return EnsembleTrainer("cpu", epochs, network.discrepancy, dataset, ADAM, batch_size=4, num_workers=1, **options)


def make_validator(network: Any, dataset: Any, **options: Any) -> ItemEvaluator:
    plain = network.without_refinement()
    loader = DataLoader(dataset.items(), batch_size=4, collate_fn=collate_items)
    handlers = [ImageScores(plain), *options.pop("handlers", ())]
    return ItemEvaluator("cpu", loader, plain, judge=Judge(plain), val_handlers=handlers, decollate=False, **options)


@pytest.fixture
def labelled(make_dataset) -> Any:
    dataset = make_dataset()
    dataset.labels = [place % 2 for place in range(len(dataset))]
    for place, position in enumerate(dataset.positions):
        dataset.data[position]["label"] = place % 2
    return dataset


def test_a_schedule_sets_the_rate_of_every_member(make_net, make_dataset):
    trainer = make_trainer(make_net(), make_dataset())
    schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, gamma=0.5)
    LrScheduleHandler(schedule).attach(trainer)
    rates: list[set[float]] = []
    seen = [unit.member.optimizer for unit in trainer.units]
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append({one.param_groups[0]["lr"] for one in seen}))
    trainer.run()
    assert rates == [{0.01}, {0.005}, {0.0025}]


def test_a_schedule_sets_the_rate_of_asr_net(make_net, make_dataset):
    trainer = RefineTrainer("cpu", 2, make_net().discrepancy, make_dataset(), ADAM, batch_size=4)
    schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, gamma=0.5)
    LrScheduleHandler(schedule).attach(trainer)
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0025)


def test_another_rate_trains_other_weights(make_net, make_dataset):
    networks = [make_net(seed=0) for _ in range(2)]
    for network, gamma in zip(networks, (1.0, 0.1)):
        trainer = make_trainer(network, make_dataset())
        LrScheduleHandler(torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, gamma)).attach(trainer)
        trainer.run()
    first, second = (network.discrepancy.ndm.state_dict()["members.0.encoder.0.weight"] for network in networks)
    assert (first - second).abs().max() > 1e-4


def test_training_stops_early_where_the_validation_gets_no_better(make_net, make_dataset, labelled):
    network = make_net()
    stop = EarlyStopHandler(patience=2, score_function=lambda engine: 0.5)
    validator = make_validator(network, labelled, handlers=[stop])
    trainer = make_trainer(network, make_dataset(), 9, train_handlers=[ValidationHandler(1, validator)])
    stop.set_trainer(trainer)
    trainer.run()
    assert trainer.state.epoch == 3


def test_the_best_weights_by_a_metric_are_kept(make_net, make_dataset, labelled, tmp_path):
    network, found = make_net(), []
    options = {"save_key_metric": True, "key_metric_name": "auroc_inter"}
    saver = CheckpointSaver(str(tmp_path / "best"), {"net": network}, **options)
    validator = make_validator(network, labelled, handlers=[saver])
    validator.add_event_handler(Events.COMPLETED, lambda engine: found.append(engine.state.metrics["auroc_inter"]))
    make_trainer(network, make_dataset(), train_handlers=[ValidationHandler(1, validator)]).run()
    (kept,) = (tmp_path / "best").iterdir()
    assert len(found) == 3 and kept.name == f"net_key_metric={max(found):.4f}.pt"


def test_handlers_see_the_batch_of_each_step(make_net, make_dataset):
    network, dataset = make_net(), make_dataset()
    seen: dict[str, list[Any]] = {"ensembles": [], "refine": []}
    trainers = {
        "ensembles": make_trainer(network, dataset, epochs=1),
        "refine": RefineTrainer("cpu", 1, network.discrepancy, dataset, ADAM, batch_size=4),
    }
    for name, trainer in trainers.items():
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine, found=seen[name]: found.append(engine.state.batch)
        )
        trainer.run()
    images = torch.cat([batch["image"] for batch in seen["ensembles"]])
    known = {image.numpy().tobytes() for image in normalise(dataset.images)}
    assert len(images) > 8 and {image.numpy().tobytes() for image in images} == known
    assert all(batch["image"].shape[:2] == (4, 2) for batch in seen["refine"])
    assert any(batch["label"].any() for batch in seen["refine"])


def test_moving_averages_of_the_weights_follow_the_training(make_net, make_dataset):
    network = make_net()
    name = "discrepancy.ndm.members.0.encoder.0.weight"
    start = network.state_dict()[name].clone()
    trainer = make_trainer(network, make_dataset())
    average = EMAHandler(network, momentum=0.5)
    average.attach(trainer, event=Events.ITERATION_COMPLETED)
    trainer.run()
    last, mean = network.state_dict()[name], average.ema_model.state_dict()[name]
    assert 0 < (mean - last).norm() < (start - last).norm()
