"""Other people's readers take every object, and put it where ITK puts the images: highdicom, pydicom-seg and dcmqi."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import SegmentationStorage

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

import SimpleITK as sitk

from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.studies import group_instances, read_folder
from tests.deploy.conftest import ALL, film, photograph, picture, save, slices, validate
from tests.small_models import BUNDLES
from tests.transforms.encodings import dataset

PERCENTILE = 80
PLACE = {"ImagePositionPatient": [-120, 30, 250.5], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}


def upright(**header: Any) -> pydicom.Dataset:
    """A film that is higher than wide, with pixels that are higher than wide."""
    template = film(1, **header)
    values = np.pad(picture(1, 64), ((20, 0), (0, 5)))
    made = dataset(values)
    for element in template:
        if element.keyword not in ("Rows", "Columns", "PixelData"):
            made[element.tag] = element
    return made


FILMS = {
    "with spacing": {"ImagerPixelSpacing": [0.3, 0.2]},
    "with a place": PLACE | {"ImagerPixelSpacing": [0.3, 0.2], "FrameOfReferenceUID": "1.2.3.4"},
    "with a place and no frame of reference": PLACE | {"ImagerPixelSpacing": [0.3, 0.2]},
}


@pytest.fixture
def images(request, tmp_path, real_data) -> tuple[str, Path]:
    """Name of a bundle, and a folder of images for it."""
    kind, folder = request.getfixturevalue("kind"), tmp_path / "in"
    if kind in FILMS:
        return "ddad_cxr", save(folder, upright(**FILMS[kind]))
    if kind == "slices":
        oblique = (0.8, 0.6, 0, -0.36, 0.48, 0.8)
        # the header of one slice in several tells the distance of all
        return "ddad_brain", save(folder, *slices(12, oblique, gap=12, SpacingBetweenSlices=2)[::-1])
    if kind == "a real photograph":
        return "ddad_fundus", save(folder, photograph(sorted((real_data / "fundus/images").iterdir())[0]))
    bundle, name = ("ddad_cxr", "chest_cr") if kind == "real films" else ("ddad_brain", "mr_brain_series")
    shutil.copytree(real_data / "dicom" / name, folder)
    return bundle, folder


REAL = [
    pytest.param(kind, marks=pytest.mark.real_data) for kind in ("real films", "a real series", "a real photograph")
]


def by_itk(finding: ImageFinding, folder: Path) -> sitk.Image:
    """Read the images of a finding as ITK does."""
    paths = sorted(folder.iterdir())
    if len(finding.image.positions) == 1:
        return sitk.ReadImage(os.fspath(paths[finding.image.positions[0]]))
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(os.fspath(folder)))


def on_grid(found: sitk.Image, image: sitk.Image) -> np.ndarray:
    """Put what a reader gives on the grid of the image, by the geometry alone: (slices, rows, columns)."""
    interpolator = sitk.sitkNearestNeighbor
    return sitk.GetArrayFromImage(sitk.Resample(found, image, sitk.Transform(), interpolator, 0.0))


def by_highdicom(path: Path) -> sitk.Image:
    volume = hd.imread(path).get_volume()
    made = sitk.GetImageFromArray(volume.array.squeeze(axis=tuple(range(3, volume.array.ndim))).astype(np.float32))
    matrix = volume.affine[:, [2, 1, 0, 3]]  # of columns, rows and slices
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.linalg.det(matrix[:3, :3]) < 0:  # slices run the other way round
        made = made[:, :, ::-1]
        matrix[:3, 3] += (volume.shape[0] - 1) * matrix[:3, 2]
        matrix[:3, 2] *= -1
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(matrix[:3, 3].tolist())
    made.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    return made


def by_pydicom_seg(path: Path) -> sitk.Image:
    # version 0.4.1 is made for pydicom 2, and takes one name from a module that pydicom 3 does not have
    names = ModuleType("pydicom._storage_sopclass_uids")
    names.__dict__["SegmentationStorage"] = SegmentationStorage
    sys.modules.setdefault(names.__name__, names)
    import pydicom_seg

    return pydicom_seg.SegmentReader().read(pydicom.dcmread(path)).segment_image(1)


def by_dcmqi(path: Path, program: str = "segimage2itkimage") -> sitk.Image:
    folder = path.with_suffix(".dcmqi")
    folder.mkdir()
    run_dcmqi(program, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nii")
    (written,) = folder.glob("*.nii.gz")
    return sitk.ReadImage(os.fspath(written))


def run_dcmqi(program: str, *arguments: str | Path) -> None:
    command = [Path(sys.executable).with_name(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", [*FILMS, "slices", *REAL])
def test_every_reader_finds_the_region_and_the_map_where_the_images_are(kind, images, trained, run):
    bundle, folder = images
    done = run(bundle, folder, "--objects", *ALL, "--percentile", str(PERCENTILE))
    model = Model(BUNDLES / bundle, trained(bundle) / "models", percentile=PERCENTILE)
    found = list(model.find(group_instances(read_folder(folder)[0])))
    assert done.code == 0 and found
    for row, finding in zip(done.results["images"], found, strict=True):
        assert row["not_written"] == {}
        overlay, report, segments, maps = (done.output / f"{row['files'][0]:06d}_{name}.dcm" for name in ALL)
        for path in (overlay, report, segments, maps):
            assert validate(path) == []
        image = by_itk(finding, folder)
        volume = finding.heat.affine is not None
        region = np.moveaxis(finding.region, (0, 1, 2), (2, 1, 0)) if volume else finding.region[None]
        heat = np.moveaxis(finding.heat.values, (0, 1, 2), (2, 1, 0)) if volume else finding.heat.values[None]
        assert 0 < region.sum() < region.size
        for reader in (by_highdicom, by_pydicom_seg, by_dcmqi):
            read = reader(segments)
            np.testing.assert_allclose(read.GetSpacing(), image.GetSpacing(), rtol=1e-4, err_msg=reader.__name__)
            np.testing.assert_array_equal(on_grid(read, image), region, err_msg=reader.__name__)
        for name, read in {"highdicom": by_highdicom(maps), "dcmqi": by_dcmqi(maps, "paramap2itkimage")}.items():
            np.testing.assert_allclose(on_grid(read, image), heat, rtol=1e-4, atol=1e-6, err_msg=name)
        assert sitk.ReadImage(os.fspath(overlay)).GetNumberOfComponentsPerPixel() == 3
        run_dcmqi("tid1500reader", "--inputDICOM", report, "--outputMetadata", report.with_suffix(".json"))
        (group,) = json.loads(report.with_suffix(".json").read_text())["Measurements"]
        measured = {item["quantity"]["CodeValue"]: float(item["value"]) for item in group["measurementItems"]}
        for name, score in finding.result.scores.items():
            assert measured[name] == pytest.approx(score, rel=1e-5, abs=1e-8)
