"""The pass that stores features and fits their distributions, and what the stored ones are good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events

from monai_ddad.data import ResidentDataset
from monai_ddad.data.resident import keys_of
from monai_ddad.io.errors import DataError
from monai_ddad.networks import DDADModel, DualGaussian, FeatureNet, Moments
from monai_ddad.networks.plus import folds
from monai_ddad.training import FeatureTrainer, calibrate
from monai_ddad.training.feature_fit import TrainingFeatures, fit_features
from monai_ddad.training.feature_store import FeatureStore, describe
from monai_ddad.transforms.eight_bit import normalise


@pytest.fixture
def network() -> FeatureNet:
    return FeatureNet(seed=0, image_size=64)


def weights_of(network: FeatureNet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_distributions_are_those_of_all_cells_at_once(network, make_dataset, batch):
    data = make_dataset(side=64)
    FeatureTrainer("cpu", network, data, batch_size=batch).run()
    known = torch.tensor([label == 0 for label in data.labels])
    with torch.no_grad():
        first, second, _ = network.encode(normalise(data.images))
        cells = network.cells(first.half().float(), second.half().float())[0]
    expected = DualGaussian(network.size)
    expected.fit(*(Moments.of(cells[side].flatten(0, -2)) for side in (known, ~known)))
    points = cells.flatten(0, -2)
    for found, other in zip(network.dual(points), expected(points)):
        torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-4)


def test_handlers_see_what_was_fitted(network, make_dataset):
    seen = []

    class Look:
        def attach(self, engine) -> None:
            ndm = network.dual.ndm
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(bool(ndm.whitening.any())))

    trainer = FeatureTrainer("cpu", network, make_dataset(side=64), batch_size=4, train_handlers=[Look()])
    trainer.run()
    assert seen == [True] and trainer.unfinished == {}


def test_a_pass_that_ends_early_fits_nothing_and_another_goes_on_from_there(network, make_dataset, tmp_path):
    data, images = make_dataset(side=64), []

    def count(engine) -> None:
        images.append(len(engine.state.batch["image"]))

    trainer = FeatureTrainer("cpu", network, data, tmp_path, batch_size=4)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate())
    trainer.run()
    assert trainer.unfinished and not network.loaded and not network.dual.ndm.whitening.any()
    for _ in range(2):  # what is missing, then nothing
        again = FeatureTrainer("cpu", network, data, tmp_path, batch_size=4)
        again.add_event_handler(Events.ITERATION_COMPLETED, count)
        again.run()
    assert images == [4, 4, 0]
    found = weights_of(network)
    FeatureTrainer("cpu", network, data, batch_size=4).run()
    assert all(torch.equal(value, found[name]) for name, value in network.state_dict().items())


def test_images_added_later_give_the_weights_of_one_fit_to_all(make_dataset, tmp_path):
    data = make_dataset(30, 25, side=64)
    models = []
    for parts in ([range(55)], [[*range(12), *range(30, 40)], [*range(12, 30), *range(40, 55)]]):
        model = DDADModel(FeatureNet(seed=0, image_size=64))
        for number, part in enumerate(parts):
            some = data.subset(list(part))
            folder = tmp_path / f"features of {len(parts)}"
            trainer = FeatureTrainer("cpu", model.discrepancy, some, folder, add=number > 0)
            trainer.run()
            calibrate(model, some, some.subset([]), features=trainer.features)
        models.append(model)
    expected, found = (model.state_dict() for model in models)
    assert models[1].calibration.images.groups == 30
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_an_image_that_comes_again_is_what_it_is_now(network, make_dataset, tmp_path):
    data = make_dataset(6, 6, side=64)
    FeatureTrainer("cpu", network, data, tmp_path).run()
    again = data.subset([6, 7])
    again.labels = [0, 0]
    trainer = FeatureTrainer("cpu", network, again, tmp_path, add=True)
    trainer.run()
    assert trainer.features.numbers == [8, 4]
    with torch.no_grad():
        trained = weights_of(network)
        everything = data.subset([*range(6), 8, 9, 10, 11, 6, 7])
        everything.labels = [0] * 6 + [None] * 4 + [0, 0]
        FeatureTrainer("cpu", network, everything).run()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "kind, message", [("none", "no earlier fit"), ("other", "another encoder"), ("lost", "missing")]
)
def test_nothing_can_be_added_to_what_is_not_there(network, make_dataset, tmp_path, kind, message):
    data, folder = make_dataset(side=64), tmp_path / "features"
    if kind != "none":
        other = FeatureNet(seed=int(kind == "other"), image_size=64)
        FeatureTrainer("cpu", other, data, folder, batch_size=6).run()
    if kind == "lost":
        min(folder.glob("*_*.pt")).unlink()
    with pytest.raises(DataError, match=message):
        FeatureTrainer("cpu", network, data, folder, add=True).run()
    if kind == "lost":
        with pytest.raises(DataError, match="preparation"):
            FeatureTrainer("cpu", network, data, folder, {"preprocess": "plain"}, add=True).run()


def test_files_of_others_are_left_alone(network, make_dataset, tmp_path):
    (tmp_path / "features").mkdir()
    for name in ("checkpoint_ensemble.pt", "my_weights.pt"):
        (tmp_path / "features" / name).write_bytes(b"mine")
    FeatureTrainer("cpu", network, make_dataset(side=64), tmp_path / "features").run()
    assert {"checkpoint_ensemble.pt", "my_weights.pt"} < {file.name for file in (tmp_path / "features").iterdir()}


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


@pytest.mark.parametrize("masked", [False, True])
def test_a_store_gives_back_what_it_was_given(make_dataset, tmp_path, masked):
    network = FeatureNet(seed=0, image_size=64, masked=masked)
    images = make_dataset(side=64).images
    images[:, :, :20] = 0
    store = FeatureStore(tmp_path, network)
    for part in images[:5], images[5:]:
        store.add(part)
    keys, expected = keys_of(images), describe(network, images)
    assert ("field" in expected) is masked
    order = [7, 0, 3, 0, 11]  # one of them twice
    seen = []
    for places, found in FeatureStore(tmp_path, network).read([keys[index] for index in order]):
        seen += places.tolist()
        rows = [order[place] for place in places]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value[rows], rtol=2e-3, atol=2e-3)
            assert found[name].dtype == value.dtype
    assert sorted(seen) == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        list(store.read(["0" * 32]))


def test_files_that_are_damaged_or_of_another_network_are_made_anew(make_dataset, tmp_path, caplog):
    data, network = make_dataset(side=64), FeatureNet(seed=0, image_size=64)
    tmp_path = tmp_path / "features"
    FeatureTrainer("cpu", FeatureNet(seed=1, image_size=64), data, tmp_path).run()
    others = set(tmp_path.iterdir())
    FeatureTrainer("cpu", network, data, tmp_path, batch_size=6).run()
    files, expected = sorted(tmp_path.iterdir()), weights_of(network)
    assert len(files) == 3 and others & set(files) == {tmp_path / "fitted.pt"}
    files[0].write_bytes(files[0].read_bytes()[:-100])
    FeatureTrainer("cpu", network, data, tmp_path, batch_size=6).run()
    assert "damaged" in caplog.text and sorted(tmp_path.iterdir()) == files
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_features_that_are_not_finite_are_refused(network, make_dataset):
    next(network.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        FeatureTrainer("cpu", network, make_dataset(side=64)).run()


@pytest.fixture
def fitted(make_dataset, tmp_path) -> tuple[DDADModel, ResidentDataset, TrainingFeatures]:
    model, data = DDADModel(FeatureNet(seed=0, image_size=64)), make_dataset(30, 25, side=64)
    trainer = FeatureTrainer("cpu", model.discrepancy, data, tmp_path)
    trainer.run()
    return model, data, trainer.features


def test_each_image_is_scored_by_a_fit_without_its_fold(fitted, make_dataset, tmp_path):
    model, data, features = fitted
    found = fit_features(model, features)
    fold = torch.cat([folds(range(30))[0], folds(range(25))[0]])
    assert torch.equal(features.fold, fold)
    for number in (0, 3):
        rest = data.subset((fold != number).nonzero()[:, 0].tolist())
        other = DDADModel(FeatureNet(seed=0, image_size=64))
        trainer = FeatureTrainer("cpu", other.discrepancy, rest)
        trainer.run()
        fit_features(other, trainer.features)
        with torch.no_grad():
            expected = other.eval().decide(normalise(data.images[fold == number])).scores
        # but for the last score, whose units are those of the whole fit, and the rounding of what is stored
        error = (found.scores[fold == number] - expected)[:, :-1].abs().amax(dim=0) / expected[:, :-1].std(dim=0)
        assert error.max() < 0.02, error


def test_the_out_of_fold_scores_of_known_normals_calibrate(fitted):
    model, data, features = fitted
    calibrate(model, data, data.subset([]), features=features)
    found = fit_features(model, features)
    kept = model.calibration.images.scores
    torch.testing.assert_close(kept, found.scores[:30].T.sort(dim=1).values)
    assert model.calibration.images.groups == 30 and model.calibration.map_quantiles.any()
    with torch.no_grad():
        lowest = model.eval().decide(normalise(data.images)).p_values.min()
    assert lowest >= 1 / 31 - 1e-6


def test_what_is_set_aside_calibrates_instead(fitted, make_dataset):
    model, data, features = fitted
    held_out = make_dataset(7, 0, seed=5, side=64)
    calibrate(model, data, held_out, features=features)
    with torch.no_grad():
        expected = model.decide(normalise(held_out.images)).scores
    torch.testing.assert_close(model.calibration.images.scores, expected.T.sort(dim=1).values)


@pytest.mark.parametrize("normal, pool", [(2, 2), (10, 30), (30, 3)])
def test_few_images_leave_scores_out_and_nothing_is_nan(make_dataset, normal, pool):
    model, data = DDADModel(FeatureNet(seed=0, image_size=64)), make_dataset(normal, pool, side=64)
    trainer = FeatureTrainer("cpu", model.discrepancy, data)
    trainer.run()
    calibrate(model, data, data.subset([]), features=trainer.features)
    with torch.no_grad():
        decided = model.eval().decide(normalise(data.images))
    assert all(part.isfinite().all() for part in decided)
    assert model.calibration.images.groups == normal
    assert ("neighbours" in model.score_names) is (normal >= 20)
    assert ("pu_pooled" in model.score_names) is (normal >= 20 and pool >= 20)


def test_constant_images_and_a_pool_of_the_normals_themselves(network):
    same = [{"image": 0.0, "label": 0 if index < 25 else None} for index in range(50)]
    data = ResidentDataset(same, lambda item: {"image": torch.full((1, 64, 64), item["image"])})
    trainer = FeatureTrainer("cpu", network, data)
    trainer.run()
    model = DDADModel(network)
    with pytest.raises(ValueError, match="all images of the training the same"):
        calibrate(model, data, data.subset([]), features=trainer.features)
    generator = np.random.default_rng(0)
    pixels = [torch.from_numpy(generator.uniform(-1, 1, (1, 64, 64))).float() for _ in range(25)]
    items = [{"image": index % 25, "label": 0 if index < 25 else None} for index in range(50)]
    twice = ResidentDataset(items, lambda item: {"image": pixels[item["image"]]})
    trainer = FeatureTrainer("cpu", network, twice)
    trainer.run()
    calibrate(model, twice, twice.subset([]), features=trainer.features)
    with torch.no_grad():
        decided = model.eval().decide(normalise(twice.images))
    assert all(part.isfinite().all() for part in decided)
