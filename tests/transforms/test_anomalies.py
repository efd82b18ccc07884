"""Synthetic anomalies lie in the anatomy, stay in range, and can be drawn again."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.transforms import RandAnomalies, RandBlob, RandLocal, RandMovedPatch, RandTexture, RandWarp

KINDS = [RandBlob, RandMovedPatch, RandTexture, RandWarp]


@pytest.fixture
def picture() -> torch.Tensor:
    """A (2, 48, 64) picture in [-1, 1] of a textured square of 24 pixels on black."""
    picture = torch.full((2, 48, 64), -1.0)
    texture = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0))
    picture[:, 12:36, 20:44] = texture * 1.6 - 0.8
    return picture


@pytest.mark.parametrize("kind", KINDS)
def test_one_ellipse_in_the_anatomy_changes(picture, kind):
    transform = kind(radius_range=(0.05, 0.1)).set_random_state(1)
    for _ in range(20):
        altered = transform(picture)
        assert altered.shape == picture.shape and altered.abs().max() <= 1
        assert picture[:, round(transform.row), round(transform.column)].mean() > -0.9
        rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
        far = (rows - transform.row).hypot(columns - transform.column) > max(transform.radii)
        assert torch.equal(altered[:, far], picture[:, far])
        changed = (altered != picture).any(dim=0).sum()
        assert changed > 0 or max(transform.radii) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_can_be_repeated(picture, kind):
    transform = kind().set_random_state(3)
    first = transform(picture)
    assert torch.equal(transform(picture, randomize=False), first)
    assert torch.equal(kind().set_random_state(3)(picture), first)
    assert kind(prob=0.0)(picture) is picture


def test_a_blob_is_as_much_brighter_or_darker_as_drawn():
    blob = RandBlob(change_range=(0.2, 0.2), radius_range=(0.2, 0.2)).set_random_state(0)
    values = {round(float(blob(torch.zeros(1, 32, 32)).flatten()[blob_centre(blob)]), 4) for _ in range(20)}
    assert values == {-0.2, 0.2}


def blob_centre(blob: RandLocal) -> int:
    return round(blob.row) * 32 + round(blob.column)


def test_a_picture_without_anatomy_has_anomalies_too():
    black = torch.full((1, 32, 32), -1.0)
    found = [RandBlob(radius_range=(0.2, 0.2)).set_random_state(seed)(black) for seed in range(10)]
    assert any((altered > -1).any() for altered in found)


def test_several_kinds_are_drawn_from_one_stream_and_labelled_by_what_has_changed(picture):
    transform = RandAnomalies(number_range=(3, 3)).set_random_state(5)
    altered = transform(picture)
    label = transform.label(picture, altered)
    assert torch.equal(RandAnomalies(number_range=(3, 3)).set_random_state(5)(picture), altered)
    assert not torch.equal(transform(picture), altered)
    assert torch.equal(label > 0, (altered != picture).any(dim=0)) and label.max() <= 1
    assert RandAnomalies(prob=0.0)(picture) is picture


@pytest.mark.parametrize("change, label", [(0.05, 0.5), (0.1, 1.0), (0.4, 1.0)])
def test_a_label_grows_with_the_change(change, label):
    image = torch.zeros(3, 4, 4)
    assert RandAnomalies.label(image, image + change)[0, 0] == pytest.approx(label)


def test_settings_tell_kinds_and_ranges_apart():
    said = {
        RandAnomalies().settings,
        RandAnomalies(kinds=[RandBlob()]).settings,
        RandAnomalies(kinds=[RandBlob(change_range=(0.1, 0.2))]).settings,
        RandAnomalies(kinds=[RandBlob(radius_range=(0.1, 0.2))]).settings,
        RandAnomalies(number_range=(1, 2)).settings,
    }
    assert len(said) == 5
