"""The real brain images: how they are read, and what is known of their duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ddad.data import ResidentDataset, audit, load_datalist

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def brain(real_data, read_square):
    lists = load_datalist(real_data / "brain_mri", unlabeled_size=1000, abnormal_rate=0.6)
    return {name: ResidentDataset(items, read_square(64)) for name, items in lists.items()}


def test_all_images_are_read_and_counted(brain):
    training, test = brain["training"], brain["test"]
    assert not training.errors and not test.errors
    assert (training.labels.count(0), training.labels.count(None)) == (998, 999)
    assert (test.labels.count(0), test.labels.count(1)) == (300, 300)


def test_values_are_those_of_pil(brain):
    for position in (0, 599):
        with Image.open(brain["test"].data[position]["image"]) as image:
            expected = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(brain["test"].images[position, 0].numpy(), expected)


def test_copies_of_training_images_are_found(brain):
    result = audit(brain["training"], brain["test"])
    normal = np.array(brain["test"].labels) == 0
    contents = {name: [Path(item["image"]).read_bytes() for item in data.data] for name, data in brain.items()}
    trained = set(contents["training"])
    identical = np.array([content in trained for content in contents["test"]])
    assert 0.15 < identical[normal].mean() < 0.25  # about one test normal in five is byte-identical
    assert np.array(result.duplicate)[identical].all()
    assert np.array(result.near_copy)[normal].mean() > 0.7 > 0.1 > np.array(result.near_copy)[~normal].mean()
