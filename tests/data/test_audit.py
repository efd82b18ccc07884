"""The audit names everything that is wrong at once, by position."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from monai_ddad.data import ResidentDataset, audit
from monai_ddad.io.errors import DataError

SIDE = 16


@pytest.fixture
def dataset(write_image, tmp_path, read_square):
    """Return a maker of a decoded set: arrays are written to files, anything else is a path as it is."""

    def make(name: str, normal: list, unlabeled: list | None = None, abnormal: list | None = None) -> ResidentDataset:
        items = []
        for label, group in ((0, normal), (None, unlabeled or []), (1, abnormal or [])):
            for entry in group:
                if isinstance(entry, np.ndarray):
                    entry = write_image(f"patient_{name}_{len(items)}.png", entry)
                items.append({"image": str(entry), "label": label})
        return ResidentDataset(items, read_square(SIDE))

    return make


def noise(*seeds: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(40, 200, (SIDE, SIDE), dtype=np.uint8) for seed in seeds]


def problems(caught) -> list[str]:
    return [line[2:] for line in str(caught.value).splitlines() if line.startswith("- ")]


def test_good_data_has_no_warnings(dataset, caplog):
    result = audit(dataset("train", noise(0, 1), noise(2, 3)), dataset("test", noise(4, 5), abnormal=noise(6)))
    assert result.warnings == [] and result.duplicate == result.near_copy == [False] * 3 and not caplog.records


def test_one_error_lists_all_problems_by_position_and_never_by_path(dataset, write_image, tmp_path):
    absent, empty = tmp_path / "patient_absent.png", tmp_path / "patient_empty.png"
    empty.touch()
    (tmp_path / "patient_text.png").write_text("no image")
    shared = write_image("patient_shared.png")
    training = dataset("train", [noise(0)[0], shared, absent], [empty])
    test = dataset("test", [noise(4)[0], tmp_path / "patient_text.png"], abnormal=[shared])
    with pytest.raises(DataError) as caught:
        audit(training, test)
    found = problems(caught)
    assert [line.split(":")[0] for line in found] == [
        "training item 2",
        "training item 3",
        "test item 1",
        "training has 0 unlabelled images, at least 2 are needed",
        "test item 2 is the same file as training item 1",
    ]
    assert "no such file" in found[0] and "empty" in found[1] and "not an image" in found[2]
    assert "patient" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "normal, unlabeled, message",
    [
        (0, 3, "0 known normal images, at least 2"),
        (1, 3, "1 known normal images, at least 2"),
        (3, 0, "0 unlabelled images, at least 2"),
        (3, 1, "1 unlabelled images, at least 2"),
    ],
)
def test_too_few_training_images_are_refused(dataset, normal, unlabeled, message):
    with pytest.raises(DataError, match=message) as caught:
        audit(dataset("train", noise(*range(normal)), noise(*range(10, 10 + unlabeled))))
    assert len(problems(caught)) == 1


def test_unreadable_files_are_listed_in_the_order_of_the_list(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        audit(test=dataset("test", [tmp_path / f"absent{i}.png" for i in range(30)]))
    assert problems(caught) == [f"input item {i}: no such file" for i in range(30)]


@pytest.mark.parametrize("spelling", ["{folder}/sub/../shared.png", "{folder}/link.png"])
def test_the_same_file_under_another_name_is_refused(dataset, write_image, tmp_path, spelling):
    shared = write_image("shared.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(shared)
    training = dataset("train", [*noise(0), shared], noise(2, 3))
    with pytest.raises(DataError, match="test item 0 is the same file as training item 1"):
        audit(training, dataset("test", [spelling.format(folder=tmp_path)]))


def test_duplicates_and_near_copies_are_flagged(dataset, caplog):
    train, other = noise(0, 1)
    near = train.copy()
    near[0, 0] ^= 3
    brighter = np.uint8(train // 2 + 60)  # the same picture with another brightness and contrast
    blended = np.uint8(0.6 * train + 0.4 * other)
    negative = 255 - train
    test = dataset("test", [*noise(4), train, near], abnormal=[brighter, blended, negative])
    with caplog.at_level(logging.WARNING):
        result = audit(dataset("train", [train, noise(5)[0]], noise(6, 7)), test)
    assert result.duplicate == [False, True, False, False, False, False]
    assert result.near_copy == [False, True, True, True, False, False]
    assert any("1 of 6 test images have the content of a training image" in text for text in result.warnings)
    assert any("3 of 6 test images have a near copy of a training image" in text for text in result.warnings)
    assert [record.message for record in caplog.records] == result.warnings


@pytest.mark.parametrize(
    "rotated, settings, near",
    [(0.985, {}, False), (0.993, {}, True), (0.993, {"near_copy": 0.996}, False), (0.985, {"near_copy": 0.98}, True)],
)
def test_near_copies_correlate_above_point_99_or_the_threshold_asked_for(dataset, rotated, settings, near):
    a, b = (image.astype(float).ravel() for image in noise(0, 1))
    a, b = (a - a.mean()) / a.std(), b - b.mean()
    b -= a * (a @ b) / (a @ a)
    mixed = rotated * a + (1 - rotated**2) ** 0.5 * b / b.std()
    train, test = (np.uint8(np.rint(120 + 30 * x)).reshape(SIDE, SIDE) for x in (a, mixed))
    assert abs(np.corrcoef(train.ravel(), test.ravel())[0, 1] - rotated) < 0.002
    result = audit(dataset("train", [train, *noise(4)], noise(5, 6)), dataset("test", [test]), **settings)
    assert result.near_copy == [near] and result.duplicate == [False]


def test_missing_masks_are_an_error_before_anything_is_trained(dataset):
    test = dataset("test", noise(0, 1), abnormal=noise(2, 3))
    test.data[3]["mask"] = "absent.png"
    with pytest.raises(DataError, match=r"the masks of 1 input items are missing \(positions \[3\]\)"):
        audit(test=test)


@pytest.mark.parametrize("near_copy", [0.0, 1.0, float("nan")])
def test_a_threshold_that_is_no_correlation_is_refused(dataset, near_copy):
    with pytest.raises(ValueError, match=r"near_copy must be in \(0, 1\)"):
        audit(test=dataset("test", noise(0)), near_copy=near_copy)


def test_a_copy_of_an_unlabelled_image_counts_too(dataset):
    result = audit(dataset("train", noise(0, 1), noise(2, 3)), dataset("test", noise(3)))
    assert result.duplicate == result.near_copy == [True]


def test_a_copy_of_an_image_set_aside_for_calibration_counts_too(dataset):
    training, calibration = dataset("train", noise(0, 1), noise(2, 3)), dataset("calibration", noise(8))
    result = audit(training, dataset("test", noise(8, 9)), calibration)
    assert result.duplicate == result.near_copy == [True, False]


def test_repeats_and_constant_images_are_warned_of(dataset):
    constant = np.full((SIDE, SIDE), 90, dtype=np.uint8)
    training = dataset("train", noise(0, 1, 1, 1), [*noise(2), constant])
    result = audit(training, dataset("test", [constant + 1, *noise(8, 8)], abnormal=noise(9)))
    assert result.warnings == [
        "1 training images are constant (positions [5]).",
        "2 training images repeat the content of another training image.",
        "1 test images are constant (positions [0]).",
        "1 test images repeat the content of another test image.",
    ]
    assert result.near_copy == [False] * 4


@pytest.mark.parametrize("normal, abnormal", [(2, 0), (0, 2)])
def test_test_images_of_one_class_are_warned_of(dataset, normal, abnormal):
    result = audit(test=dataset("test", noise(*range(normal)), abnormal=noise(*range(abnormal))))
    assert result.warnings == [f"{normal} normal and {abnormal} abnormal test images: no AUROC can be given."]


def test_no_test_images_are_an_error_where_they_are_needed(dataset):
    empty = ResidentDataset([], dict)
    with pytest.raises(DataError, match="there are no test images to evaluate on"):
        audit(dataset("train", noise(0, 1), noise(2, 3)), empty, test_required=True)
    audit(dataset("train", noise(0, 1), noise(2, 3)), empty)


def test_training_images_of_another_model_are_warned_of(dataset):
    training, test = dataset("train", noise(0, 1), noise(2, 3)), dataset("test", noise(4), abnormal=noise(5))
    assert audit(training, test, trained_on=training.sha256).warnings == []
    other = dataset("other", noise(0, 1), noise(2, 6))
    assert "not the training images of the model" in audit(other, test, trained_on=training.sha256).warnings[0]


def test_test_images_alone_are_checked_too(dataset):
    result = audit(test=dataset("test", noise(0), abnormal=noise(1)))
    assert result.duplicate == result.near_copy == [False, False]


def test_nothing_to_train_on_is_refused():
    with pytest.raises(DataError, match="0 known normal"):
        audit(ResidentDataset([], dict))
