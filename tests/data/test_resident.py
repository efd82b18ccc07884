"""Images are read once, whatever the number of threads, and bad files do not stop the others."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.io.errors import DataError
from monai_ddad.transforms import PlainResize, ReadImage


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_items_hold_the_images_in_the_order_of_the_list(write_image, read_square, num_workers):
    paths = [write_image(f"{i}.png", seed=i) for i in range(9)]
    items = [{"image": str(path), "label": [0, 1, None][i % 3]} for i, path in enumerate(paths)]
    data = ResidentDataset(items, read_square(16), num_workers)
    assert len(data) == 9 and data.errors == {} and data.labels == [0, 1, None] * 3
    assert data.positions == list(range(9)) and data.slices == [None] * 9
    assert data.images.dtype == torch.uint8 and type(data.images) is torch.Tensor
    for i, path in enumerate(paths):
        expected = PlainResize(16)(ReadImage()(path)).mul(255).round().to(torch.uint8)
        assert torch.equal(data.images[i], expected.as_tensor())
        assert torch.equal(data[i]["image"], normalise(data.images[i]))
        assert data[i]["index"] == i and data[i]["label"] == [0, 1, -1][i % 3]


def test_whole_items_come_back_with_what_they_went_through(write_image, read_square):
    paths = [write_image("a.png"), "absent.png", write_image("b.png", seed=1)]
    data = ResidentDataset([{"image": str(path), "label": 1} for path in paths], read_square(16))
    (first,), unreadable, (third,) = data.items()
    assert torch.equal(first["image"].as_tensor(), normalise(data.images[0])) and first["label"] == 1
    assert third["image"].applied_operations == data.operations[1] != []
    assert unreadable.error == "no such file" and "image" not in unreadable.data
    with pytest.raises(ValueError, match="no whole items"):
        data.subset([0]).items()


def test_every_eight_bit_value_survives():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    data = ResidentDataset([{"image": normalise(values)}], lambda item: item)
    assert torch.equal(data.images[0], values)


def test_a_missing_label_counts_as_unlabelled(write_image, read_square):
    assert ResidentDataset([{"image": str(write_image("a.png"))}], read_square(16)).labels == [None]


@pytest.mark.parametrize("marked", [1, None])
def test_an_annotation_makes_the_label(write_image, read_square, marked):
    empty, full = (write_image(f"{name}.png", np.full((8, 8), value, np.uint8)) for name, value in (("e", 0), ("f", 9)))
    items = [{"image": str(write_image("a.png")), "label": str(path)} for path in (empty, full)]
    assert ResidentDataset(items, read_square(16), marked=marked).labels == [0, marked]
    assert ResidentDataset(items, read_square(16)).labels == [0, 1]


def test_an_unreadable_item_is_kept_as_an_error_and_has_no_image(write_image, read_square, tmp_path):
    paths = [write_image("a.png"), tmp_path / "absent.png", write_image("b.png", seed=1)]
    data = ResidentDataset([{"image": str(path), "label": i} for i, path in enumerate((*paths,))], read_square(16))
    assert data.errors == {1: "no such file"} and len(data) == 2
    assert data.positions == [0, 2] and data.labels == [0, 2] and data[1]["index"] == 1


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_set_without_one_readable_image_still_knows_what_is_wrong(read_square, number):
    data = ResidentDataset([{"image": "absent.png", "label": 0}] * number, read_square(16))
    assert len(data) == len(data.images) == len(data.labels) == 0 and len(data.data) == number
    assert data.errors == dict.fromkeys(range(number), "no such file")


def test_other_errors_of_a_transform_are_not_hidden():
    def broken(item):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        ResidentDataset([{"image": "a.png"}], broken)


def test_an_item_that_is_split_gives_several_images_with_its_label():
    def split(item):
        slices = [MetaTensor(torch.full((1, 8, 8), k / 4 - 1), meta={"slice": k}) for k in range(item["image"])]
        return [{"image": image} for image in slices]

    items = [{"image": 2, "label": 1}, {"image": 0, "label": 0}, {"image": 3}]
    data = ResidentDataset(items, split)
    assert data.positions == [0, 0, 2, 2, 2] and data.slices == [0, 1, 0, 1, 2]
    assert data.labels == [1, 1, None, None, None]
    assert data.images[:, 0, 0, 0].tolist() == np.rint(255 * np.array([0, 1, 0, 1, 2]) / 8).tolist()


def test_the_datalist_given_is_left_as_it_is(write_image, read_square):
    items = [{"image": str(write_image("a.png")), "label": 0}]
    before = [dict(item) for item in items]
    ResidentDataset(items, read_square(16))
    assert items == before


@pytest.mark.parametrize("value", [-1.1, 1.1, 255.0])
def test_images_outside_the_networks_range_are_refused(value):
    with pytest.raises(ValueError, match=r"must give images in \[-1, 1\]"):
        ResidentDataset([{"image": torch.full((1, 8, 8), value)}], lambda item: item)


def test_images_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        ResidentDataset([{"image": side} for side in (8, 16)], lambda item: {"image": torch.zeros(1, item["image"], 8)})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_images_lie_in_a_file_and_a_full_disk_is_told(monkeypatch):
    items = [{"image": value / 40} for value in range(40)]
    dataset = ResidentDataset(items, lambda item: {"image": torch.full((1, 64, 64), item["image"])})
    assert dataset.images[:, 0, 0, 0].unique().numel() == 40
    place = dataset.images.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
        if first <= place < last:
            assert line.split()[4] != "0"  # number of the file
            break
    else:
        raise AssertionError("the images are nowhere")

    class Full(io.RawIOBase):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **settings: Full())
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
        ResidentDataset(items, lambda item: {"image": torch.zeros(1, 8, 8)})
