"""Data sets become a checked MONAI datalist."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from monai_ddad.data import load_datalist
from monai_ddad.data.build import build_datalist, check_datalist, find_unreadable, write_datalist
from monai_ddad.io.errors import DataError

HEADER = "image,split,label,group\n"


@pytest.fixture
def write_csv(tmp_path):
    def write(text: str, encoding: str = "utf-8") -> Path:
        (tmp_path / "list.csv").write_text(text, encoding=encoding)
        return tmp_path / "list.csv"

    return write


def brief(lists: dict) -> dict:
    return {name: [(Path(item["image"]).name, item["label"]) for item in items] for name, items in lists.items()}


def test_a_csv_file_becomes_the_lists_with_known_normals_first(write_csv, tmp_path):
    path = write_csv(HEADER + "u.png,unlabeled,1,p1\nn.png,Normal,,p2\nt.png,test,0,p3\ns.png,test,1,p3\n")
    lists = build_datalist(path)
    assert brief(lists) == {"training": [("n.png", 0), ("u.png", None)], "test": [("t.png", 0), ("s.png", 1)]}
    assert lists["test"][0]["image"] == str(tmp_path / "t.png")


def test_groups_are_kept_as_numbers_that_do_not_tell_whose_they_are(write_csv, write_image, tmp_path):
    for name in "abcd":
        write_image(f"{name}.png")
    path = write_csv(HEADER + "a.png,normal,,CANARY1\nb.png,unlabeled,,CANARY2\nc.png,normal,,CANARY1\nd.png,test,0,\n")
    write_datalist(build_datalist(path), tmp_path / "out.json")
    assert "CANARY" not in (tmp_path / "out.json").read_text()
    loaded = load_datalist(tmp_path / "out.json")
    assert [item.get("group") for item in loaded["training"] + loaded["test"]] == [0, 0, 1, None]


def test_groups_named_by_a_json_file_become_numbers_too(write_image, tmp_path):
    for name in "abc":
        write_image(f"{name}.png")
    items = [{"image": f"{name}.png", "label": 0, "group": group} for name, group in zip("abc", ("C1", "C2", "C1"))]
    (tmp_path / "list.json").write_text(json.dumps({"training": items, "test": []}))
    write_datalist(build_datalist(tmp_path / "list.json"), tmp_path / "out.json")
    assert [item["group"] for item in json.loads((tmp_path / "out.json").read_text())["training"]] == [0, 1, 0]


def test_patients_of_dicom_headers_are_groups(write_dicom, tmp_path):
    for name, patient in (("normal/a.dcm", "CANARY"), ("normal/b.dcm", "x"), ("unlabeled/c.dcm", "CANARY")):
        write_dicom(f"data/{name}", PatientID=patient)
    lists = build_datalist(tmp_path / "data")
    assert [item.get("group") for item in lists["training"]] == [0, 1, 0]


def test_one_patient_for_all_is_none(write_dicom, tmp_path):
    for name in ("normal/a.dcm", "normal/b.dcm", "unlabeled/c.dcm"):
        write_dicom(f"data/{name}", PatientID="ANONYMOUS")
    assert not any("group" in item for item in build_datalist(tmp_path / "data")["training"])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_file_of_a_spreadsheet_may_name_its_columns_otherwise(write_csv, delimiter):
    text = delimiter.join(["Pfad", "Teil", "Befund"]) + "\r\n" + delimiter.join(["a, b.png", "test", "1"]) + "\r\n"
    path = write_csv(text, "utf-8-sig")
    columns = {"image": "Pfad", "split": "Teil", "label": "Befund"}
    assert brief(build_datalist(path, columns))["test"] == [("a, b.png", 1)]
    with pytest.raises(DataError, match="no column image and no column split"):
        build_datalist(path)


def test_all_wrong_rows_of_a_csv_file_are_named_in_one_message(write_csv):
    rows = ["a.png,normal,1,", "b.png,test,,", "c.png,test,2,", "d.png,train,0,", ",normal,,", "secret.png,normal,0,x"]
    with pytest.raises(DataError) as caught:
        build_datalist(write_csv(HEADER + "\n".join(rows) + "\ne.png,test,0,x\n"))
    message = str(caught.value)
    assert "row 1: a known normal image has a label other than 0" in message
    assert all(f"row {row}: a test image needs the label" in message for row in (2, 3))
    assert "row 4: the split is none of" in message and "row 5: no image" in message and "row 6" not in message
    assert "1 groups have images both in training and test" in message and "png" not in message


@pytest.mark.parametrize("content", [b"image,split\n\xff\xfe\xff.png,normal\n", b"", b"\n\n"])
def test_damaged_csv_files_are_refused(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match="CSV file") as caught:
        build_datalist(tmp_path / "list.csv")
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_in_a_csv_file_is_one_series(write_csv, write_dicom):
    for z in range(3):
        slices = {"Modality": "MR", "SeriesInstanceUID": "1.2", "ImagePositionPatient": [0, 0, z]}
        write_dicom(f"brain/{z}.dcm", **slices)
        write_dicom(f"films/{z}.dcm")
    lists = build_datalist(write_csv(HEADER + "brain,normal,0,\n"))
    assert [Path(path).name for path in lists["training"][0]["image"]] == ["0.dcm", "1.dcm", "2.dcm"]
    with pytest.raises(DataError, match="row 1: the folder holds 3 images, expected one DICOM series"):
        build_datalist(write_csv(HEADER + "films,normal,0,\n"))


def test_what_is_written_is_loaded_again_and_moves_with_its_images(tmp_path, write_image):
    images = [str(write_image(f"a/data set/{name}.png")) for name in "nuts"]
    labels = (0, None, 0, 1)
    items = [{"image": image, "label": label} for image, label in zip(images, labels)]
    items[1]["image"] = [images[1], images[2]]
    lists = {"training": items[:2], "test": items[2:]}
    write_datalist(lists, tmp_path / "a" / "out" / "datalist.json")
    assert "tmp" not in (tmp_path / "a" / "out" / "datalist.json").read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    loaded = load_datalist(tmp_path / "b" / "out" / "datalist.json")
    assert [item["label"] for item in loaded["training"] + loaded["test"]] == list(labels)
    flat = [loaded["training"][0]["image"], *loaded["training"][1]["image"], loaded["test"][1]["image"]]
    assert all(Path(path).is_file() for path in flat)
    check_datalist(loaded)


def test_paths_hold_where_the_output_folder_is_a_link(tmp_path, write_image):
    image = write_image("data/a.png")
    (tmp_path / "deep" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    write_datalist({"training": [{"image": str(image), "label": 0}], "test": []}, tmp_path / "link" / "list.json")
    assert Path(load_datalist(tmp_path / "link" / "list.json")["training"][0]["image"]).samefile(image)


def test_missing_and_repeated_files_are_errors_by_position(write_image, tmp_path):
    image = str(write_image("doe.png"))
    (tmp_path / "link.png").symlink_to(image)
    training = [{"image": image, "label": 0}, {"image": [image, str(tmp_path / "gone.dcm")], "label": None}]
    with pytest.raises(DataError) as caught:
        check_datalist({"training": training, "test": [{"image": str(tmp_path / "link.png"), "label": 0}]})
    message = str(caught.value)
    assert "training item 1: no such file" in message
    assert "test item 0 is the same file as training item 0" in message
    assert "doe" not in message and str(tmp_path) not in message
    with pytest.raises(DataError, match="holds no image"):
        check_datalist({"training": [], "test": []})


def test_counts_are_logged_and_common_names_and_patients_counted(write_dicom, caplog):
    ids = {"normal": ["canary1", "canary2"], "test": ["canary2", "canary3"]}
    paths = {side: [str(write_dicom(f"{side}/{i}.dcm", PatientID=p)) for i, p in enumerate(ids[side])] for side in ids}
    training = [{"image": path, "label": 0} for path in paths["normal"]]
    with caplog.at_level(logging.INFO):
        check_datalist({"training": training, "test": [{"image": path, "label": 1} for path in paths["test"]]})
    assert "2 file names are both in training and test" in caplog.text
    assert "1 patients (PatientID) are both in training and test" in caplog.text
    assert "canary" not in caplog.text
    assert "training   normal            2" in caplog.text and "test       abnormal          2" in caplog.text


def test_unreadable_images_are_found_by_position(write_image, tmp_path):
    (tmp_path / "empty.png").touch()
    images = [str(write_image("a.png")), str(tmp_path / "empty.png"), str(write_image("b.png"))]
    assert list(find_unreadable([{"image": image, "label": 0} for image in images], num_workers=2)) == [1]
