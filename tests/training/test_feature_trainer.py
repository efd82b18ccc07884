"""The pass that fits the distributions of features."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from monai_ddad.io.errors import DataError
from monai_ddad.networks import FeatureNet, Gaussian, Moments
from monai_ddad.training import FeatureTrainer
from monai_ddad.transforms.eight_bit import normalise


@pytest.fixture
def network() -> FeatureNet:
    return FeatureNet(seed=0, image_size=64)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_distributions_are_those_of_all_cells_at_once(network, make_dataset, batch):
    data = make_dataset(side=64)
    FeatureTrainer("cpu", network, data, batch).run()
    known = torch.tensor([label == 0 for label in data.labels])
    with torch.no_grad():
        cells = network.cells(normalise(data.images))[0]
    normal, every = Moments.of(cells[known].flatten(0, -2)), Moments.of(cells.flatten(0, -2))
    scale = (normal.covariance.diagonal().sqrt() + 1e-6).float()
    for found, moments in ((network.ndm, normal), (network.udm, every)):
        expected = Gaussian(network.size)
        expected.fit(moments, scale)
        points = cells.flatten(0, -2)
        torch.testing.assert_close(found(points), expected(points), rtol=1e-3, atol=1e-2)


def test_handlers_see_what_was_fitted(network, make_dataset):
    seen = []

    class Look:
        def attach(self, engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(bool(network.ndm.whitening.any())))

    trainer = FeatureTrainer("cpu", network, make_dataset(side=64), 4, train_handlers=[Look()])
    trainer.run()
    assert seen == [True] and trainer.unfinished == {}


def test_a_pass_that_ends_early_fits_nothing(network, make_dataset):
    trainer = FeatureTrainer("cpu", network, make_dataset(side=64), 4)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate())
    trainer.run()
    assert trainer.unfinished and not network.loaded and not network.ndm.whitening.any()


def test_without_training_the_network_stays_as_it_is(network, make_dataset):
    trainer = FeatureTrainer("cpu", network, make_dataset(side=64), train=False)
    trainer.run()
    assert set(trainer.unfinished) == {"ndm", "udm"} and not network.loaded


def test_images_that_do_not_fit_are_refused(network, make_dataset):
    with pytest.raises(DataError, match="at least 2 known normal"):
        FeatureTrainer("cpu", network, make_dataset(normal=1, unlabeled=5, side=64))
    colour = FeatureNet(seed=0, image_size=64, in_channels=3)
    with pytest.raises(DataError, match="1 channels and the network expects 3"):
        FeatureTrainer("cpu", colour, make_dataset(side=64))
