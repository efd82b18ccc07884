"""A finding says of an item what its images' scores say, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_ddad.data import BatchItem, ItemDataset, collate_items
from monai_ddad.decision import Finding, Judge, Unreadable, finding
from monai_ddad.decision.finding import score_in_parts
from monai_ddad.networks import Decided
from monai_ddad.networks.protocol import REASONS
from monai_ddad.transforms import EightBitd, KeepSource, PlainResized, ReadImaged
from monai_ddad.transforms.read import SOURCE


def ratios(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.fixture
def judge(make_net) -> Judge:
    network = make_net()
    width = len(network.score_names)
    network.calibration.images.fit(torch.linspace(0, 1, 19)[:, None].expand(19, width), range(19))
    network.calibration.volumes.fit(torch.linspace(0, 2, 39)[:, None].expand(39, width), range(39))
    return Judge(network, alpha=0.05)


def test_pictures_and_volumes_of_one_batch_are_judged_by_their_own_calibration(judge, images):
    slices = [{"image": MetaTensor(image, meta={"slice": k})} for k, image in enumerate(images[1:4])]
    batch = collate_items([{"image": images[0]}, BatchItem({}, error="the file is empty"), slices])
    width = len(judge.network.score_names)
    scores = torch.tensor([5.0, 0.5, 1.0, 1.5])[:, None].expand(4, width)
    check = ratios([0.5] * 4, [2.0, 0.5, 0.5, 0.5], [3.0, 0.5, 0.5, 0.5], [0.5] * 4)
    maps = torch.rand(4, len(judge.network.map_names), 32, 32)
    picture, unreadable, volume = judge.find(batch, (maps, scores, check), first=7)
    assert isinstance(picture, Finding) and isinstance(volume, Finding)
    assert unreadable == Unreadable(8, "the file is empty", batch["items"][1])
    assert (picture.position, volume.position) == (7, 9)
    assert picture.result.p_value == pytest.approx(1 / 20) and picture.result.flagged is True
    assert picture.result.percentile == 100 and picture.result.out_of_protocol == "" and picture.result.slices == 0
    assert volume.result.scores[volume.result.score] == pytest.approx(1.0)
    assert volume.result.p_value == pytest.approx(21 / 40) and volume.result.flagged is False
    assert volume.result.out_of_protocol == REASONS[0] and volume.result.slices == 3
    assert torch.equal(volume.maps, maps[1:]) and torch.equal(volume.images, images[1:4])


def test_without_calibration_there_are_scores_and_no_decision(make_net, images):
    network = make_net()
    batch = collate_items([{"image": image} for image in images])
    maps, scores, *_ = network.decide(images)
    for found, expected in zip(Judge(network).find(batch, (maps, scores, torch.zeros(5, 4))), scores, strict=True):
        assert list(found.result.scores.values()) == pytest.approx(expected.tolist())
        assert found.result.p_value is found.result.percentile is found.result.flagged is None


def test_a_map_is_on_the_pictures_own_grid(judge, write_image):
    reading = ReadImaged("image")
    transform = Compose([reading, PlainResized("image", image_size=32), EightBitd("image")])
    path = write_image("a.png", np.zeros((80, 50), dtype=np.uint8))
    batch = collate_items([KeepSource(reading, transform)({"image": str(path)})])
    maps = torch.zeros(1, len(judge.network.map_names), 32, 32)
    maps[0, 1, 8:16, 16:24] = 1.0
    scored = (maps, torch.zeros(1, len(judge.network.score_names)), torch.zeros(1, 4))
    (found,) = Judge(judge.network, transform=transform).find(batch, scored)
    heat = found.heat_map(judge.network.map_names[1])
    assert heat.values.shape == (80, 50) and heat.image().size == (50, 80)
    rows, columns = np.nonzero(heat.values > 0.5)
    np.testing.assert_allclose([rows.mean(), columns.mean()], [29.5, 30.8], atol=1.5)
    with pytest.raises(ValueError, match="the map must be one of"):
        found.heat_map("other")


def test_scores_that_are_not_finite_cost_their_own_item(judge, images):
    batch = collate_items([{"image": image} for image in images[:3]])
    scores = torch.ones(3, len(judge.network.score_names))
    scores[1, 0] = float("nan")
    first, second, third = judge.find(batch, (torch.zeros(3, 4, 32, 32), scores, torch.zeros(3, 4)))
    assert isinstance(first, Finding) and isinstance(third, Finding)
    assert isinstance(second, Unreadable) and second.reason == "its scores are not finite"


def test_neither_a_path_nor_pixels_are_in_the_text_of_a_finding(judge, images):
    part = {"image": images[0], "group": "DOE", SOURCE: MetaTensor(images[0], meta={"filename_or_obj": "/doe.png"})}
    dataset = ItemDataset([{"image": "/doe/absent.png", "group": "DOE"}], ReadImaged("image"))
    batch = collate_items([part, dataset[0]])
    width = len(judge.network.score_names)
    for found in judge.find(batch, (torch.zeros(1, 4, 32, 32), torch.ones(1, width), torch.zeros(1, 4))):
        assert "doe" not in repr(found).lower() and "tensor" not in repr(found) and len(repr(found)) < 2000


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_images_are_scored_a_bounded_number_at_a_time(make_net, images, monkeypatch, device):
    monkeypatch.setattr(finding, "BATCH", 2)
    network, sizes = make_net(), []

    def call(part: torch.Tensor) -> Decided:
        sizes.append(len(part))
        return network.decide(part)

    found = score_in_parts(images, call, device)
    assert sizes == [2, 2, 1]
    decided = network.decide(images)
    for values, expected in zip(found, (decided.maps, decided.scores, decided.protocol), strict=True):
        torch.testing.assert_close(values, expected)
    maps, scores, _ = score_in_parts(images, call, device, keep_maps=False)
    assert len(maps) == 0 and torch.equal(scores, found[1])


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_an_alpha_outside_its_range_is_refused(make_net, alpha):
    with pytest.raises(ValueError, match="alpha must be a rate"):
        Judge(make_net(), alpha)
