"""Real films, a series and volumes through both apps have the score and the map of the bundle's own inference."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage, generate_uid

from monai_ddad.serving.predictor import Predictor
from tests.label.conftest import Server
from tests.small_models import BUNDLES, KINDS

pytestmark = pytest.mark.real_data


def write_op(photograph: Path, path: Path) -> None:
    """Write a photograph as an ophthalmic photography image."""
    values = np.asarray(Image.open(photograph).convert("RGB"))
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = (
        OphthalmicPhotography8BitImageStorage,
        generate_uid(),
        "OP",
    )
    image.Rows, image.Columns, image.SamplesPerPixel = *values.shape[:2], 3
    image.PhotometricInterpretation, image.PlanarConfiguration = "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = values.tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.is_implicit_VR, image.is_little_endian = False, True
    image.save_as(path, write_like_original=False)


@pytest.fixture(scope="module")
def files(real_data, trained, tmp_path_factory) -> dict[str, dict[str, Path]]:
    """By bundle and image id: a picture, and what else it takes."""
    pictures = {bundle: sorted((trained(bundle) / "phantom/images").glob("normal*.png"))[0] for bundle in KINDS}
    photograph = sorted((real_data / "fundus/images").iterdir())[0]
    wrapped = tmp_path_factory.mktemp("op") / "photograph.dcm"
    write_op(photograph, wrapped)
    films = {path.stem: path for path in (real_data / "dicom/chest_cr").glob("*.dcm")}
    assert len(films) == 3
    return {
        "ddad_brain": {
            "picture": pictures["ddad_brain"],
            "series": real_data / "dicom/mr_brain_series",
            "anatomical": real_data / "nifti/anatomical.nii",
        },
        "ddad_cxr": {"picture": pictures["ddad_cxr"], **films},
        "ddad_fundus": {"picture": pictures["ddad_fundus"], "photograph": photograph, "photograph_dicom": wrapped},
    }


@pytest.fixture(scope="module")
def stock(files, start_stock, tmp_path_factory) -> Server:
    """The monaibundle app with the three bundles, on the files; in its folders a series is no image of its own."""
    studies = tmp_path_factory.mktemp("studies")
    for bundle, paths in files.items():
        for name, path in paths.items():
            if path.is_file():
                shutil.copy(path, studies / f"{bundle}_{name}{''.join(path.suffixes)}")
    return start_stock(list(KINDS), studies)


@pytest.mark.parametrize("bundle", list(KINDS))
def test_every_kind_of_file_has_the_score_and_map_of_the_bundle(bundle, files, trained, start, stock, tmp_path):
    run, studies = trained(bundle), tmp_path / "studies"
    studies.mkdir()
    for name, path in files[bundle].items():
        if path.is_dir():
            shutil.copytree(path, studies / name)
        else:
            shutil.copy(path, studies / f"{name}{''.join(path.suffixes)}")
    server = start(bundle, studies, models=str(run / "models"), versions=str(tmp_path / "versions"))
    for name, path in files[bundle].items():
        output = tmp_path / name
        shutil.copytree(run / "models", output / "models")
        workflow = ConfigWorkflow(
            str(BUNDLES / bundle / "configs/inference.json"),
            logging_file=False,
            output_dir=str(output),
            dataset_dir=str(path),
            map_format="nifti",
        )
        workflow.initialize()
        workflow.run()
        folder = output / "eval/inference"
        table = folder / ("volumes.csv" if (folder / "volumes.csv").is_file() else "scores.csv")
        with table.open() as file:
            (row,) = csv.DictReader(file)
        (saved,) = map(nib.load, folder.glob("maps/*.nii.gz"))
        if path.suffix == ".nii":
            assert saved.shape == nib.load(path).shape and np.allclose(saved.affine, nib.load(path).affine)
        picture = "slices" not in row
        regions = []
        for app, asked in ((server, {}), (stock, {"result_dtype": "float32", "result_extension": ".nii.gz"})):
            if app is stock and path.is_dir():  # see test_dicomweb.py
                continue
            image = f"{bundle}_{name}" if app is stock else name
            found = app.infer(image, bundle).json()
            assert found["score"] == pytest.approx(float(row[found["score_name"]]), rel=1e-5)
            (tmp_path / "heat.nii.gz").write_bytes(app.result(image, bundle, **asked))
            heat = nib.load(tmp_path / "heat.nii.gz")
            values = heat.get_fdata().reshape(saved.shape)  # a picture's of that app has no third axis
            np.testing.assert_allclose(values, saved.get_fdata(), rtol=1e-4, atol=1e-6)
            if not picture:
                np.testing.assert_allclose(heat.affine, saved.affine)
            regions.append(app.result(image, f"{bundle}_region" if app is server else bundle))
            assert regions[-1].startswith(b"\x89PNG" if picture else b"\x1f\x8b")
        if picture:
            first, second = (np.asarray(Image.open(io.BytesIO(region))) for region in regions)
            np.testing.assert_array_equal(first, second)


def test_a_folder_of_several_films_is_as_abnormal_as_the_worst_of_them(files, trained, start, tmp_path):
    run, films = trained("ddad_cxr"), [path for path in files["ddad_cxr"].values() if path.suffix == ".dcm"]
    predictor = Predictor(BUNDLES / "ddad_cxr", run / "models")
    sizes, scores = {}, {}
    for number, path in enumerate(films):
        shutil.copytree(path.parent, tmp_path / "studies/films", dirs_exist_ok=True)
        (found,) = predictor.find([str(path)])
        scores[number] = found.result.summary()["score"]
        sizes[number] = found.heat_map().values.shape
    assert len(set(scores.values())) > 1
    worst = max(scores, key=scores.__getitem__)
    server = start("ddad_cxr", tmp_path / "studies", models=str(run / "models"), versions=str(tmp_path / "versions"))
    assert server.infer("films").json()["score"] == pytest.approx(scores[worst], rel=1e-5)
    assert server.request("POST", "/batch/infer/ddad_cxr?images=all").ok
    assert server.wait_for("/batch/infer")["status"] == "DONE"
    with (tmp_path / "versions/batch_inference_ddad_cxr.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == "films" and float(row["score"]) == pytest.approx(scores[worst], rel=1e-5)
    (label,) = (tmp_path / "studies/labels/original").iterdir()
    with Image.open(label) as picture:
        assert picture.size[::-1] == sizes[worst]
