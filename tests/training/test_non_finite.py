"""StopOnNonFinite raises at the step, and only there."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from monai_ddad.training import StopOnNonFinite


def engine(losses: list[dict[str, float]]) -> Engine:
    """An engine of 3 steps an epoch whose step n reports ``losses[n]``."""
    steps = iter(losses)
    result = Engine(lambda *_: [{"losses": {name: torch.tensor(value) for name, value in next(steps).items()}}])
    result.network = torch.nn.Linear(1, 1)
    StopOnNonFinite().attach(result)
    return result


def test_weights_that_are_not_finite_at_the_end_of_an_epoch_are_named():
    trainer = engine([{"a": 1.0}] * 3)
    torch.nn.init.constant_(trainer.network.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="weight bias is not finite at the end of epoch 1"):
        trainer.run(range(3), max_epochs=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_networks_and_the_epoch_are_named(value):
    losses = [{"a": 1.0, "b": 1.0, "c": 1.0}] * 4 + [{"a": value, "b": 1.0, "c": value}]
    with pytest.raises(FloatingPointError, match="loss of a, c is not finite at epoch 2"):
        engine(losses).run(range(3), max_epochs=2)


def test_finite_losses_pass():
    losses = [{"a": 1e38}, {}, {"a": -3.0}, {"b": 0.0}]
    assert engine(losses).run(range(2), max_epochs=2).iteration == 4
