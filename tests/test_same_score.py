"""One picture has one score, however it is stored and whichever way its file comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.transforms import (
    AxialSlicesd,
    BrainSliced,
    ChestFilmd,
    EightBitd,
    FundusFieldd,
    PlainResized,
    ReadImaged,
)
from tests.transforms.encodings import equivalent_encodings, picture

SQUARES = {
    "plain": PlainResized("image", image_size=32),
    "brain": BrainSliced("image", image_size=32),
    "chest": ChestFilmd("image", image_size=32),
    "chest with CLAHE": ChestFilmd("image", image_size=32, clahe=0.02),
    "fundus": FundusFieldd("image", image_size=32, channels="luminance"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return equivalent_encodings(tmp_path_factory.mktemp("encodings"))


@pytest.mark.parametrize("square", SQUARES.values(), ids=SQUARES)
def test_at_least_twenty_encodings_of_one_picture_have_one_score(files, square, make_net):
    assert len(files) >= 20
    transform = Compose([ReadImaged("image"), AxialSlicesd("image"), square, EightBitd("image")])
    data = ResidentDataset([{"image": str(path)} for path in files.values()], transform)
    assert data.errors == {} and len(data) == len(files)
    with torch.no_grad():
        scores = make_net().decide(normalise(data.images)).scores.numpy()
    wrong = [name for name, row in zip(files, scores) if np.abs(row - scores[0]).max() > 1e-5]
    assert wrong == [] and scores[0].std() > 0


def test_another_picture_has_another_score(files, write_image, make_net):
    transform = Compose([ReadImaged("image"), SQUARES["plain"], EightBitd("image")])
    paths = [next(iter(files.values())), write_image("negative.png", 255 - picture())]
    data = ResidentDataset([{"image": str(path)} for path in paths], transform)
    with torch.no_grad():
        one, two = make_net().decide(normalise(data.images)).scores
    assert (one - two).abs().max() > 1e-3
