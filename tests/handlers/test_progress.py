"""EpochProgress tells what is done and how long the rest takes."""

from __future__ import annotations

import re
import time

from ignite.engine import Engine, Events

from monai_ddad.handlers import EpochProgress


def test_epochs_of_an_earlier_run_do_not_count_towards_the_speed(capsys):
    trainer = Engine(lambda *_: time.sleep(0.1))

    @trainer.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch = 100
        engine.state.metrics["loss"] = 0.5

    EpochProgress("Members").attach(trainer)
    trainer.run(range(2), max_epochs=104)
    lines = [line for line in re.split("[\r\n]+", capsys.readouterr().err) if line.strip()]
    assert lines[0].startswith("Members:  96%") and "100/104 epochs" in lines[0]
    assert "104/104 epochs" in lines[-1] and "loss=0.5" in lines[-1]
    first = next(line for line in lines if "101/104" in line)  # 3 epochs of 0.2 s are left
    assert "00:00 left" in first


def test_a_second_run_shows_a_bar_of_its_own(capsys):
    trainer = Engine(lambda *_: None)
    EpochProgress("Members").attach(trainer)
    trainer.run(range(2), max_epochs=2)
    trainer.run(range(2), max_epochs=3)
    assert "3/3 epochs" in capsys.readouterr().err
