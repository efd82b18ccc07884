"""The refinement of features finds synthetic anomalies, and learns the same however it is run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from ignite.engine import Events
from sklearn.metrics import roc_auc_score

from monai_ddad.data import ResidentDataset
from monai_ddad.io.errors import DataError
from monai_ddad.networks import CellASRNet, DDADModel, FeatureNet
from monai_ddad.training import FeatureRefineTrainer, FeatureTrainer, ResumeCheckpoint, calibrate, feature_refine
from monai_ddad.transforms import RandAnomalies, RandBlob
from monai_ddad.transforms.eight_bit import normalise

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(feature_refine, "PICTURES", 16)


def make(seed: int = 0) -> FeatureNet:
    return FeatureNet(seed=seed, image_size=64, refine="inter")


def refine(data: ResidentDataset, folder=None, epochs: int = 2, add: bool = False, **settings) -> FeatureNet:
    """Fit and refine a network."""
    network = make()
    fitted = FeatureTrainer("cpu", network, data, folder, add=add)
    fitted.run()
    FeatureRefineTrainer("cpu", epochs, network, fitted, ADAM, 64, **settings).run()
    return network


def equal(first: FeatureNet, second: FeatureNet) -> bool:
    one, other = first.asr.state_dict(), second.asr.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_map_is_the_discrepancy_times_a_probability(make_dataset):
    data = make_dataset(side=64)
    network = refine(data).eval()
    with torch.no_grad():
        maps = network(normalise(data.images)).maps
    assert network.map_names == ["r_inter", "inter", "rec", "ratio"]
    share = maps[:, 0] / maps[:, 1]
    assert 0.03 - 1e-4 <= share.min() < share.max() <= 1 + 1e-4
    plain = FeatureNet(seed=0, image_size=64)
    plain.dual.load_state_dict(network.dual.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(normalise(data.images)).maps, maps[:, 1:])


def test_drawn_anomalies_are_found(make_dataset):
    """In pictures that nothing was learnt from, by the probability alone."""
    data = make_dataset(12, 6, side=64)
    blobs = RandAnomalies(kinds=[RandBlob(radius_range=(0.15, 0.25), change_range=(0.6, 0.8))])
    network = refine(data, epochs=60, anomaly=blobs).eval()
    others, blobs = normalise(make_dataset(12, 0, seed=7, side=64).images), blobs.set_random_state(9)
    altered = torch.stack([blobs(image) for image in others])
    labels = torch.stack([blobs.label(*pair) for pair in zip(others, altered)])
    with torch.no_grad():
        fine, _ = network.cells(*network.encode(altered)[:2])
        logits = network.asr(fine, *network.dual(fine))
    marks = torch.nn.functional.adaptive_avg_pool2d(labels[:, None], fine.shape[1])[:, 0] > 0.5
    assert roc_auc_score(marks.flatten(), logits.flatten()) > 0.9


def test_neither_order_nor_threads_change_the_weights(make_dataset):
    data = make_dataset(side=64)
    first = refine(data)
    torch.set_num_threads(2)
    try:
        second = refine(data.subset([*range(7, -1, -1), *range(8, 12)]))
    finally:
        torch.set_num_threads(1)
    assert equal(first, second)
    assert not equal(first, refine(data, seed=1))


def test_images_added_later_give_the_weights_of_one_training(make_dataset, tmp_path):
    data = make_dataset(8, 6, side=64)
    at_once = refine(data)
    refine(data.subset([0, 1, 2, 3, 4, 8, 9, 10]), tmp_path)
    later = refine(data.subset([5, 6, 7, 11, 12, 13]), tmp_path, add=True)
    for name, value in at_once.asr.state_dict().items():
        torch.testing.assert_close(value, later.asr.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_training_that_was_stopped_goes_on(make_dataset, tmp_path):
    data = make_dataset(side=64)
    network = make()
    fitted = FeatureTrainer("cpu", network, data, tmp_path / "features")
    fitted.run()

    def trainer(model: FeatureNet, train: bool = True) -> FeatureRefineTrainer:
        handlers = [ResumeCheckpoint(str(tmp_path / "checkpoint.pt"))]
        return FeatureRefineTrainer("cpu", 4, model, fitted, ADAM, 64, train=train, train_handlers=handlers)

    stopped = trainer(network)
    stopped.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    stopped.run()
    assert stopped.unfinished == {"asr": "2 of 4 epochs"}
    again = trainer(network)
    again.run()
    assert again.epochs == {"asr": 4} and not again.unfinished
    undisturbed = refine(data, epochs=4)
    assert equal(network, undisturbed)
    other = make()
    other.load_state_dict(network.state_dict())
    other.asr = CellASRNet(other.size)
    other.asr.load_state_dict(other.asr.state_dict() | dict(network.asr.named_buffers()))
    loaded = trainer(other, train=False)
    loaded.run()
    assert loaded.epochs == {"asr": 4} and equal(other, network)


def test_anomalies_are_described_once(make_dataset, tmp_path, monkeypatch):
    data = make_dataset(side=64)
    first = refine(data, tmp_path)
    monkeypatch.setattr(FeatureRefineTrainer, "_altered", None)  # which must not be needed
    assert equal(refine(data, tmp_path), first)


def test_without_refinement_nothing_is_done(make_dataset):
    data = make_dataset(side=64)
    network = FeatureNet(seed=0, image_size=64)
    fitted = FeatureTrainer("cpu", network, data)
    fitted.run()
    trainer = FeatureRefineTrainer("cpu", 3, network, fitted, ADAM)
    trainer.run()
    assert trainer.epochs == {} and not trainer.unfinished and "asr.mean" not in network.state_dict()


def test_a_fit_whose_anomalies_were_never_drawn_cannot_be_added_to_without_normals(make_dataset, tmp_path):
    data = make_dataset(side=64)
    FeatureTrainer("cpu", FeatureNet(seed=0, image_size=64), data, tmp_path).run()
    with pytest.raises(DataError, match="no known normals to draw"):
        refine(data.subset([8, 9]), tmp_path, add=True)


@pytest.mark.parametrize("sign, score", [(1, "r_inter"), (-1, "inter")])
def test_a_refined_score_that_runs_against_the_discrepancy_does_not_decide(
    make_dataset, monkeypatch, caplog, sign, score
):
    data = make_dataset(12, 30, side=64)
    network = make()
    fitted = FeatureTrainer("cpu", network, data)
    fitted.run()
    monkeypatch.setattr(CellASRNet, "refine", lambda self, discrepancy, logits: sign * discrepancy)
    model = DDADModel(network, score="r_inter")
    calibrate(model, data, data.subset([]), features=fitted.features)
    assert (model.score, model.wanted_score) == (score, "r_inter")
    assert ("inter decides instead of r_inter" in caplog.text) is (sign < 0)


def test_p_values_of_the_refined_score_keep_their_promise(make_dataset):
    data, new = make_dataset(40, 20, side=64), make_dataset(60, 0, seed=5, side=64)
    network = make()
    fitted = FeatureTrainer("cpu", network, data)
    fitted.run()
    FeatureRefineTrainer("cpu", 4, network, fitted, ADAM, 64).run()
    model = DDADModel(network)
    calibrate(model, data, data.subset([]), features=fitted.features)
    with torch.no_grad():
        p_values = model.decide(normalise(new.images)).p_values[:, 0].numpy()
    assert np.mean(p_values <= 0.2) < 0.4
