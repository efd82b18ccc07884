"""Images are decoded once, whatever the number of threads, and bad files do not stop the others."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.data import DataError, ResidentDataset, normalise
from monai_ddad.transforms import ReadImage, ReadImaged

READ = ReadImaged("image", image_size=16)


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_items_hold_the_images_in_the_order_of_the_list(write_image, num_workers):
    paths = [write_image(f"{i}.png", seed=i) for i in range(9)]
    items = [{"image": str(path), "label": [0, 1, None][i % 3]} for i, path in enumerate(paths)]
    data = ResidentDataset(items, READ, num_workers)
    assert len(data) == 9 and data.errors == {} and data.labels == [0, 1, None] * 3
    assert data.images.dtype == torch.uint8
    for i, path in enumerate(paths):
        assert torch.equal(data.images[i], ReadImage(image_size=16)(path))
        assert torch.equal(data[i]["image"], normalise(data.images[i]))
        assert data[i]["index"] == i and data[i]["label"] == [0, 1, -1][i % 3]


def test_a_missing_label_counts_as_unlabelled(write_image):
    assert ResidentDataset([{"image": str(write_image("a.png"))}], READ).labels == [None]


def test_an_unreadable_item_is_kept_as_an_error_and_raises_on_access(write_image, tmp_path):
    items = [{"image": str(path)} for path in (write_image("a.png"), tmp_path / "absent.png", write_image("b.png"))]
    data = ResidentDataset(items, READ)
    assert data.errors == {1: "no such file"} and len(data) == 3
    assert data.images[0].any() and data.images[2].any() and not data.images[1].any()
    with pytest.raises(DataError, match="item 1 of the list cannot be read: no such file"):
        data[1]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_set_without_one_readable_image_still_knows_what_is_wrong(number):
    data = ResidentDataset([{"image": "absent.png", "label": 0}] * number, READ)
    assert len(data) == len(data.images) == len(data.labels) == number
    assert data.errors == dict.fromkeys(range(number), "no such file")


def test_the_datalist_given_is_left_as_it_is(write_image):
    items = [{"image": str(write_image("a.png")), "label": 0}]
    before = [dict(item) for item in items]
    ResidentDataset(items, READ)
    assert items == before
