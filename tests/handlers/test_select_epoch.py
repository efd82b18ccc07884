"""SelectEpoch ends a training with the weights of the epoch that separates unlabelled images best."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from sklearn.metrics import roc_auc_score

from monai_ddad.checkpoints import CheckpointError, load_file, save_file
from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.engines import EnsembleTrainer
from monai_ddad.handlers import ResumeCheckpoint, SelectEpoch
from monai_ddad.networks import UNFITTED_NAMES, DDADNet

ADAM = partial(torch.optim.Adam, lr=1e-3)


class Run:
    """A network, its trainer and handler, and what the network was at the end of each epoch."""

    def __init__(self, network: DDADNet, trainer: EnsembleTrainer, handler: SelectEpoch) -> None:
        self.network, self.trainer, self.handler = network, trainer, handler
        self.epochs: dict[int, dict[str, torch.Tensor]] = {}
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.keep)

    def keep(self, engine: Any) -> None:
        state = self.network.state_dict()
        self.epochs[engine.state.epoch] = {name: value.clone() for name, value in state.items()}

    def is_of(self, epoch: int) -> bool:
        state = self.network.state_dict()
        return all(torch.equal(value, state[name]) for name, value in self.epochs[epoch].items())


@pytest.fixture
def sets(make_dataset) -> tuple[ResidentDataset, ResidentDataset, ResidentDataset]:
    """Training images, and known normals and unlabelled images that are set aside."""
    data = make_dataset(12, 9, side=16)
    return data.subset([*range(8), *range(12, 17)]), data.subset(range(8, 12)), data.subset(range(17, 21))


@pytest.fixture
def start(make_net, sets, tmp_path) -> Callable[..., Run]:
    """Return a function that prepares and, unless told otherwise, makes a run."""

    def run(
        epochs: int = 6,
        go: bool = True,
        score: str = "inter",
        interval: int = 1,
        network: dict[str, Any] | None = None,
        save_every: int = 1,
        **options: Any,
    ) -> Run:
        training, normals, unlabeled = sets
        net = make_net(**{"members": 2, "refine": "none", "image_size": 16, "scores": "plus"} | (network or {}))
        handler = SelectEpoch(normals, unlabeled, score, interval)
        handlers = [handler, ResumeCheckpoint(str(tmp_path / "state.pt"), save_every)]
        settings = {"batch_size": 4, "num_workers": 1, "train_handlers": handlers} | options
        trainer = EnsembleTrainer("cpu", epochs, net, training, ADAM, **settings)
        result = Run(net, trainer, handler)
        if go:
            trainer.run()
        return result

    return run


@pytest.fixture
def aucps(monkeypatch) -> Callable[[list[float]], None]:
    """Return a function that lets the AUCp of the next scorings be these."""

    def give(values: list[float]) -> None:
        left = iter(values)
        monkeypatch.setattr("monai_ddad.handlers.select_epoch.aucp", lambda normal, unlabeled: next(left))

    return give


@pytest.mark.parametrize(
    "values, best",
    [([0.5, 0.7, 0.9, 0.8, 0.9, 0.1], 3), ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], 1), ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6)],
)
def test_the_weights_of_the_best_epoch_are_put_back_in_both_modules(start, aucps, values, best):
    aucps(values)
    run = start()
    assert run.is_of(best) and not any(run.is_of(epoch) for epoch in range(1, 7) if epoch != best)
    assert run.trainer.selected["epoch"] == best and run.trainer.selected["value"] == max(values)
    assert run.handler.found == dict(enumerate(values, start=1))
    assert run.trainer.epochs == {"ndm": 6, "udm": 6} and not run.network.training


@pytest.mark.parametrize("score", ["inter", "intra", "rec", *UNFITTED_NAMES])
def test_the_value_is_that_of_scikit_learn_on_the_networks_scores(start, sets, score):
    run = start(epochs=3, score=score)
    column = run.network.score_names.index(score)
    scores = [run.network.image_scores(normalise(part.images))[:, column].tolist() for part in sets[1:]]
    expected = roc_auc_score([0] * 4 + [1] * 4, scores[0] + scores[1])
    assert run.trainer.selected["value"] == pytest.approx(expected) == max(run.handler.found.values())


def test_what_is_trained_does_not_depend_on_it(start, tmp_path):
    chosen = start()
    (tmp_path / "state.pt").unlink()
    plain = start(train_handlers=[])
    assert all(torch.equal(value, chosen.epochs[6][name]) for name, value in plain.network.state_dict().items())
    assert plain.is_of(6)


def test_epochs_between_are_not_scored_but_the_last_is(start, aucps):
    aucps([0.9, 0.8, 0.95])
    run = start(epochs=5, interval=2)
    assert list(run.handler.found) == [2, 4, 5] and run.is_of(5)


def test_metrics_hold_the_value_in_its_own_epoch_alone(start, aucps):
    aucps([0.9, 0.8])
    run = start(epochs=4, interval=2, go=False)
    seen = []
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    run.trainer.run()
    assert [metrics.get("aucp_inter") for metrics in seen] == [None, 0.9, None, 0.8]


@pytest.mark.parametrize("save_every", [1, 2])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_run_that_was_stopped_goes_on_with_the_best_so_far(start, aucps, tmp_path, stop, save_every):
    values = [0.5, 0.9, 0.7, 0.95, 0.2, 0.1]
    aucps(values)
    whole = start(save_every=save_every)
    (tmp_path / "state.pt").unlink()

    class StopError(Exception):
        pass

    def fail(engine: Any) -> None:
        raise StopError

    aucps(values)
    broken = start(go=False, save_every=save_every)
    broken.trainer.add_event_handler(Events.EPOCH_STARTED(once=stop + 1), fail)
    with pytest.raises(StopError):
        broken.trainer.run()
    aucps(values[stop // save_every * save_every :])
    resumed = start(save_every=save_every)
    assert resumed.trainer.selected["epoch"] == 4
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])


@pytest.mark.parametrize("modules", [("ndm", "udm"), ()])
def test_a_finished_run_that_starts_again_ends_with_the_chosen_weights(start, aucps, modules):
    aucps([0.5, 0.9, 0.7, 0.1, 0.1, 0.1])
    first = start()
    again = start(modules=modules)
    assert not again.epochs and again.trainer.selected["epoch"] == 2
    again.epochs = first.epochs
    assert again.is_of(2)


def test_a_longer_run_goes_on_from_the_last_epoch_and_not_from_the_chosen_one(start, aucps, tmp_path):
    aucps([0.9, 0.5, 0.4, 0.95])
    start(epochs=3)
    longer = start(epochs=4)
    (tmp_path / "state.pt").unlink()
    aucps([0.9, 0.5, 0.4, 0.95])
    whole = start(epochs=4)
    assert longer.trainer.selected["epoch"] == whole.trainer.selected["epoch"] == 4
    assert all(torch.equal(value, longer.epochs[4][name]) for name, value in whole.epochs[4].items())


@pytest.mark.parametrize("other", [{"score": "rec"}, {"train_handlers": None}], ids=["score", "none"])
def test_a_checkpoint_of_another_choice_is_refused(start, tmp_path, other):
    start(epochs=2)
    if "train_handlers" in other:
        other = {"train_handlers": [ResumeCheckpoint(str(tmp_path / "state.pt"))]}
    with pytest.raises(CheckpointError, match="other selection"):
        start(epochs=3, **other)


@pytest.mark.parametrize("kind", ["normals", "unlabeled"])
def test_images_of_both_kinds_are_needed(sets, kind):
    _, normals, unlabeled = sets
    parts = {"normals": normals, "unlabeled": unlabeled}
    parts[kind] = parts[kind].subset([])
    numbers = f"got {len(parts['normals'])} and {len(parts['unlabeled'])}: raise selection_share"
    with pytest.raises(ValueError, match=numbers):
        SelectEpoch(**parts)


@pytest.mark.parametrize(
    "score, network, names",
    [
        ("ddad_plus", {}, "inter, intra, rec, ratio, f, ssim, got selection_score 'ddad_plus'"),
        ("r_dual", {"refine": "dual"}, "inter, intra, rec, ratio, f, ssim, got"),
        ("ssim", {"scores": "paper"}, "inter, intra, rec, got"),
        ("intra", {"scores": "paper", "members": 1}, "inter, rec, got"),
    ],
)
def test_a_score_that_is_unknown_or_not_trained_yet_is_refused(start, score, network, names):
    with pytest.raises(ValueError, match=names):
        start(score=score, network=network, go=False)


@pytest.mark.parametrize("module", ["ndm", "udm"])
def test_one_module_alone_is_refused(start, module):
    with pytest.raises(ValueError, match=f"this run trains {module} alone"):
        start(modules=[module])


def test_a_checkpoint_of_before_epochs_were_chosen_goes_on(start, tmp_path):
    path = tmp_path / "state.pt"
    whole = start(epochs=3, train_handlers=[])
    start(epochs=2, train_handlers=[ResumeCheckpoint(str(path))])
    content = load_file(path)
    del content["fingerprint"]["selection"], content["state"]["selected"]
    save_file(content, path)
    resumed = start(epochs=3, train_handlers=[ResumeCheckpoint(str(path))])
    assert list(resumed.epochs) == [3]
    assert all(torch.equal(value, resumed.network.state_dict()[name]) for name, value in whole.epochs[3].items())
