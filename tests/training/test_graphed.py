"""Recorded training steps, with an imitation of CUDA graphs where there is no card."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from monai_ddad.training.graphed import GraphedStep


class Recorder:
    """What PyTorch's CUDA graphs do, on a CPU: a replay computes what was recorded, with what was fixed then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded, self.replayed, self.refuses = 0, 0, False
        self.graphed: GraphedStep
        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, value in {
            "Stream": lambda device: stream,
            "stream": lambda stream: nullcontext(),
            "device": lambda device: nullcontext(),
            "current_stream": lambda device: stream,
            "synchronize": lambda device: None,
            "CUDAGraph": self.make_graph,
            "graph": self.record,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def make_graph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=self.replay)

    @contextmanager
    def record(self, graph, stream):
        if self.refuses:
            raise RuntimeError("a driver that refuses")
        self.rate = self.graphed.optimizer.param_groups[0]["lr"]
        self.recorded += 1
        yield

    def replay(self) -> None:
        self.replayed += 1
        group = self.graphed.optimizer.param_groups[0]
        group["lr"], rate = self.rate, group["lr"]  # which is baked in
        self.graphed._losses.copy_(self.graphed.step(*self.graphed._inputs))
        group["lr"] = rate


def make(enabled: bool, recorder: Recorder | None = None) -> tuple[GraphedStep, torch.nn.Linear]:
    layer = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(layer.weight, 0.5)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def step(values: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = layer(values).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    graphed = GraphedStep(step, lambda: layer.state_dict().values(), optimizer, enabled)
    if recorder is not None:
        recorder.graphed, graphed.enabled, graphed._stream = graphed, enabled, torch.cuda.Stream("cuda:0")
    return graphed, layer


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    # the CPU's Adam has no "capturable", which a graph needs
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_get_capturable_supported_devices", lambda *_: ["cpu"])
    return Recorder(monkeypatch)


def values(step: int) -> torch.Tensor:
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(step))


def run(graphed: GraphedStep, steps: range) -> list[float]:
    losses = []
    for step in steps:
        losses.append(graphed(values(step)).item())
        graphed.wait()
    return losses


def test_recorded_steps_are_the_plain_ones(recorder):
    graphed, layer = make(True, recorder)
    plain, other = make(False)
    assert run(graphed, range(6)) == pytest.approx(run(plain, range(6)), rel=1e-4)
    torch.testing.assert_close(layer.weight, other.weight, rtol=1e-4, atol=1e-5)
    assert (recorder.recorded, recorder.replayed) == (1, 6)


def test_a_step_is_recorded_anew_when_what_it_holds_has_changed(recorder):
    graphed, layer = make(True, recorder)
    plain, other = make(False)
    run(graphed, range(2)), run(plain, range(2))
    for step in (graphed, plain):
        step.optimizer.param_groups[0]["lr"] = 0.01
    assert run(graphed, range(2, 4)) == pytest.approx(run(plain, range(2, 4)), rel=1e-4) and recorder.recorded == 2
    layer.weight.data = layer.weight.data.clone()
    assert run(graphed, range(4, 6)) == pytest.approx(run(plain, range(4, 6)), rel=1e-4) and recorder.recorded == 3
    torch.testing.assert_close(layer.weight, other.weight, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_recorded_is_computed_plainly(recorder, caplog):
    recorder.refuses = True
    graphed, layer = make(True, recorder)
    plain, other = make(False)
    assert run(graphed, range(4)) == pytest.approx(run(plain, range(4)), rel=1e-4)
    torch.testing.assert_close(layer.weight, other.weight, rtol=1e-4, atol=1e-5)
    assert caplog.text.count("cannot be recorded") == 1 and not recorder.replayed


def test_optimizers_go_on_from_recorded_to_plain_and_back(recorder):
    whole, expected = make(False)
    run(whole, range(6))
    first, layer = make(True, recorder)
    run(first, range(3))
    second, other = make(False)
    other.load_state_dict(layer.state_dict())
    second.load_optimizer_state(first.optimizer_state())
    run(second, range(3, 4))
    third, last = make(True, recorder)
    last.load_state_dict(other.state_dict())
    third.load_optimizer_state(second.optimizer_state())
    run(third, range(4, 6))
    torch.testing.assert_close(last.weight, expected.weight, rtol=1e-4, atol=1e-5)
