"""Weights are in the network before the first image is scored, or nothing is."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from monai_ddad.evaluation import LoadWeights
from monai_ddad.io.checkpoints import CheckpointError, save_file


def test_weights_are_loaded_when_the_run_starts(make_net, images, tmp_path):
    first, second = make_net(seed=0), make_net(seed=1)
    save_file(second.state_dict(), tmp_path / "model.pt")
    seen = []
    engine = Engine(lambda engine, batch: seen.append(first.decide(batch).scores.detach()))
    LoadWeights(first, str(tmp_path / "model.pt")).attach(engine)
    assert not torch.equal(first.decide(images).scores, second.decide(images).scores)
    engine.run([images])
    assert torch.equal(seen[0], second.decide(images).scores.detach())


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_without_weights_nothing_is_scored(make_net, images, tmp_path, content):
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    engine = Engine(lambda engine, batch: pytest.fail("an image was scored"))
    LoadWeights(make_net(), str(tmp_path / "model.pt")).attach(engine)
    with pytest.raises(CheckpointError):
        engine.run([images])
