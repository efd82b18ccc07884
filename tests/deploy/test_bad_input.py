"""What cannot be used is named by its position with its reason; the rest is done."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, UID, generate_uid

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")

from tests.deploy.conftest import film, picture, save, slices
from tests.small_models import BUNDLES
from tests.transforms.encodings import dataset


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1500])


CASES = {
    "another modality": (lambda: film(9, Modality="CT"), "another modality"),
    "another body part": (lambda: film(9, BodyPartExamined="HAND"), "body part"),
    "no pixel data": (lambda: film(9, PixelData=None), "no pixel data"),
    "unsupported transfer syntax": (
        lambda: dataset(encapsulate([b"film"]), UID("1.2.840.10008.1.2.4.100"), **_header(), Rows=64, Columns=64),
        "transfer syntax",
    ),
    "no study": (lambda: film(9, StudyInstanceUID=None), "StudyInstanceUID is missing"),
    "a report": (lambda: film(9, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None), "rules"),
    "damaged pixels": (
        lambda: dataset(encapsulate([bytes(9)]), JPEG2000, **_header(), Rows=64, Columns=64),
        "truncated",
    ),
}


def _header() -> dict:
    one = film(9)
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "BodyPartExamined")
    return {name: one[name].value for name in names} | {
        "SamplesPerPixel": 1,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }


@pytest.mark.parametrize("name", CASES)
def test_one_bad_file_is_listed_and_the_others_are_done(name, run, tmp_path):
    make, reason = CASES[name]
    done = run("ddad_cxr", save(tmp_path / "in", film(0), make(), film(1)))
    assert done.code == 0
    assert [row["files"] for row in done.results["images"]] == [[0], [2]]
    (bad,) = done.results["unusable"]
    assert bad["files"] == [1] and reason in bad["reason"], bad
    assert f"file 1 not used: {bad['reason']}" in done.errors
    assert not list(done.output.glob("000001*")) and not list(done.output.glob(".*"))


def test_cut_empty_and_foreign_files_are_listed(run, tmp_path):
    folder = save(tmp_path / "in", film(0), film(1))
    truncated(folder / "001.dcm")
    (folder / "002.dcm").touch()
    (folder / "003.txt").write_text("Dear colleague, " * 30)
    (folder / "004.png").write_bytes(b"no picture")
    done = run("ddad_cxr", folder)
    assert done.code == 0 and len(done.results["images"]) == 1
    assert [one["files"] for one in done.results["unusable"]] == [[1], [2], [3]]  # of the images, which a text is not
    assert done.results["left_out"] == {"no image by name or content": 1}


def test_a_film_among_reports_is_found_with_one_study_a_result(run, tmp_path):
    study = generate_uid()
    reports = [film(n, Modality="SR", StudyInstanceUID=study, PixelData=None) for n in range(3)]
    done = run("ddad_cxr", save(tmp_path / "in", *reports[:2], film(7, StudyInstanceUID=study), reports[2]))
    assert done.code == 0 and [row["files"] for row in done.results["images"]] == [[2]]
    assert done.read(2, "report").StudyInstanceUID == study


def test_several_films_and_studies_are_each_scored(run, tmp_path):
    study, series = generate_uid(), generate_uid()
    two = [film(n, StudyInstanceUID=study, SeriesInstanceUID=series) for n in (1, 2)]
    done = run("ddad_cxr", save(tmp_path / "in", film(0), *two, film(3, SeriesNumber=None)))
    assert [row["files"] for row in done.results["images"]] == [[0], [1], [2], [3]]
    assert done.read(1, "report").StudyInstanceUID == done.read(2, "report").StudyInstanceUID == study


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda images: [*images[:2], *images[3:]], "missing"),
        (lambda images: [*images, _again(images[2])], "lie where another one does"),
    ],
)
def test_a_series_with_missing_or_doubled_slices_is_refused_and_the_other_one_done(change, reason, run, tmp_path):
    good, bad = slices(6), change(slices(6))
    done = run("ddad_brain", save(tmp_path / "in", *good, *bad))
    assert done.code == 0 and [row["files"] for row in done.results["images"]] == [list(range(6))]
    (one,) = done.results["unusable"]
    assert one["files"] == list(range(6, 6 + len(bad))) and reason in one["reason"], one


def _again(image):
    again = copy.deepcopy(image)
    again.SOPInstanceUID = generate_uid()
    return again


def test_orientations_of_one_series_are_volumes_of_their_own(run, tmp_path):
    series, study = generate_uid(), generate_uid()
    axial = slices(6)
    sagittal = slices(6, orientation=(0, 1, 0, 0, 0, -1))
    for image in (*axial, *sagittal):
        image.SeriesInstanceUID, image.StudyInstanceUID = series, study
    mixed = [image for pair in zip(axial, sagittal) for image in pair]
    done = run("ddad_brain", save(tmp_path / "in", *mixed))
    files = [row["files"] for row in done.results["images"]] + [one["files"] for one in done.results["unusable"]]
    assert sorted(files) == [list(range(0, 12, 2)), list(range(1, 12, 2))]
    assert done.results["images"][0]["files"] == list(range(0, 12, 2))


def test_nothing_to_score_ends_with_one_and_says_so(run, tmp_path):
    (tmp_path / "in").mkdir()
    done = run("ddad_cxr", tmp_path / "in")
    assert done.code == 1 and "no image could be scored" in done.errors and done.results["images"] == []
    done = run("ddad_cxr", tmp_path / "absent")
    assert done.code == 1 and "the input folder does not exist" in done.errors
    done = run("ddad_cxr", save(tmp_path / "in", film(0, Modality="MR")))
    assert done.code == 1 and len(done.results["unusable"]) == 1


def test_headers_that_cannot_be_decoded_do_not_stop_the_others(run, tmp_path):
    folder = save(tmp_path / "in", film(0), film(1), film(2, Modality=["CR", "DX"]), film(3, StudyDescription="lung"))
    content = (folder / "003.dcm").read_bytes()
    place = content.index(b"\x08\x00\x30\x10LO")
    (folder / "003.dcm").write_bytes(content[: place + 4] + b"QQ" + content[place + 6 :])
    content = (folder / "001.dcm").read_bytes()
    place = content.index(b"\x08\x00\x18\x00UI") + 8
    (folder / "001.dcm").write_bytes(content[: place + 5] + b"\\" + content[place + 6 :])
    done = run("ddad_cxr", folder)
    assert done.code == 0 and [row["files"] for row in done.results["images"]] == [[0]]
    reasons = {one["files"][0]: one["reason"] for one in done.results["unusable"]}
    assert list(reasons) == [1, 2, 3] and all("header" in reason for reason in reasons.values()), reasons


def test_damaged_headers_never_stop_a_run(run, tmp_path):
    rng = np.random.default_rng(0)
    folder = save(tmp_path / "in", film(0), *(film(1) for _ in range(60)))
    for path in sorted(folder.iterdir())[1:]:
        content = bytearray(path.read_bytes())
        for place in rng.integers(132, len(content) - 64 * 64, 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
    done = run("ddad_cxr", folder)
    assert done.code == 0 and [0] in [row["files"] for row in done.results["images"]]
    files = [n for row in done.results["images"] + done.results["unusable"] for n in row["files"]]
    assert sorted(files) == list(range(61))


def test_an_output_that_holds_something_or_lies_in_the_input_is_refused(run, trained, tmp_path, capfd):
    from monai_ddad.deploy.__main__ import main

    folder = save(tmp_path / "in", film(0))
    done = run("ddad_cxr", folder)
    arguments = ["-i", str(folder), "-m", str(BUNDLES / "ddad_cxr"), "-o"]
    assert main([*arguments, str(done.output)]) == 1 and "not empty" in capfd.readouterr().err
    assert main([*arguments, str(folder / "out")]) == 1 and "in it" in capfd.readouterr().err


@pytest.mark.parametrize("rules", ["[1]", "[]", "{}", "", '{"selections": []}', '{"selections": [{"name": "a"}]}'])
def test_rules_of_another_form_are_refused(rules, run, tmp_path):
    (tmp_path / "rules.json").write_text(rules)
    done = run("ddad_cxr", save(tmp_path / "in", film(0)), "--rules", str(tmp_path / "rules.json"))
    assert done.code == 1 and "rules must have the form" in done.errors


@pytest.mark.parametrize("options", [("--percentile", "100"), ("--alpha", "2"), ("--rules", "absent.json")])
def test_wrong_settings_are_refused(run, tmp_path, options):
    done = run("ddad_cxr", save(tmp_path / "in", film(0)), *options)
    assert done.code == 1 and done.errors.count("monai_ddad.deploy: ") == 1 and "Traceback" not in done.errors
    assert not list(done.output.glob("*.dcm"))


def test_an_output_that_is_a_file_or_full_leaves_nothing_half_written(trained, tmp_path, monkeypatch, capfd):
    from monai_ddad.deploy.__main__ import main

    models = str(trained("ddad_cxr") / "models")
    folder = save(tmp_path / "in", film(0))
    (tmp_path / "file").touch()
    arguments = ["-i", str(folder), "-m", str(BUNDLES / "ddad_cxr"), "--models_dir", models, "-o"]
    assert main([*arguments, str(tmp_path / "file")]) == 1
    assert "cannot be read or written" in capfd.readouterr().err

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    assert main([*arguments, str(tmp_path / "full")]) == 1
    assert "No space left on device" in capfd.readouterr().err
    assert list((tmp_path / "full").iterdir()) == []


def test_without_a_model_it_says_to_train(tmp_path, capfd):
    from monai_ddad.deploy.__main__ import main

    folder = save(tmp_path / "in", film(0))
    arguments = ["-i", str(folder), "-o", str(tmp_path / "out"), "-m", str(BUNDLES / "ddad_cxr")]
    assert main([*arguments, "--models_dir", str(tmp_path)]) == 1
    assert "train" in capfd.readouterr().err
    assert main([*arguments[:5], str(tmp_path)]) == 1
    assert "holds 0 bundles" in capfd.readouterr().err


def test_wrong_usage_ends_with_two(tmp_path):
    found = subprocess.run([sys.executable, "-m", "monai_ddad.deploy"], capture_output=True, text=True, env=os.environ)
    assert found.returncode == 2 and "required" in found.stderr


def test_pictures_get_an_overlay_and_a_row(run, tmp_path):
    from PIL import Image

    folder = save(tmp_path / "in", film(0))
    for name in ("a.png", "b.jpg"):
        Image.fromarray(picture(3)).save(folder / name)
    nib.Nifti1Image(np.dstack([picture(4)] * 5), np.eye(4)).to_filename(folder / "c.nii.gz")
    done = run("ddad_cxr", folder)
    assert [row["files"] for row in done.results["images"]] == [[0], [1], [2]]
    (volume,) = done.results["unusable"]
    assert volume["files"] == [3] and "a volume" in volume["reason"]
    with Image.open(done.output / "000001_overlay.png") as overlay:
        assert np.asarray(overlay).std() > 0 and overlay.width > 64
