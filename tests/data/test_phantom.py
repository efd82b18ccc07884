"""The built-in synthetic data set."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from monai_ddad.data import DataError, load_datalist, phantom
from monai_ddad.data.phantom import draw_phantom, write_phantom_dataset

SMALL = {"normal": 3, "unlabeled": 5, "test": 2, "side": 32}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("abnormal", [False, True])
@pytest.mark.parametrize("side", [32, 128, 101])
def test_a_seed_draws_the_same_picture_again(abnormal, side):
    image, mask = draw_phantom(3, abnormal, side)
    assert image.shape == mask.shape == (side, side)
    assert image.dtype == np.uint8 and mask.dtype == bool
    again, mask_again = draw_phantom(3, abnormal, side)
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    assert not np.array_equal(image, draw_phantom(4, abnormal, side)[0])


def test_normal_pictures_have_no_lesion():
    assert not any(draw_phantom(seed, False)[1].any() for seed in range(10))


def test_lesions_lie_within_the_head_and_are_of_the_promised_size():
    y, x = np.mgrid[0:128, 0:128] - 63.5
    outside = np.hypot(x / (0.42 * 128), y / (0.5 * 128)) > 1
    for seed in range(40):
        mask = draw_phantom(seed, True)[1]
        assert mask.any() and not (mask & outside).any()
        assert np.pi * 4**2 < mask.sum() < 2 * np.pi * 20**2


def test_lesions_change_the_picture_where_the_mask_is():
    for seed in range(10):
        (normal, _), (abnormal, mask) = draw_phantom(seed, False), draw_phantom(seed, True)
        change = np.abs(abnormal.astype(float) - normal)
        assert change[mask].mean() > 3 * change[~mask].mean()


def test_half_of_the_pictures_are_t2_like(monkeypatch):
    drawn = [draw_phantom(seed, bool(seed % 2), 32) for seed in range(100)]
    monkeypatch.setattr(phantom, "T2_LIKE", phantom.T1_LIKE)
    again = [draw_phantom(seed, bool(seed % 2), 32) for seed in range(100)]
    assert all(np.array_equal(mask, other) for (_, mask), (_, other) in zip(drawn, again))
    assert 30 < sum(not np.array_equal(image, other) for (image, _), (other, _) in zip(drawn, again)) < 70


def test_mean_brightness_does_not_tell_the_classes_apart():
    labels = np.repeat([0, 1], 200)
    means = [draw_phantom(1000 + seed, bool(label))[0].mean() for seed, label in enumerate(labels)]
    assert 0.4 < roc_auc_score(labels, means) < 0.6


def test_a_side_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 32 pixels, got 31"):
        draw_phantom(0, False, 31)


def test_the_data_set_has_the_authors_structure(tmp_path):
    folder = write_phantom_dataset(tmp_path / "set", abnormal_rate=0.6, **SMALL)
    lists = load_datalist(folder)
    assert [item["label"] for item in lists["training"]] == [0] * 3 + [None] * 5
    assert [item["label"] for item in lists["test"]] == [0, 0, 1, 1]
    pool = json.loads((folder / "data.json").read_text())["train"]["unlabeled"]
    assert (len(pool["0"]), len(pool["1"])) == (2, 3)

    abnormal = set(pool["1"]) | {item["image"].rsplit("/", 1)[1] for item in lists["test"] if item["label"] == 1}
    assert {path.name for path in (folder / "masks").iterdir()} == abnormal
    for name in abnormal:
        mask = np.asarray(Image.open(folder / "masks" / name))
        assert mask.shape == np.asarray(Image.open(folder / "images" / name)).shape == (32, 32)
        assert set(np.unique(mask)) == {0, 255}
    images = [(folder / "images" / path.name).read_bytes() for path in (folder / "images").iterdir()]
    assert len(set(images)) == len(images) == 12


def test_a_seed_writes_the_same_bytes_again(tmp_path):
    first, second = (write_phantom_dataset(tmp_path / name, seed=5, **SMALL) for name in ("a", "b"))
    assert contents(first) == contents(second)
    assert contents(first) != contents(write_phantom_dataset(tmp_path / "c", seed=6, **SMALL))


def test_the_same_parameters_keep_the_folder_and_others_replace_it(tmp_path, monkeypatch):
    folder = write_phantom_dataset(tmp_path / "set", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(phantom, "draw_phantom", None)  # drawing anything would fail
        assert write_phantom_dataset(tmp_path / "set", **SMALL) == folder
    before = contents(folder)
    write_phantom_dataset(folder, **SMALL | {"normal": 2})
    after = contents(folder)
    assert before.keys() - after.keys() == {"images/normal_0_0002.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    folder = write_phantom_dataset(tmp_path / "set", **SMALL)
    before = contents(folder)
    drawn = iter(range(4))

    def fail(seed, abnormal, side):
        next(drawn)
        return draw_phantom(seed, abnormal, side)

    monkeypatch.setattr(phantom, "draw_phantom", fail)
    for name in ("set", "new"):
        with pytest.raises((StopIteration, RuntimeError)):
            write_phantom_dataset(tmp_path / name, **SMALL | {"normal": 9})
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_a_killed_run_left_is_removed(tmp_path):
    names = [".set-phantom-abandoned", ".set-phantom-at-work", ".set-notes", ".other"]
    for name in names:
        (tmp_path / name / "images").mkdir(parents=True)
        if name != ".set-phantom-at-work":
            os.utime(tmp_path / name, (0, 0))
    write_phantom_dataset(tmp_path / "set", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*sorted(names[1:]), "set"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="other files"):
        write_phantom_dataset(tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("wrong", [{"normal": -1}, {"abnormal_rate": 1.5}])
def test_impossible_counts_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="got normal="):
        write_phantom_dataset(tmp_path / "set", **SMALL | wrong)


def test_the_user_is_told_that_the_images_are_synthetic(tmp_path, caplog):
    write_phantom_dataset(tmp_path / "set", **SMALL)
    assert "SYNTHETIC" in caplog.text
