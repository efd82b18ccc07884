"""Lists of paths are read line by line and column by column, whatever the names hold."""

from __future__ import annotations

import json
import os

import pytest

from monai_ddad.data import list_images, load_datalist
from monai_ddad.data.build import build_datalist, write_datalist
from monai_ddad.io.errors import DataError
from monai_ddad.serving.archive.listing import list_archive

BOM = b"\xef\xbb\xbf"
ODD = [  # characters at which str.splitlines ends a line, and others
    "a\u2028b.png",
    "a\u2029b.png",
    "a\x85b.png",
    "a\x0bb.png",
    "a\x0cb.png",
    "a\x1cb.png",
    "a\x1db.png",
    "a\x1eb.png",
    "\u2028.png",
    " a .png",
    "=cmd().png",
    "-a.png",
    "\ufeffa.png",
]


def listed(path) -> list[list[str]]:
    """Return what is listed for training and inference, and for an archive."""
    listing = list_archive([path], volumes=False)
    archive = [file for number in range(len(listing.chunks)) for item in listing.chunk(number) for file in item]
    return [[item["image"] for item in list_images(path)], archive]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", BOM])
def test_lines_of_a_list_end_at_line_ends_alone(tmp_path, start, end):
    (tmp_path / "list.txt").write_bytes(start + end.join(["first.png", "", *ODD, "last.png"]).encode())
    expected = [str(tmp_path / name) for name in ["first.png", *ODD, "last.png"]]
    assert listed(tmp_path / "list.txt") == [expected, expected]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"a.png\nb\0.png\n", "line 2 of the list of images cannot be a path"),
        (b"a" * 100_000, "line 1 of the list of images cannot be a path"),
        (b"a\xff.png\n", "not a text file in UTF-8"),
        ("\ufeffa.png".encode("utf-16"), "not a text file in UTF-8"),
        (b"\n \r\n", "no image"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path, content, reason):
    (tmp_path / "list.txt").write_bytes(content)
    for read in (list_images, lambda path: list_archive([path], volumes=False)):
        with pytest.raises(DataError, match=reason):
            read(tmp_path / "list.txt")


def test_a_list_of_ten_gigabytes_of_zeros_and_a_pipe_are_refused_at_once(tmp_path):
    (tmp_path / "zeros.txt").touch()
    os.truncate(tmp_path / "zeros.txt", 10 * 2**30)
    os.mkfifo(tmp_path / "pipe.txt")
    for name, reason in (("zeros.txt", "cannot be a path"), ("pipe.txt", "neither a file nor a folder")):
        for read in (list_images, lambda path: list_archive([path], volumes=False)):
            with pytest.raises(DataError, match=reason):
                read(tmp_path / name)


@pytest.mark.parametrize("start", [b"", BOM])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_names_of_a_csv_file_are_kept_as_they_are(tmp_path, start, delimiter):
    rows = [["image", "split"], *(["" + name, "normal"] for name in ODD)]
    (tmp_path / "a.csv").write_bytes(start + "\r\n".join(map(delimiter.join, rows)).encode())
    names = [item["image"] for item in build_datalist(tmp_path / "a.csv")["training"]]
    assert names == [str(tmp_path / name.strip(" ")) for name in ODD]


@pytest.mark.parametrize("name", ["a\0.png", "\udcff\0.png", "\ud800.png"])
def test_names_that_no_file_can_have_are_refused_in_every_list(tmp_path, name):
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": name, "label": 0}]}))
    with pytest.raises(DataError, match="structure"):
        load_datalist(tmp_path)
    with pytest.raises(DataError, match="no path can have"):
        list_images([name])
    lists = {"train": {"0": [name], "unlabeled": {"0": [], "1": []}}}
    (tmp_path / "data.json").write_text(json.dumps(lists))
    with pytest.raises(DataError, match="structure"):
        load_datalist(tmp_path)
    if "\ud800" not in name and "\udcff" not in name:
        (tmp_path / "a.csv").write_text(f"image,split\n{name},normal\n")
        with pytest.raises(DataError, match="row 1: the image's name holds characters that no path can have"):
            build_datalist(tmp_path / "a.csv")


@pytest.mark.parametrize("name", [*ODD, os.fsdecode(b"latin-\xfc.png"), "line\nend.png"])
def test_a_name_is_the_same_behind_a_datalist_with_a_mark(tmp_path, write_image, name):
    write_image("plain.png").rename(tmp_path / name)
    write_datalist({"training": [{"image": str(tmp_path / name), "label": 0}], "test": []}, tmp_path / "datalist.json")
    (tmp_path / "datalist.json").write_bytes(BOM + (tmp_path / "datalist.json").read_bytes())
    assert load_datalist(tmp_path)["training"] == [{"image": str(tmp_path / name), "label": 0}]


@pytest.mark.parametrize("name", ["data.json", "datalist.json"])
def test_a_deeply_nested_json_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(DataError, match="json file cannot be read"):
        load_datalist(tmp_path)


@pytest.mark.parametrize("name", ["~a.png", "~/a.png", "~root/a.png"])
def test_a_tilde_in_a_list_is_no_home_folder(tmp_path, name):
    (tmp_path / "list.txt").write_text(name)
    (tmp_path / "list.csv").write_text(f"image,split\n{name},normal\n")
    assert listed(tmp_path / "list.txt") == [[str(tmp_path / name)]] * 2
    assert build_datalist(tmp_path / "list.csv")["training"][0]["image"] == str(tmp_path / name)


@pytest.mark.parametrize("read", [list_images, load_datalist, build_datalist, lambda path: list_archive([path], False)])
def test_a_home_folder_of_nobody_does_not_exist(read):
    with pytest.raises(DataError, match="exist"):
        read("~no_such_user/images")


def test_a_file_whose_name_starts_with_a_tilde_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_images(["~a.png"]) == [{"image": "~a.png", "label": None}]
