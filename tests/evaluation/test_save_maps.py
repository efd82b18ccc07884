"""Maps lie where the image's own grid says, left and right included."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose
from PIL import Image

from monai_ddad.data import ItemDataset, collate_items
from monai_ddad.decision.finding import Finding, Judge, Unreadable
from monai_ddad.evaluation import SaveMaps
from monai_ddad.networks import build_model
from monai_ddad.networks.calibration import LEVELS
from monai_ddad.transforms import AxialSlicesd, BrainSliced, EightBitd, KeepSource, PlainResized, ReadImaged

READING = ReadImaged("image")
NETWORK = build_model(members=1, refine="none", width=2, hidden_size=8)
NETWORK.calibration.map_quantiles[1] = torch.linspace(0, 0.2, len(LEVELS))


def save(paths, square, folder, batch_size=64, **options) -> list[Finding | Unreadable]:
    """Run the handler with a network whose second map is what is brighter than .6 in the image."""
    transform = Compose([READING, AxialSlicesd("image"), square, EightBitd("image")])
    dataset = ItemDataset([{"image": str(path)} for path in paths], KeepSource(READING, transform))
    handler = SaveMaps(NETWORK, str(folder), "rec", **options)
    engine, found = SimpleNamespace(state=SimpleNamespace()), []
    handler.start(engine)
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collate_items):
        images = (batch["image"] + 1) / 2
        maps = torch.cat([torch.zeros_like(images), (images - 0.6).clamp(min=0)], dim=1)
        scored = (maps, maps.mean(dim=(2, 3)), torch.zeros(len(maps), 4))
        engine.state.findings = Judge(NETWORK, transform=transform).find(batch, scored, len(found))
        handler.save(engine)
        found += engine.state.findings
    handler.finish(engine)
    return found


def head_with_lesion(orientation: str) -> tuple[nib.Nifti1Image, np.ndarray]:
    """A head, and the position in mm of its one bright spot: right, anterior and high."""
    x, y, z = np.mgrid[0:48, 0:64, 0:12]
    inside = ((x - 24) / 20) ** 2 + ((y - 32) / 28) ** 2 + ((z - 6) / 6.2) ** 2 < 1
    volume = np.where(inside, 400.0, 0.0)
    volume[32:37, 42:47, 7:9] = 1000
    affine = np.array([[4.0, 0, 0, -90], [0, 3, 0, -100], [0, 0, 8, -40], [0, 0, 0, 1]])
    image = nib.Nifti1Image(volume.astype(np.int16), affine)
    there = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(orientation))
    return image.as_reoriented(there), affine[:3, :3] @ [34, 44, 7.5] + affine[:3, 3]


@pytest.mark.parametrize("square", [PlainResized("image"), BrainSliced("image")], ids=["plain", "modality"])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
def test_a_volumes_map_is_on_its_own_grid_and_shows_the_lesion_where_it_is(tmp_path, orientation, square):
    image, spot = head_with_lesion(orientation)
    nib.save(image, tmp_path / "head.nii.gz")
    (found,) = save([tmp_path / "head.nii.gz"], square, tmp_path / "out")
    result = nib.load(tmp_path / "out/maps/000000_rec.nii.gz")
    assert result.shape == image.shape and np.allclose(result.affine, image.affine)
    assert nib.aff2axcodes(result.affine) == tuple(orientation)
    heat = result.get_fdata()
    centre = (np.argwhere(heat > 0.1) * heat[heat > 0.1][:, None]).sum(axis=0) / heat[heat > 0.1].sum()
    assert np.linalg.norm(result.affine[:3, :3] @ centre + result.affine[:3, 3] - spot) < 4  # mm; a voxel is 4 x 3 x 8
    (overlay,) = (tmp_path / "out/overlays").iterdir()
    assert overlay.name in ("000000_slice007.png", "000000_slice008.png")
    with Image.open(overlay) as picture:
        shown = np.asarray(picture)[:64, :48].astype(int)
    red = shown[..., 0] - shown[..., 2]
    row, column = np.argwhere(red > 40).mean(axis=0)
    assert row < 24 and column < 20  # anterior is up, the patient's right is on the left
    assert len(found.maps) < 12 and found.item.slices == sorted(found.item.slices)


def test_pictures_and_volumes_in_one_list_keep_their_positions(tmp_path):
    nib.save(head_with_lesion("RAS")[0], tmp_path / "head.nii.gz")
    pixels = np.zeros((40, 30), dtype=np.uint8)
    pixels[5:10, 20:25] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / "head.nii.gz", tmp_path / "absent.png", tmp_path / "b.png"]
    save(paths, PlainResized("image", image_size=32), tmp_path / "out", batch_size=3)
    names = sorted(path.name for path in (tmp_path / "out/overlays").iterdir())
    assert names[0] == "000000.png" and names[1].startswith("000001_slice") and names[2:] == ["000003.png"]
    assert [path.name for path in (tmp_path / "out/maps").iterdir()] == ["000001_rec.nii.gz"]
    with Image.open(tmp_path / "out/overlays/000003.png") as picture:
        shown = np.asarray(picture)[:40, :30].astype(int)
    hot = shown[..., 0] - shown[..., 2]
    assert hot[6:9, 21:24].min() > 20 and hot[20:].max() == 0


def test_maps_of_an_earlier_run_are_removed_and_other_files_are_not(tmp_path, write_image):
    for name in ("overlays/000007.png", "overlays/000003_slice012.png", "maps/000001_rec.nii.gz", "maps/mine.nii.gz"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    save([write_image("a.png")], PlainResized("image"), tmp_path / "out")
    left = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert left == ["maps/mine.nii.gz", "overlays/000000.png"]


def test_an_unknown_map_is_refused():
    with pytest.raises(ValueError, match="map_name must be one of"):
        SaveMaps(NETWORK, "out", "r_dual")
    with pytest.raises(ValueError, match="map_format must be none, npz or nifti"):
        SaveMaps(NETWORK, "out", map_format="png")


def test_a_preparation_that_does_not_keep_what_was_read_is_named(tmp_path, write_image):
    transform = Compose([ReadImaged("image"), PlainResized("image"), EightBitd("image")])
    batch = collate_items([transform({"image": str(write_image("a.png"))})])
    scored = (torch.zeros(1, 2, 64, 64), torch.zeros(1, 2), torch.zeros(1, 4))
    (found,) = Judge(NETWORK, transform=transform).find(batch, scored)
    with pytest.raises(ValueError, match="prepare it by KeepSource"):
        found.heat_map()


@pytest.mark.parametrize("map_format", ["npz", "nifti"])
def test_maps_of_pictures_are_saved_on_their_own_grid_if_asked_for(tmp_path, map_format):
    pixels = np.zeros((40, 30), dtype=np.uint8)
    pixels[5:15, 16:26] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    save([tmp_path / "a.png"], PlainResized("image", image_size=64), tmp_path / "out", map_format=map_format)
    if map_format == "npz":
        heat = np.load(tmp_path / "out/maps/000000_rec.npz")["map"]
    else:
        heat = nib.load(tmp_path / "out/maps/000000_rec.nii.gz").get_fdata()[..., 0].T
    assert heat.shape == (40, 30)
    np.testing.assert_allclose(np.argwhere(heat > 0.2).mean(axis=0), [9.5, 20.5], atol=0.6)
