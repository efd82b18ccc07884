"""Slices of one volume are one item; films and pictures are one each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_ddad.data import list_images, load_datalist
from monai_ddad.io.files import LeftOut, find_files
from monai_ddad.io.series import group_series, read_headers

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def slice_at(z: float, series: str = "1.2.3", modality: str = "MR", orientation: list[float] = AXIAL) -> dict:
    return {
        "Modality": modality,
        "SeriesInstanceUID": series,
        "ImagePositionPatient": [0, 0, z],
        "ImageOrientationPatient": orientation,
    }


def names(groups: list[str | list[str]]) -> list[str | list[str]]:
    return [Path(g).name if isinstance(g, str) else [Path(path).name for path in g] for g in groups]


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
def test_slices_of_a_series_are_one_group_in_the_place_of_the_first(write_dicom, modality):
    paths = [
        write_dicom(f"{name}.dcm", **slice_at(z, s, modality))
        for name, z, s in [("a", 5, "1.2"), ("b", 1, "1.3"), ("c", 2, "1.2"), ("d", 3, "1.4"), ("e", 4, "1.3")]
    ]
    assert names(group_series(paths)) == [["a.dcm", "c.dcm"], ["b.dcm", "e.dcm"], "d.dcm"]
    assert names(group_series(paths[::-1])) == [["e.dcm", "b.dcm"], "d.dcm", ["c.dcm", "a.dcm"]]


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "OP", "XC"])
def test_films_of_a_series_stay_single(write_dicom, modality):
    paths = [write_dicom(f"{i}.dcm", **slice_at(i, modality=modality)) for i in range(3)]
    assert names(group_series(paths)) == ["0.dcm", "1.dcm", "2.dcm"]


def test_orientations_and_sizes_in_a_series_are_groups_of_their_own(write_dicom):
    localiser = [
        write_dicom(f"{i}.dcm", **slice_at(0, orientation=o)) for i, o in enumerate([AXIAL, CORONAL, SAGITTAL])
    ]
    assert names(group_series(localiser)) == ["0.dcm", "1.dcm", "2.dcm"]
    oblique = [1, -0.0, 0.0004, 0, 1, 0]  # as good as axial
    more = [write_dicom("3.dcm", **slice_at(1)), write_dicom("4.dcm", **slice_at(2, orientation=oblique))]
    large = write_dicom("5.dcm", np.zeros((20, 12), np.uint8), **slice_at(3))
    assert names(group_series([*localiser, *more, large])) == [["0.dcm", "3.dcm", "4.dcm"], "1.dcm", "2.dcm", "5.dcm"]


def test_files_without_position_or_with_an_unreadable_header_stay_single(write_dicom, tmp_path):
    placed = [write_dicom(f"p{i}.dcm", **slice_at(i)) for i in range(2)]
    missing = [write_dicom(f"m{i}.dcm", Modality="MR", SeriesInstanceUID="1.2.3") for i in range(2)]
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    (tmp_path / "empty.dcm").touch()
    broken = [tmp_path / "broken.dcm", tmp_path / "empty.dcm", tmp_path / "absent.dcm"]
    expected = [["p0.dcm", "p1.dcm"], "m0.dcm", "m1.dcm", "broken.dcm", "empty.dcm", "absent.dcm"]
    assert names(group_series([*placed, *missing, *broken])) == expected


def test_no_header_value_is_logged_or_warned_of(write_dicom, caplog, recwarn):
    path = write_dicom("a.dcm", **slice_at(0) | {"SeriesInstanceUID": "canary.7"}, PatientID="canary")
    caplog.clear()
    recwarn.clear()
    group_series([path, path])
    assert read_headers([path], ["PatientID"])[0].PatientID == "canary"
    assert "canary" not in caplog.text + "".join(str(w.message) for w in recwarn)


def test_folders_are_listed_as_a_hospital_has_them(write_dicom, write_image, tmp_path):
    for i in range(3):
        write_dicom(f"set/normal/patient/IM{i}", **slice_at(i))
        write_dicom(f"set/test/abnormal/1.2.{i}", Modality="CR")
    write_dicom("set/normal/DICOMDIR")
    write_dicom("set/unlabeled/film.DCM")
    write_dicom("set/unlabeled/slice.ima")
    write_image("set/unlabeled/picture.png")
    for name in ("normal/notes.txt", "normal/short", "unlabeled/volume.nii.gz", "unlabeled/volume.nii"):
        (tmp_path / "set" / name).touch()
    lists = load_datalist(tmp_path / "set")
    assert [(names([item["image"]])[0], item["label"]) for item in lists["training"]] == [
        (["IM0", "IM1", "IM2"], 0),
        ("film.DCM", None),
        ("picture.png", None),
        ("slice.ima", None),
        ("volume.nii", None),
        ("volume.nii.gz", None),
    ]
    assert names([item["image"] for item in lists["test"]]) == ["1.2.0", "1.2.1", "1.2.2"]
    assert len(load_datalist(tmp_path / "set", unlabeled_size=1)["training"]) == 2


@pytest.mark.real_data
def test_a_real_series_is_one_item(real_data):
    items = list_images(real_data / "dicom" / "mr_brain_series")
    assert len(items) == 1 and len(items[0]["image"]) == 32
    assert items[0]["image"] == sorted(items[0]["image"])
    films = list_images(real_data / "dicom" / "chest_cr")
    assert len(films) == 3 and all(isinstance(item["image"], str) for item in films)
    odd = [item["image"] for item in list_images(real_data / "dicom" / "odd")]
    files = [file for image in odd for file in ([image] if isinstance(image, str) else image)]
    assert sorted(files) == sorted(map(str, find_files(real_data / "dicom" / "odd", LeftOut()))) and len(files) > 40
