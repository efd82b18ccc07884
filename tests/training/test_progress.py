"""EpochProgress tells what is done and how long the rest takes."""

from __future__ import annotations

import re
import time

import pytest
from ignite.engine import Engine, Events

from monai_ddad.training import EpochProgress


class EnoughError(Exception):
    """Ends a run early."""


def test_epochs_of_an_earlier_run_do_not_count_towards_the_speed(capsys):
    trainer = Engine(lambda *_: time.sleep(0.1))

    @trainer.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch = 100
        engine.state.metrics["loss"] = 0.5

    EpochProgress("Members").attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED(once=103))
    def stop(engine):
        raise EnoughError

    with pytest.raises(EnoughError):
        trainer.run(range(2), max_epochs=300)
    lines = [line for line in re.split("[\r\n]+", capsys.readouterr().err) if line.strip()]
    assert lines[0].startswith("Members:  33%") and "100/300 epochs" in lines[0]
    assert "103/300 epochs" in lines[-1] and "loss=0.5" in lines[-1]
    left = re.search(r"(\d\d):(\d\d) left", lines[-1])
    assert int(left[1]) * 60 + int(left[2]) >= 35  # 197 epochs of 0.2 s; 1 s if the first 100 counted


def test_a_second_run_shows_a_bar_of_its_own(capsys):
    trainer = Engine(lambda *_: None)
    EpochProgress("Members").attach(trainer)
    trainer.run(range(2), max_epochs=2)
    trainer.run(range(2), max_epochs=3)
    assert "3/3 epochs" in capsys.readouterr().err
