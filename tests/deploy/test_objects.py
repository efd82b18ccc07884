"""DICOM objects of real films, a series and a photograph: valid, of the right study, true to what was found."""

from __future__ import annotations

import dataclasses
import shutil

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from pydicom.dataset import Dataset

from monai_ddad.deploy.dicom_objects import PATIENT, report
from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.studies import Instance, group_instances, read_folder
from monai_ddad.networks.protocol import REASONS
from tests.deploy.conftest import ALL, film, photograph, picture, save, slices, validate
from tests.small_models import BUNDLES
from tests.transforms.encodings import JPEG, compressed, saved

IMAGES = {"ddad_cxr": 2, "ddad_brain": 1, "ddad_fundus": 1}  # of the three films two share their SOP instance


@pytest.fixture
def folder(request, real_data, tmp_path):
    """The bundle's images as DICOM files."""
    bundle = request.getfixturevalue("bundle")
    if bundle == "ddad_fundus":
        (tmp_path / "in").mkdir()
        photograph(sorted((real_data / "fundus/images").iterdir())[0]).save_as(tmp_path / "in/0.dcm")
    else:
        name = "chest_cr" if bundle == "ddad_cxr" else "mr_brain_series"
        shutil.copytree(real_data / "dicom" / name, tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.real_data
@pytest.mark.parametrize("bundle", list(IMAGES))
def test_what_is_written_is_valid_and_says_what_was_found(bundle, folder, run, trained):
    done = run(bundle, folder, "--objects", *ALL)
    assert done.code == 0
    rows = done.results["images"]
    assert len(rows) == IMAGES[bundle]
    assert [row["reason"] for row in done.results["unusable"]] == ["a second file of the same SOP instance"] * (
        len(list(folder.iterdir())) - sum(len(row["files"]) for row in rows)
    )
    model = Model(BUNDLES / bundle, trained(bundle) / "models")
    found = list(model.find(group_instances(read_folder(folder)[0])))
    uids: list[str] = []
    for row, finding in zip(rows, found, strict=True):
        assert row["files"] == list(finding.image.positions)
        assert row["score"] == pytest.approx(finding.result.scores[finding.result.score], rel=1e-5)
        sources = finding.image.datasets
        objects = {}
        for name in row["written"]:
            assert validate(done.output / name) == []
            made = objects[name.partition("_")[2].removesuffix(".dcm")] = pydicom.dcmread(done.output / name)
            assert made.StudyInstanceUID == sources[0].StudyInstanceUID
            assert made.SeriesInstanceUID not in {source.SeriesInstanceUID for source in sources}
            uids += [made.SeriesInstanceUID, made.SOPInstanceUID]
            for keyword in PATIENT:
                assert (made.get(keyword) or "") == (sources[0].get(keyword) or ""), keyword
                if keyword not in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
                    assert (keyword in made) == (keyword in sources[0])
            assert _referred(made) == {str(source.SOPInstanceUID) for source in sources}
        assert set(objects) == set(ALL) and row["not_written"] == {}
        assert row["notes"] == list(finding.result.notes)
        if bundle != "ddad_brain":  # of which no volume was set aside
            assert any(note.startswith("Nothing can be flagged at alpha 0.05") for note in row["notes"])
        assert row["notes"] and set(row["notes"]) <= _texts(objects["report"])

        saved = objects["parametric_map"].pixel_array.reshape(-1, sources[0].Rows, sources[0].Columns)
        segments = objects["segmentation"].pixel_array.reshape(-1, sources[0].Rows, sources[0].Columns)
        assert saved.shape[0] == len(sources)
        if finding.heat.affine is None:
            np.testing.assert_allclose(saved[0], finding.heat.values, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(segments[0], finding.region)
        else:
            places = _slice_numbers(objects["parametric_map"], finding.heat)
            np.testing.assert_allclose(
                saved, np.stack([finding.heat.values[:, :, k].T for k in places]), rtol=1e-4, atol=1e-6
            )
            kept = _slice_numbers(objects["segmentation"], finding.heat)
            region = finding.region
            assert segments.sum() == region.sum() and len(kept) == len(segments)
            np.testing.assert_array_equal(segments, np.stack([region[:, :, k].T for k in kept]))

        report = hd.sr.ComprehensiveSR.from_dataset(objects["report"])
        (group,) = report.content.get_image_measurement_groups()
        measured = {one.name.meaning: one.value for one in group.get_measurements()}
        for name, score in finding.result.scores.items():
            assert measured[f"Anomaly score {name}"] == pytest.approx(score, rel=1e-5)
        if bundle != "ddad_brain":  # of which no volume was set aside
            assert measured["P-value"] == pytest.approx(finding.result.p_value)
        assert objects["overlay"].pixel_array.shape[2] == 3
        assert objects["overlay"].Columns > finding.heat.picture_values.shape[1]
    assert len(set(uids)) == len(uids)


def _texts(made: pydicom.Dataset) -> set[str]:
    return {str(element.value) for element in made.iterall() if element.keyword == "TextValue"}


def _referred(made: pydicom.Dataset) -> set[str]:
    """SOP instances of the images that an object refers to anywhere."""
    found = {str(element.value) for element in made.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
    return found - {str(made.SOPInstanceUID)}


def _slice_numbers(made: pydicom.Dataset, heat) -> list[int]:
    """Number of the map's slice that each frame lies in, from where the frame says that it is."""
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in made.PerFrameFunctionalGroupsSequence]
    affine = nib.Nifti1Image(heat.values, heat.affine).affine
    voxels = [np.linalg.solve(affine, [-float(x), -float(y), float(z), 1]) for x, y, z in places]
    np.testing.assert_allclose([voxel[:2] for voxel in voxels], 0, atol=1e-3)
    return [round(float(voxel[2])) for voxel in voxels]


ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.36, 0.48, 0.8),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("missing", [None, "SliceThickness", "FrameOfReferenceUID"])
def test_frames_lie_where_the_map_says_in_every_orientation(orientation, missing, run, trained, tmp_path):
    images = slices(40, orientation=ORIENTATIONS[orientation], gap=5)
    for image in images:
        if missing is not None:
            del image[missing]
    folder = save(tmp_path / "in", *images[::-1])
    done = run("ddad_brain", folder, "--objects", "segmentation", "parametric_map", "--percentile", "50")
    assert done.code == 0 and done.results["images"][0]["not_written"] == {}
    model = Model(BUNDLES / "ddad_brain", trained("ddad_brain") / "models", percentile=50)
    (finding,) = model.find(group_instances(read_folder(folder)[0]))
    maps, segments = done.read(0, "parametric_map"), done.read(0, "segmentation")
    expected = np.stack([finding.heat.values[:, :, k].T for k in _slice_numbers(maps, finding.heat)])
    np.testing.assert_allclose(maps.pixel_array, expected, rtol=1e-4, atol=1e-6)
    region = np.stack([finding.region[:, :, k].T for k in _slice_numbers(segments, finding.heat)])
    np.testing.assert_array_equal(segments.pixel_array, region)
    assert finding.region.any() and region.sum() == finding.region.sum()


@pytest.mark.parametrize(
    "header",
    [{"FrameOfReferenceUID": "1.2.3"}, {"StudyDate": "99xx", "StudyTime": "KANARIEN"}, {"PixelSpacing": [0, 0]}],
)
def test_films_with_half_a_geometry_or_impossible_dates_get_every_object(header, run, tmp_path):
    done = run("ddad_cxr", save(tmp_path / "in", film(0, **header)), "--objects", *ALL)
    assert done.code == 0 and done.results["images"][0]["not_written"] == {}
    for kind in ALL:
        assert validate(done.output / f"000000_{kind}.dcm") == []


def _finding(model: Model, image: Dataset, **result) -> ImageFinding:
    """A finding of an image with another result."""
    (found,) = model.find(group_instances([Instance(0, image)]))
    return dataclasses.replace(found, result=dataclasses.replace(found.result, **result))


@pytest.fixture(scope="module")
def chest(trained):
    return Model(BUNDLES / "ddad_cxr", trained("ddad_cxr") / "models", percentile=80)


def _answers(made: pydicom.Dataset) -> dict[str, tuple[str, str]]:
    """Code and meaning of each answer of a report, by the meaning of its question."""
    (group,) = hd.sr.ComprehensiveSR.from_dataset(made).content.get_image_measurement_groups()
    return {one.name.meaning: (one.value.value, one.value.meaning) for one in group.get_qualitative_evaluations()}


DECIDED = [
    {"p_value": 0.01, "percentile": 99.0, "flagged": True},
    {"p_value": 0.6, "percentile": 40.0, "flagged": False},
    {"p_value": None, "percentile": None, "flagged": None},
]


def test_a_code_means_one_thing_and_every_answer_has_its_own(chest, tmp_path):
    meanings: dict[str, set[str]] = {}
    decisions, protocols = [], []
    for result in [*DECIDED, *({"out_of_protocol": reason} for reason in ("", *REASONS))]:
        made = report(_finding(chest, film(0), **result), chest)
        made.save_as(tmp_path / "report.dcm", enforce_file_format=True)
        assert validate(tmp_path / "report.dcm") == []
        for element in made.iterall():
            for item in element.value if element.VR == "SQ" else ():
                if item.get("CodingSchemeDesignator") == "99DDAD" and "CodeValue" in item:
                    meanings.setdefault(item.CodeValue, set()).add(item.CodeMeaning)
        answers = _answers(pydicom.dcmread(tmp_path / "report.dcm"))
        (decisions if "flagged" in result else protocols).append(
            answers["Decision" if "flagged" in result else "Protocol"]
        )
    assert all(len(found) == 1 for found in meanings.values()), meanings
    assert decisions == [("flagged", "Flagged"), ("not_flagged", "Not flagged"), ("not_calibrated", "Not calibrated")]
    assert len({code for code, _ in protocols}) == len(protocols) == 1 + len(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_there_as_a_whole(reason, chest):
    made = report(_finding(chest, film(0), out_of_protocol=reason), chest)
    assert reason in _texts(made)


def _request() -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID, item.AccessionNumber = "P7", "S9", "A-1"
    item.RequestedProcedureDescription = "KANARIE"
    return item


@pytest.mark.parametrize("requested", [False, True])
def test_what_identifies_the_request_is_carried_and_other_texts_are_not(requested, run, tmp_path):
    header = {"AccessionNumber": "Ä-1", "StudyID": "17", "ReferringPhysicianName": "Zuweiser^Zoë"}
    header |= {"SpecificCharacterSet": "ISO_IR 100", "StudyDescription": "KANARIE", "ProtocolName": "KANARIE"}
    image = film(0, **header, **({"RequestAttributesSequence": [_request()]} if requested else {}))
    done = run("ddad_cxr", save(tmp_path / "in", image), "--objects", *ALL)
    for kind in ALL:
        assert validate(done.output / f"000000_{kind}.dcm") == []
        made = done.read(0, kind)
        assert (made.AccessionNumber, made.StudyID) == ("Ä-1", "17")
        assert made.ReferringPhysicianName == "Zuweiser^Zoë" and made.SpecificCharacterSet == "ISO_IR 192"
        assert "KANARIE" not in str(made)
        if kind == "report":
            (item,) = made.ReferencedRequestSequence
            assert (item.StudyInstanceUID, item.AccessionNumber) == (
                image.StudyInstanceUID,
                "A-1" if requested else "Ä-1",
            )
            assert (item.RequestedProcedureID or "") == ("P7" if requested else "")
        elif requested:
            (item,) = made.RequestAttributesSequence
            assert (item.RequestedProcedureID, item.ScheduledProcedureStepID) == ("P7", "S9")
        else:
            assert "RequestAttributesSequence" not in made


def _compressed(**header) -> Dataset:
    made = compressed(np.pad(picture(0), ((20, 0), (0, 5))), saved("JPEG"), JPEG)
    for element in film(0, **header):
        if element.keyword not in ("Rows", "Columns", "PixelData"):
            made[element.tag] = element
    return made


HISTORY = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 7, "LossyImageCompressionMethod": "ISO_15444_1"}
TWICE = HISTORY | {
    "LossyImageCompressionRatio": [7, 3],
    "LossyImageCompressionMethod": ["ISO_15444_1", "ISO_10918_1"],
}


@pytest.mark.parametrize(
    "image, expected",
    [
        (film(0), {}),
        (film(0, LossyImageCompression="00"), {}),
        (film(0, **HISTORY), HISTORY),
        (film(0, **TWICE), TWICE),
        (_compressed(), {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"}),
        (_compressed(LossyImageCompression="00"), {"LossyImageCompression": "01"}),
        (_compressed(LossyImageCompression="01"), {"LossyImageCompressionMethod": "ISO_10918_1"}),
        (_compressed(**TWICE), TWICE),
    ],
    ids=["never", "said never", "once", "twice", "by syntax", "against syntax", "half said", "twice and compressed"],
)
def test_what_was_lossy_once_stays_so(image, expected, run, tmp_path):
    done = run("ddad_cxr", save(tmp_path / "in", image), "--objects", *ALL)
    for kind in ("overlay", "segmentation", "parametric_map"):
        made = done.read(0, kind)
        assert validate(done.output / f"000000_{kind}.dcm") == []
        for keyword, value in expected.items():
            assert made[keyword].value == value
        if expected:
            assert float(np.ravel(made.LossyImageCompressionRatio)[0]) > 1
        else:
            assert made.get("LossyImageCompression", "00") == "00"
    assert "LossyImageCompression" not in done.read(0, "report")
