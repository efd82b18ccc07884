"""The built-in synthetic data set."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from monai_ddad.data import datalist, dataset_or_phantom, load_datalist, phantom
from monai_ddad.data.phantom import draw_phantom, write_phantom_dataset
from monai_ddad.io.errors import DataError
from monai_ddad.seeding import derive_seed

KINDS = ("brain", "chest", "fundus")
SMALL = {"normal": 3, "unlabeled": 5, "test": 2, "side": 32}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest_radius(mask):
    """Radius of the circle that covers as much as the largest part of a mask."""
    parts, count = ndimage.label(mask)
    return (np.bincount(parts.ravel())[1:].max() / np.pi) ** 0.5 if count else 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abnormal", [False, True])
@pytest.mark.parametrize("side", [32, 101])
def test_a_seed_draws_the_same_picture_again(kind, abnormal, side):
    image, mask = draw_phantom(3, abnormal, side, kind)
    assert image.shape[:2] == mask.shape and image.dtype == np.uint8 and mask.dtype == bool
    assert mask.any() == abnormal
    again, mask_again = draw_phantom(3, abnormal, side, kind)
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    other = draw_phantom(4, abnormal, side, kind)[0]
    assert image.shape != other.shape or not np.array_equal(image, other)


@pytest.mark.parametrize("kind", KINDS)
def test_normal_pictures_have_no_lesion_and_abnormal_ones_have_a_large_one(kind):
    assert not any(draw_phantom(seed, False, kind=kind)[1].any() for seed in range(5))
    radii = [largest_radius(draw_phantom(seed, True, kind=kind)[1]) / 128 for seed in range(40)]
    assert min(radii) > 0.02 and np.median(radii) > 0.06 and max(radii) < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_the_abnormal_picture_is_the_normal_one_with_lesions_where_the_mask_is(kind):
    for seed in range(20):
        (normal, _), (abnormal, mask) = (draw_phantom(seed, label, kind=kind) for label in (False, True))
        change = np.abs(abnormal.astype(float) - normal)
        assert change[mask].mean() > 3 * change[~mask].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_exposure_makes_up_for_the_brightness_of_the_lesions(kind):
    means = [[draw_phantom(seed, label, kind=kind)[0].mean() for label in (False, True)] for seed in range(30)]
    assert np.abs(np.diff(means)).mean() < 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_brightness_does_not_tell_the_classes_of_the_default_test_split_apart(kind):
    pictures = [
        draw_phantom(derive_seed(0, group, number), abnormal, kind=kind)[0]
        for group, abnormal in ((3, False), (4, True))
        for number in range(100)
    ]
    grey = [np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures]
    brightness = [[picture.mean() for picture in grey], [picture.std() for picture in grey]]
    if kind == "fundus":
        brightness += [[picture[..., channel].mean() for picture in pictures] for channel in range(3)]
    labels = np.repeat([0, 1], 100)
    areas = [roc_auc_score(labels, values) for values in brightness]
    assert all(0.4 < area < 0.6 for area in areas), areas


def test_a_side_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 32 pixels, got 31"):
        draw_phantom(0, False, 31)


def test_an_unknown_kind_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="one of brain, chest, fundus, got 'knee'"):
        write_phantom_dataset(tmp_path / "set", kind="knee", **SMALL)
    assert not list(tmp_path.iterdir())


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


def test_what_is_written_is_the_users_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        write_phantom_dataset(tmp_path / "new" / "set", **SMALL)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.parametrize(("kind", "mode", "size"), [("brain", "L", (32, 32)), ("fundus", "RGB", (40, 32))])
def test_a_folder_holds_the_pictures_of_its_kind(tmp_path, kind, mode, size):
    folder = write_phantom_dataset(tmp_path / "set", kind=kind, **SMALL)
    assert json.loads((folder / "phantom.json").read_text())["kind"] == kind
    image, mask = (Image.open(folder / part / "test_1_0001.png") for part in ("images", "masks"))
    assert (image.mode, image.size, mask.mode, mask.size) == (mode, size, "L", size)
    expected, lesions = draw_phantom(derive_seed(0, 4, 1), True, 32, kind)
    assert np.array_equal(image, expected) and np.array_equal(np.asarray(mask) > 0, lesions)


def test_another_kind_replaces_the_folder(tmp_path):
    before = contents(write_phantom_dataset(tmp_path / "set", **SMALL))
    after = contents(write_phantom_dataset(tmp_path / "set", kind="chest", **SMALL))
    assert before.keys() == after.keys()
    assert not any(before[name] == after[name] for name in before if name.startswith("images"))


def test_a_run_without_data_draws_the_kind_it_asks_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(datalist, "write_phantom_dataset", lambda folder, kind: drawn.append((folder, kind)) or folder)
    assert dataset_or_phantom(None, "set") == dataset_or_phantom(None, "set", kind="fundus") == "set"
    assert dataset_or_phantom("mine", "set", kind="fundus") == "mine"
    assert drawn == [("set", "brain"), ("set", "fundus")]


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

    def fail(*arguments):
        next(drawn)
        return draw_phantom(*arguments)

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
