"""Members in training."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from ignite.engine import Events

from monai_ddad.networks import DDADNet, build_model
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training import EnsembleTrainer

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)


def test_members_learn_in_bfloat16(tiny, make_dataset):
    def train(precision: str) -> list[float]:
        found: list[float] = []
        network = DDADNet(members=2, seed=0, **tiny)
        trainer = EnsembleTrainer("cpu", 8, network, make_dataset(), ADAM, 4, precision=precision)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(trainer.state.metrics["ndm_loss"]))
        trainer.run()
        return found

    losses = {precision: train(precision) for precision in ("float32", "bfloat16")}
    assert losses["float32"][-1] < 0.9 * losses["float32"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_runtimes_notice_what_was_trained(tiny, make_dataset, images):
    network = build_model(members=2, refine="none", seed=0, **tiny)
    runtime, found = Runtime(network), []
    trainer = EnsembleTrainer("cpu", 3, network.discrepancy, make_dataset(), ADAM, 4)

    @trainer.on(Events.EPOCH_COMPLETED)
    def compare() -> None:
        found.append(runtime(images))
        torch.testing.assert_close(found[-1], Runtime(copy.deepcopy(network))(images))

    trainer.run()
    assert not torch.allclose(found[0], found[1], rtol=0.01) and not torch.allclose(found[1], found[2], rtol=0.01)
