"""What 3D Slicer's plugin asks through MONAI Label's client, and where it puts the replies: by SimpleITK's geometry."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import SimpleITK as sitk
from monailabel.client.client import MONAILabelClient
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from monai_ddad.label.train import ENOUGH
from monai_ddad.serving.predictor import Predictor
from tests.label.conftest import Server
from tests.small_models import BUNDLES

ASKED = {"percentile": 60, "result_extension": ".nrrd", "result_dtype": "uint8"}  # the last two by the plugin itself
PLACE = {"ImagePositionPatient": [-120, 30, 250.5], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}


def write_dicom(path: Path, values: np.ndarray, kind: str = ComputedRadiographyImageStorage, **header: Any) -> None:
    """Write a film or slice; spacing of rows .3, of columns .2."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = kind, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality = "1.2.3", "1.2.3.4", "CR"
    image.PhotometricInterpretation, image.SamplesPerPixel, image.PixelRepresentation = "MONOCHROME2", 1, 0
    image.Rows, image.Columns = values.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelData = values.tobytes() + bytes(values.size % 2)
    image.PixelSpacing = image.ImagerPixelSpacing = [0.3, 0.2]
    for keyword, value in header.items():
        setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.is_implicit_VR, image.is_little_endian = False, True
    image.save_as(path, write_like_original=False)


@pytest.fixture(scope="module")
def images(trained, tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """Bundle and file of each image: films that are higher than wide, with pixels that are, too, and volumes."""
    folder = tmp_path_factory.mktemp("images")
    found: dict[str, tuple[str, Path]] = {}
    phantom = sorted((trained("ddad_cxr") / "phantom/images").glob("*.png"))[0]
    film = np.pad(np.asarray(Image.open(phantom).convert("L")), ((20, 0), (0, 5)))
    for name, options in {"film.png": {}, "dense.jpg": {"dpi": (300, 300), "quality": 100}}.items():
        Image.fromarray(film).save(folder / name, **options)
    write_dicom(folder / "lying.dcm", film)
    write_dicom(folder / "placed.dcm", film, **PLACE)
    write_dicom(folder / "dark.dcm", 255 - film, PhotometricInterpretation="MONOCHROME1")
    found |= {path.stem: ("ddad_cxr", path) for path in folder.iterdir()}
    rng = np.random.default_rng(0)
    y, x, _ = np.meshgrid(*(np.linspace(-1, 1, size) for size in (32, 40, 5)), indexing="ij")
    head = ((x**2 + y**2 < 0.8) * rng.integers(100, 200, x.shape)).astype(np.int16)
    affine = nib.affines.from_matvec(np.array([[0, -6.0, 0], [7.0, 0, 0], [0, 0, 20.0]]), (3, -20, 50))
    nib.Nifti1Image(head, affine).to_filename(folder / "volume.nii.gz")
    two = nib.Nifti1Image(head, affine)  # a file with two places
    two.set_qform(np.diag([7.0, 6, 20, 1]), 1)
    two.set_sform(affine, 4)
    two.to_filename(folder / "places.nii.gz")
    found |= {name: ("ddad_brain", folder / f"{name}.nii.gz") for name in ("volume", "places")}
    (folder / "series").mkdir()
    for k in range(5):
        header = {"Modality": "MR", "ImageOrientationPatient": [0.8, 0.6, 0, -0.36, 0.48, 0.8], "PixelSpacing": [7, 6]}
        place = np.array([-80, -90, 10]) + 20 * k * np.cross([0.8, 0.6, 0], [-0.36, 0.48, 0.8])
        position = [f"{value:.10g}" for value in place]
        slice_ = np.ascontiguousarray(head[:, :, 4 - k].astype(np.uint8))
        write_dicom(folder / f"series/{9 - k}.dcm", slice_, MRImageStorage, ImagePositionPatient=position, **header)
    return found | {"series": ("ddad_brain", folder / "series")}


@pytest.fixture(scope="module")
def expected(trained, images) -> Callable[[str], tuple[float, np.ndarray]]:
    """Score of an image, and its region on the grid on which SimpleITK reads the file, as (slices, rows, columns)."""

    def find(name: str) -> tuple[float, np.ndarray]:
        bundle, path = images[name]
        predictor = Predictor(BUNDLES / bundle, trained(bundle) / "models")
        (found,) = predictor.find([[str(file) for file in path.iterdir()] if path.is_dir() else str(path)])
        region = found.percentiles(found.heat_map().values) > ASKED["percentile"]
        result = found.result
        return result.scores[result.score], region[None] if region.ndim == 2 else np.moveaxis(region, (0, 2), (2, 0))

    return find


@pytest.fixture(scope="module")
def apps(trained, images, start, start_stock, tmp_path_factory) -> Callable[[str, str], Server]:
    """The server of an app for a bundle."""
    started: dict[str, Server] = {}

    def get(app: str, bundle: str) -> Server:
        key = app if app == "stock" else bundle
        if key not in started:
            studies = tmp_path_factory.mktemp("studies")
            for kind, path in images.values():
                if path.is_dir() and kind == key:
                    shutil.copytree(path, studies / path.name)
                elif path.is_file() and key in (kind, "stock"):
                    shutil.copy(path, studies)
            if app == "stock":
                started[key] = start_stock(["ddad_cxr", "ddad_brain"], studies)
            else:
                models, versions = str(trained(bundle) / "models"), str(studies.parent / "versions")
                started[key] = start(bundle, studies, models=models, versions=versions)
        return started[key]

    return get


def read_image(path: Path) -> sitk.Image:
    """Read an image as Slicer does, with three axes; colours as their first channel."""
    if path.is_dir():
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(os.fspath(path)))
    else:
        image = sitk.ReadImage(os.fspath(path))
    image = image if image.GetDimension() == 3 else sitk.JoinSeries(image)
    return image if image.GetNumberOfComponentsPerPixel() == 1 else sitk.VectorIndexSelectionCast(image, 0)


def on_grid(label: Path, image: sitk.Image) -> np.ndarray:
    """Put a label on the grid of the image by the geometry alone."""
    nearest = sitk.sitkNearestNeighbor
    return sitk.GetArrayFromImage(sitk.Resample(read_image(label), image, sitk.Transform(), nearest, 0.0)).astype(bool)


def ask(server: Server, bundle: str, app: str, tmp_path: Path) -> tuple[MONAILabelClient, str, dict[str, Any]]:
    """Begin as the plugin does: read what there is, and take the first model for segmentations of the bundle."""
    client = MONAILabelClient(server.url, os.fspath(tmp_path))
    models = client.info()["models"]
    model = f"{bundle}_region" if app == "own" else bundle
    assert models[model]["type"] == "segmentation"  # what the plugin lists
    config = {key: value[0] if isinstance(value, list) else value for key, value in models[model]["config"].items()}
    return client, model, config | ASKED


FILES = ["film", "dense", "lying", "placed", "dark", "volume", "places", "series"]


@pytest.mark.parametrize("app, name", [(app, name) for app in ("own", "stock") for name in FILES])
def test_the_region_of_a_file_of_the_datastore_lies_on_the_image(app, name, images, expected, apps, tmp_path):
    bundle, path = images[name]
    if app == "stock" and path.is_dir():
        pytest.skip("that app knows no folders; see the next test, and test_dicomweb.py")
    client, model, params = ask(apps(app, bundle), bundle, app, tmp_path)
    label, found = client.infer(model, name, params)
    score, region = expected(name)
    assert found["score"] == pytest.approx(score, rel=1e-5)
    image = read_image(path)
    placed = on_grid(Path(label), image)
    assert 0 < region.sum() < region.size and placed.sum() == region.sum()
    np.testing.assert_array_equal(placed, region)
    for asked in ({}, {"result_extension": ".nii.gz", "result_dtype": "uint8"}):
        if app == "own" and asked:
            continue
        label, _ = client.infer(model, name, {"percentile": ASKED["percentile"]} | asked)
        np.testing.assert_array_equal(on_grid(Path(label), image), region)


@pytest.mark.parametrize("app, name", [(app, name) for app in ("own", "stock") for name in FILES if name != "places"])
def test_an_image_that_slicer_sends_is_scored_as_the_file_it_was_read_from(app, name, images, expected, apps, tmp_path):
    bundle, path = images[name]
    client, model, params = ask(apps(app, bundle), bundle, app, tmp_path)
    image = read_image(path)
    score, region = expected(name)
    film = bundle == "ddad_cxr"
    flips = [(False, False, False), (True, True, False)] if film else [(False, False, False)]
    for flip in flips:  # the same film, stored the other way round
        sent = sitk.Flip(image, flip)
        sitk.WriteImage(sent, os.fspath(tmp_path / "sent.nii.gz"))
        session = client.create_session(os.fspath(tmp_path / "sent.nii.gz"))["session_id"]
        label, found = client.infer(model, "", params, session_id=session)
        assert found["score"] == pytest.approx(score, rel=1e-4 if film else 0.02, abs=1e-4)
        placed = on_grid(Path(label), sitk.Flip(sent, flip))
        assert np.mean(placed == region) > (0.999 if film else 0.98)  # grey levels of a series are not all those sent


@pytest.mark.real_data
@pytest.mark.parametrize("app", ["own", "stock"])
@pytest.mark.parametrize("bundle", ["ddad_cxr", "ddad_brain"])
def test_real_films_and_a_real_series_that_slicer_sends(app, bundle, apps, trained, real_data, tmp_path):
    client, model, params = ask(apps(app, bundle), bundle, app, tmp_path)
    predictor = Predictor(BUNDLES / bundle, trained(bundle) / "models")
    series = real_data / "dicom/mr_brain_series"
    for path in [series] if bundle == "ddad_brain" else sorted((real_data / "dicom/chest_cr").iterdir()):
        image = read_image(path)
        sitk.WriteImage(image, os.fspath(tmp_path / "sent.nii.gz"))
        session = client.create_session(os.fspath(tmp_path / "sent.nii.gz"))["session_id"]
        label, found = client.infer(model, "", params, session_id=session)
        (own,) = predictor.find([[str(file) for file in path.iterdir()] if path.is_dir() else str(path)])
        result = own.result
        assert found["score"] == pytest.approx(result.scores[result.score], rel=1e-2)
        region = own.percentiles(own.heat_map().values) > ASKED["percentile"]
        region = region[None] if region.ndim == 2 else np.moveaxis(region, (0, 2), (2, 0))
        assert np.mean(on_grid(Path(label), image) == region) > 0.99


def test_the_whole_session_of_an_annotator(images, apps, tmp_path):  # last, as the server then has another model
    server = apps("own", "ddad_cxr")
    client = MONAILabelClient(server.url, os.fspath(tmp_path))
    info = client.info()
    sample = client.next_sample("random", {})
    assert Path(sample["path"]).exists() and sample["id"] in images
    film = np.asarray(Image.open(images["film"][1]))
    for number in range(ENOUGH):  # uploads from Slicer, submitted with empty labels
        noise = np.random.default_rng(number).integers(0, 9, film.shape, dtype=np.uint8)
        image = sitk.JoinSeries(sitk.GetImageFromArray(film // 2 + noise))
        sitk.WriteImage(image, os.fspath(tmp_path / "sent.nii.gz"))
        client.upload_image(os.fspath(tmp_path / "sent.nii.gz"), f"sent{number}")
        sitk.WriteImage(sitk.Image(image.GetSize(), sitk.sitkUInt8), os.fspath(tmp_path / "empty.nii.gz"))
        client.save_label(f"sent{number}", os.fspath(tmp_path / "empty.nii.gz"), "final", {"label_info": []})
    assert client.info()["datastore"]["completed"] == ENOUGH
    (model,) = info["trainers"]
    client.train_start(model, {"epochs": 40, "refine_epochs": 1})
    shown: list[float] = []
    limit = time.monotonic() + 300
    while client.train_status()["status"] in ("SUBMITTED", "RUNNING") and time.monotonic() < limit:
        stats = next(iter(client.info()["train_stats"].values()))
        done = 0 if stats.get("total_time") else stats.get("epoch", 1)  # from here as the plugin reckons
        shown.append(max(1, 100 * done / stats.get("total_epochs", 1)))
        time.sleep(0.1)
    state = client.train_status()
    assert state["status"] == "DONE", "\n".join(state["details"])[-3000:]
    rising = shown[: shown.index(max(shown)) + 1]  # the process ends a little after its training
    assert shown[0] == 1 and rising == sorted(rising)
    assert len(set(shown)) > 3 and any(1 < percent < 95 for percent in shown)
    assert next(iter(client.info()["train_stats"].values()))["epoch"] == 0  # of the next one
