"""Known normals set aside for calibration share nothing with what is trained on."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.data import ResidentDataset
from monai_ddad.io.errors import DataError
from monai_ddad.training import hold_out


def make(labels, groups=None, values=None, slices=1) -> ResidentDataset:
    """A dataset whose items have distinct content unless ``values`` says otherwise."""
    items = [{"image": i if values is None else values[i], "label": label} for i, label in enumerate(labels)]
    for item, group in zip(items, groups or []):
        item["group"] = group

    def read(item):
        images = [torch.full((1, 8, 8), item["image"] % 256 / 255.0) for _ in range(slices)]
        for k, image in enumerate(images):
            image[0, 0, k] = item["image"] // 256 / 255.0 + 0.5 * (k > 0)
        images = [2 * image - 1 for image in images]
        return [{"image": image} for image in images] if slices > 1 else {"image": images[0]}

    return ResidentDataset(items, read)


@pytest.mark.parametrize(
    "normals, share, at_least, expected",
    [(400, 0.1, 30, 40), (100, 0.1, 30, 30), (50, 0.1, 30, 25), (1000, 0.1, 30, 100), (4, 0.1, 30, 2), (3, 0.5, 0, 1)],
)
def test_a_share_but_at_least_some_and_at_most_half_are_set_aside(normals, share, at_least, expected):
    training, held = hold_out(make([0] * normals + [None] * 10), share, at_least)
    assert len(held) == expected and set(held.labels) == {0}
    assert sorted(training.positions + held.positions) == list(range(normals + 10))
    assert training.labels.count(None) == 10


@pytest.mark.parametrize(
    ("normals", "alpha", "expected"),
    [
        *((2, 0.05, 0), (20, 0.05, 0), (38, 0.05, 0), (39, 0.05, 19), (40, 0.05, 20), (60, 0.05, 30), (400, 0.05, 40)),
        *((23, 0.2, 0), (24, 0.2, 4), (150, 0.01, 30), (300, 0.01, 99), (400, 0.001, 40), (60, 0.0, 30)),
    ],
)
def test_learning_comes_first_where_there_are_too_few_to_learn_and_to_flag(normals, alpha, expected, caplog):
    training, held = hold_out(make([0] * normals + [None] * 10), at_least=None, alpha=alpha)
    assert len(held) == expected and training.labels.count(0) == normals - expected
    assert ("so images are scored but not flagged" in caplog.text) is (expected == 0)
    if alpha == 0.05 and expected == 0:
        assert f"None of the {normals} known normals" in caplog.text and "it takes 39 of them" in caplog.text


@pytest.mark.parametrize(("patients", "expected"), [(30, 0), (39, 19), (80, 19)])
def test_as_many_patients_are_set_aside_as_it_takes_to_flag_and_enough_stay_to_learn_from(patients, expected):
    groups = [i // 5 for i in range(5 * patients)] + [None] * 10
    training, held = hold_out(make([0] * 5 * patients + [None] * 10, groups), at_least=None)
    assert len({groups[i] for i in held.positions}) == expected
    assert len({groups[i] for i in training.positions if i < 5 * patients}) == patients - expected


def test_nothing_is_set_aside_where_the_share_is_0():
    data = make([0] * 40 + [None] * 5)
    training, held = hold_out(data, 0.0)
    assert len(held) == 0 and torch.equal(training.images, data.images) and training.sha256 == data.sha256


def test_the_choice_depends_on_the_seed_alone():
    data = make([0] * 100 + [None] * 5)
    first, again, other = (hold_out(data, seed=seed)[1].positions for seed in (3, 3, 4))
    assert first == again != other


def test_patients_stay_together():
    groups = [i // 4 for i in range(200)] + [None] * 20
    training, held = hold_out(make([0] * 200 + [None] * 20, groups), 0.2, 0)
    assert len(held) == 40
    assert not {groups[i] for i in held.positions} & {groups[i] for i in training.positions if i < 200}


def test_a_patient_with_unlabelled_images_stays_in_training():
    groups = [i % 50 for i in range(100)] + list(range(40))  # of the 50 patients 10 have no unlabelled image
    _, held = hold_out(make([0] * 100 + [None] * 40, groups), 0.5, 0)
    assert {groups[i] for i in held.positions} <= set(range(40, 50)) and len(held) == 20


def test_patients_are_chosen_whatever_the_number_of_their_images():
    """Choosing those that fit would leave out the ones with many images, whose scores may be others."""
    groups = [i // 10 for i in range(500)] + [1000 + i for i in range(100)]  # 50 of 10 images, 100 of one
    large = total = 0
    data = make([0] * 600 + [None] * 3, [*groups, None, None, None])
    for seed in range(200):
        _, held = hold_out(data, 0.1, 0, seed)
        chosen = {groups[i] for i in held.positions}
        assert 60 <= len(held) < 70
        large += sum(group < 1000 for group in chosen)
        total += len(chosen)
    assert 0.31 < large / total < 0.40  # a third of the patients, and the last one is a large one more often


def test_equal_images_stay_together():
    values = [i % 30 for i in range(60)] + [100 + i for i in range(10)]
    training, held = hold_out(make([0] * 60 + [None] * 10, values=values), 0.4, 0)
    assert len(held) == 24
    assert not {values[i] for i in held.positions} & {values[i] for i in training.positions}


def test_slices_of_a_volume_stay_together_and_count_once():
    training, held = hold_out(make([0] * 20 + [None] * 3, slices=3), 0.2, 0)
    assert len(held) == 12 and len(set(held.positions)) == 4
    assert not set(held.positions) & set(training.positions)


def test_groups_too_large_to_part_are_said_to_stay(caplog):
    _, held = hold_out(make([0] * 40 + [None] * 3, ["one"] * 40 + [None] * 3), 0.1, 0)
    assert len(held) == 0
    assert "0 instead of 4 known normals are set aside" in caplog.text


@pytest.mark.parametrize("share, at_least", [(-0.1, 0), (1.0, 0), (float("nan"), 0), (0.1, -1)])
def test_numbers_outside_their_range_are_refused(share, at_least):
    with pytest.raises(DataError, match=r"calibration_share must be in \[0, 1\)"):
        hold_out(make([0] * 4), share, at_least)
