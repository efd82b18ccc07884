"""Maps are compared with masks on the pictures' own grid."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose
from PIL import Image
from sklearn.metrics import roc_auc_score

from monai_ddad.data import ResidentDataset, collate_items
from monai_ddad.decision.finding import Judge
from monai_ddad.evaluation import PixelMetrics
from monai_ddad.networks import build_model
from monai_ddad.transforms import AxialSlicesd, ChestFilmd, EightBitd, PlainResized, ReadImaged

NAMES = ["found", "missed"]
NETWORK = SimpleNamespace(map_names=NAMES, discrepancy=SimpleNamespace(field=lambda image: None))


@pytest.fixture
def items(tmp_path):
    """Two normal pictures, two with a lesion and a mask, and one that is abnormal and has none."""
    rng = np.random.default_rng(0)
    items = []
    for k, (label, masked) in enumerate([(0, False), (0, False), (1, True), (1, True), (1, False)]):
        pixels = rng.integers(20, 120, (96, 64 + 8 * k), dtype=np.uint8)
        if label:
            pixels[20:50, 10:40] = 255
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        items.append({"image": str(tmp_path / f"{k}.png"), "label": label})
        if masked:
            mask = np.zeros(pixels.shape, dtype=np.uint8)
            mask[20:50, 10:40] = 255
            Image.fromarray(mask).save(tmp_path / f"{k}_mask.png")
            items[-1]["mask"] = str(tmp_path / f"{k}_mask.png")
    return items


def evaluate(items, square, network=NETWORK) -> dict:
    """Run the handler with a network whose first map is the image and whose second is its negative."""
    transform = Compose([ReadImaged("image"), AxialSlicesd("image", min_area=0), square, EightBitd("image")])
    dataset = ResidentDataset(items, transform)
    judge = Judge(build_model(members=1, refine="none", width=2, hidden_size=8), transform=transform)
    handler, engine = PixelMetrics(network, dataset), SimpleNamespace(state=SimpleNamespace())
    handler.start(engine)
    for number, batch in enumerate(DataLoader(dataset.items(), batch_size=2, collate_fn=collate_items)):
        images = (batch["image"] + 1) / 2
        maps = torch.cat([images, 1 - images], dim=1)
        scored = (maps, maps.mean(dim=(2, 3)), torch.zeros(len(maps), 4))
        engine.state.findings = judge.find(batch, scored, 2 * number)
        handler.collect(engine)
    handler.finish(engine)
    return engine.state.pixel_metrics


def test_lesions_smaller_than_a_pixel_of_the_grid_count_as_one(items, tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(20, 120, (1024, 1024), dtype=np.uint8)
    mask = np.zeros_like(pixels)
    for row, column in ((100, 300), (700, 804)):  # in the middle of a pixel of the grid
        pixels[row - 8 : row + 16, column - 8 : column + 16] = 255
        mask[row : row + 3, column : column + 3] = 255
    Image.fromarray(pixels).save(tmp_path / "fine.png")
    Image.fromarray(mask).save(tmp_path / "fine_mask.png")
    fine = {"image": str(tmp_path / "fine.png"), "label": 1, "mask": str(tmp_path / "fine_mask.png")}
    found = evaluate([*items[:2], fine], PlainResized("image", 128))
    assert found["found"]["pixel_auroc"] > 0.99 and found["found"]["per_region_overlap"] > 0.9
    assert found["missed"]["pixel_auroc"] < 0.1


@pytest.mark.parametrize("square", [PlainResized("image"), ChestFilmd("image")], ids=["plain", "modality"])
def test_a_map_that_is_bright_on_the_lesions_and_nowhere_else_is_nearly_perfect(items, square):
    found = evaluate(items, square)
    assert found["found"]["pixel_auroc"] > 0.98 and found["missed"]["pixel_auroc"] < 0.1
    assert found["found"]["best_dice"] > 0.9 and found["found"]["per_region_overlap"] > 0.9
    assert 0 < found["missed"]["pixel_average_precision"] < found["found"]["pixel_average_precision"] <= 1


def test_the_figures_are_those_of_the_pictures_with_masks_and_the_normal_ones(items):
    found = evaluate(items, PlainResized("image"))["found"]["pixel_auroc"]
    scores, labels = [], []
    for item in items[:4]:
        with Image.open(item["image"]) as picture:
            small = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR)) / np.float32(255)
            whole = np.asarray(Image.fromarray(small).resize(picture.size, Image.Resampling.BILINEAR))
        mask = np.zeros(whole.shape, dtype=np.float32)
        if "mask" in item:
            mask[20:50, 10:40] = 1
        scores.append(np.asarray(Image.fromarray(whole).resize((128, 128))))
        labels.append(np.asarray(Image.fromarray(mask).resize((128, 128), Image.Resampling.BOX)) > 0.5)
    assert found == pytest.approx(roc_auc_score(np.ravel(labels), np.ravel(scores)), abs=2e-3)


def test_without_masks_there_are_no_figures(items):
    assert evaluate(items[:2], PlainResized("image")) == {}


def test_masks_of_volumes_are_left_alone_and_are_none_of_a_picture(items, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((24, 24, 3), dtype=np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(np.full((24, 24, 3), 9, dtype=np.int16), np.eye(4)), tmp_path / "volume.nii.gz")
    expected = evaluate(items[:4], PlainResized("image"))
    mask = {"label": 1, "mask": str(tmp_path / "mask.nii.gz")}
    volume = mask | {"image": str(tmp_path / "volume.nii.gz")}
    assert evaluate([*items[:4], volume], PlainResized("image")) == expected
    with pytest.raises(ValueError, match=r"mask of test item 4 is \(24, 24, 3\) pixels and its picture"):
        evaluate([*items[:4], items[4] | mask], PlainResized("image"))


def test_a_mask_of_another_size_is_an_error(items):
    items[2]["mask"] = items[3]["mask"]
    with pytest.raises(ValueError, match=r"mask of test item 2 is \(96, 88\) pixels and its picture \(96, 80\)"):
        evaluate(items, PlainResized("image"))


def test_a_damaged_mask_is_an_error(items, tmp_path):
    (tmp_path / "doe.png").write_bytes(b"no picture")
    items[2]["mask"] = str(tmp_path / "doe.png")
    with pytest.raises(ValueError, match="the mask of test item 2 cannot be read") as caught:
        evaluate(items, PlainResized("image"))
    assert "doe" not in str(caught.value)


def test_what_is_outside_the_field_of_view_does_not_count(items):
    def left_part(image):
        field = torch.ones_like(image)
        field[..., 40:] = 0  # where the second map is highest and no lesion is
        return field

    whole = evaluate(items, PlainResized("image"))
    inside = evaluate(
        items, PlainResized("image"), SimpleNamespace(map_names=NAMES, discrepancy=SimpleNamespace(field=left_part))
    )
    assert inside["missed"]["pixel_average_precision"] > 1.2 * whole["missed"]["pixel_average_precision"]
