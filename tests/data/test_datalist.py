"""Every layout of a data set becomes the same MONAI datalist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_ddad.data import list_images, load_datalist
from monai_ddad.io.errors import DataError


def names(items: list[dict], label: int | None) -> list[str]:
    return [Path(item["image"]).name for item in items if item["label"] == label]


@pytest.fixture
def authors(tmp_path) -> Path:
    """A folder with the authors' data.json: 4 normal, a pool of 10 normal and 8 abnormal, 2 + 3 to test."""
    pool = {"0": [f"un{i}.png" for i in range(10)], "1": [f"ua{i}.png" for i in range(8)]}
    lists = {
        "train": {"0": [f"n{i}.png" for i in range(4)], "unlabeled": pool},
        "test": {"0": ["t0.png", "t1.png"], "1": ["t2.png", "t3.png", "t4.png"]},
    }
    (tmp_path / "data.json").write_text(json.dumps(lists))
    return tmp_path


def test_authors_layout_lists_files_below_images_in_their_order(authors):
    lists = load_datalist(authors)
    assert lists["training"][0] == {"image": str(authors / "images" / "n0.png"), "label": 0}
    assert names(lists["training"], 0) == ["n0.png", "n1.png", "n2.png", "n3.png"]
    assert names(lists["training"], None) == [f"un{i}.png" for i in range(10)] + [f"ua{i}.png" for i in range(8)]
    assert names(lists["test"], 0) == ["t0.png", "t1.png"]
    assert names(lists["test"], 1) == ["t2.png", "t3.png", "t4.png"]
    assert len(lists["training"]) == 22 and len(lists["test"]) == 5


@pytest.mark.parametrize(
    "size, rate, normal, abnormal",
    [(10, 0.6, 4, 6), (5, 0.5, 3, 2), (7, 0.99 / 7, 7, 0), (10, 0.0, 10, 0), (8, 1.0, 0, 8), (0, 0.5, 0, 0)],
)
def test_the_pool_is_a_prefix_of_each_list_with_the_abnormal_share_truncated(authors, size, rate, normal, abnormal):
    assert abnormal == int(size * rate)
    pool = names(load_datalist(authors, size, rate)["training"], None)
    assert pool == [f"un{i}.png" for i in range(normal)] + [f"ua{i}.png" for i in range(abnormal)]


def test_without_a_rate_the_pool_is_taken_as_it_comes(authors):
    assert names(load_datalist(authors, 3)["training"], None) == ["un0.png", "un1.png", "un2.png"]


def test_a_short_pool_is_reported_with_its_counts(authors, caplog):
    pool = names(load_datalist(authors, 20, 0.6)["training"], None)
    assert len(pool) == 8 + 8  # 8 normal images were asked for, 12 abnormal ones of which there are 8
    assert "8 abnormal images, 12 were asked for" in caplog.text
    assert "10 normal images, the first 8 are used" in caplog.text
    load_datalist(authors, 30)
    assert "18 images, 30 were asked for" in caplog.text


@pytest.mark.parametrize(
    "size, rate, message",
    [(-1, 0.5, "unlabeled_size must not be negative, got -1"), (4, 1.5, "abnormal_rate must be in"), (4, -0.1, "rate")],
)
def test_impossible_numbers_are_refused(authors, size, rate, message):
    with pytest.raises(DataError, match=message):
        load_datalist(authors, size, rate)


def test_a_list_of_files_is_no_data_set(authors):
    with pytest.raises(DataError, match="one folder or JSON file"):
        load_datalist([str(authors)])


def test_hidden_files_are_no_images(tmp_path):
    for name in ("a.png", "._a.png", ".thumbs/b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(list_images(tmp_path), None) == ["a.png", "c.png"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    assert list_images("~") == list_images(["~/a.png"]) == [{"image": str(tmp_path / "a.png"), "label": None}]


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes("Müller.png".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8") as caught:
        list_images(tmp_path / "list.txt")
    assert "ller" not in str(caught.value)


def test_a_long_enough_pool_is_not_reported(authors, caplog):
    load_datalist(authors, 18, 8 / 18)
    load_datalist(authors, 18)
    assert not caplog.records


@pytest.fixture
def folders(tmp_path) -> Path:
    """Folders of (empty) files, one of them in a subfolder, beside files that are no images."""
    for name in ("normal/b.png", "normal/a/c.JPG", "normal/notes.txt", "unlabeled/y.tif", "unlabeled/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("test/normal/p.jpeg", "test/abnormal/q.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_folders_layout_sorts_the_images_of_each_folder(folders, caplog):
    lists = load_datalist(folders)
    assert lists["training"] == [
        {"image": str(folders / "normal" / "a" / "c.JPG"), "label": 0},
        {"image": str(folders / "normal" / "b.png"), "label": 0},
        {"image": str(folders / "unlabeled" / "x.png"), "label": None},
        {"image": str(folders / "unlabeled" / "y.tif"), "label": None},
    ]
    assert names(lists["test"], 0) == ["p.jpeg"] and names(lists["test"], 1) == ["q.bmp"]
    assert names(load_datalist(folders, 1, 0.6)["training"], None) == ["x.png"]
    load_datalist(folders, 3)
    assert "2 images, 3 were asked for" in caplog.text


def test_folders_layout_may_lack_all_but_the_normal_images(tmp_path):
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "a.png").touch()
    lists = load_datalist(tmp_path)
    assert names(lists["training"], 0) == ["a.png"] and len(lists["training"]) == 1 and lists["test"] == []


@pytest.mark.parametrize("given", [".", "datalist.json"])
def test_monai_datalist_has_paths_relative_to_the_file(tmp_path, given):
    lists = {
        "training": [{"image": "u.png"}, {"image": "sub/n.png", "label": 0}, {"image": "v.png", "label": None}],
        "test": [{"image": "t.png", "label": 1}, {"image": str(tmp_path / "s.png"), "label": 0}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    assert load_datalist(tmp_path / given) == {
        "training": [
            {"image": str(tmp_path / "sub" / "n.png"), "label": 0},
            {"image": str(tmp_path / "u.png"), "label": None},
            {"image": str(tmp_path / "v.png"), "label": None},
        ],
        "test": [
            {"image": str(tmp_path / "t.png"), "label": 1},
            {"image": str(tmp_path / "s.png"), "label": 0},
        ],
    }
    assert names(load_datalist(tmp_path / given, unlabeled_size=1)["training"], None) == ["u.png"]


def test_a_series_in_a_monai_datalist_is_a_list_of_paths_relative_to_the_file(tmp_path):
    items = [{"image": ["s/1.dcm", "s/2.dcm"], "label": 0}, {"image": ["s/3.dcm"]}]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
    loaded = load_datalist(tmp_path)["training"]
    assert loaded[0]["image"] == [str(tmp_path / "s" / "1.dcm"), str(tmp_path / "s" / "2.dcm")]
    assert loaded[1] == {"image": [str(tmp_path / "s" / "3.dcm")], "label": None}


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"training": [{"image": "a.png", "label": 1}]}, r"training positions \[0\] and test positions \[\]"),
        ({"training": [{"image": "a.png", "label": "0"}]}, r"training positions \[0\]"),
        ({"test": [{"image": "a.png", "label": 0}, {"image": "b.png"}]}, r"test positions \[1\]"),
        ({"test": [{"image": "a.png", "label": 2}]}, r"test positions \[0\]"),
        ({"training": [{"label": 0}]}, "structure"),
        ({"training": ["a.png"]}, "structure"),
        ({"training": None}, "structure"),
        ({"training": [{"image": 3, "label": 0}]}, "structure"),
        ({"training": [{"image": [], "label": 0}]}, "structure"),
        ({"training": [{"image": ["a.dcm", 3], "label": 0}]}, "structure"),
        ({"training": [{"image": [["a.dcm"]], "label": 0}]}, "structure"),
        ([], "structure"),
        (7, "structure"),
    ],
)
def test_wrong_monai_datalists_are_refused(tmp_path, lists, message):
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    with pytest.raises(DataError, match=message) as caught:
        load_datalist(tmp_path)
    assert str(tmp_path) not in str(caught.value) and ".png'" not in str(caught.value)


@pytest.mark.parametrize(
    "lists",
    [
        {},
        [],
        {"train": {"0": []}},
        {"train": {"0": [], "unlabeled": []}},
        {"train": {"0": None, "unlabeled": {"0": [], "1": []}}},
        {"train": {"0": [3], "unlabeled": {"0": [], "1": []}}},
        {"train": {"0": "a.png", "unlabeled": {"0": [], "1": []}}},
        {"train": {"0": [], "unlabeled": {"0": [], "1": []}}, "test": []},
    ],
)
def test_wrong_authors_lists_are_refused_with_the_structure_expected(tmp_path, lists):
    (tmp_path / "data.json").write_text(json.dumps(lists))
    with pytest.raises(DataError, match="does not have the structure"):
        load_datalist(tmp_path)


@pytest.mark.parametrize("name", ["data.json", "datalist.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00\x80", b'{"training": '])
def test_a_broken_json_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="json file cannot be read") as caught:
        load_datalist(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_missing_empty_and_unknown_folders_are_refused_with_the_layouts_expected(tmp_path):
    with pytest.raises(DataError, match="does not exist.*data.json beside images"):
        load_datalist(tmp_path / "patient_doe")
    with pytest.raises(DataError, match="none of the known layouts.*normal/, unlabeled/"):
        load_datalist(tmp_path)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.png").touch()
    with pytest.raises(DataError, match="none of the known layouts"):
        load_datalist(tmp_path)


def test_list_images_of_a_folder_is_sorted_and_includes_subfolders(folders):
    items = list_images(folders / "normal")
    assert [Path(item["image"]).name for item in items] == ["c.JPG", "b.png"]
    assert all(item["label"] is None for item in items)
    assert len(list_images(folders)) == 6


def test_list_images_takes_one_file_a_list_and_a_text_file(folders):
    one = folders / "normal" / "b.png"
    assert list_images(one) == list_images([str(one)]) == [{"image": str(one), "label": None}]
    (folders / "list.txt").write_text("normal/b.png\n\nunlabeled/x.png\n")
    expected = [str(one), str(folders / "unlabeled" / "x.png")]
    assert [item["image"] for item in list_images(folders / "list.txt")] == expected
    assert [item["image"] for item in list_images(expected[::-1])] == expected[::-1]


@pytest.mark.parametrize("make", [lambda path: path / "absent", lambda path: path, lambda path: []])
def test_list_images_of_nothing_is_refused(tmp_path, make):
    with pytest.raises(DataError, match="does not exist|holds no image") as caught:
        list_images(make(tmp_path))
    assert str(tmp_path) not in str(caught.value)


def test_groups_are_numbers_or_names_and_empty_ones_are_none(tmp_path):
    groups = [3, "a", "", None]
    items = [{"image": f"{i}.png", "label": 0, "group": group} for i, group in enumerate(groups)]
    (tmp_path / "list.json").write_text(json.dumps({"training": items, "test": []}))
    assert [item.get("group") for item in load_datalist(tmp_path / "list.json")["training"]] == [3, "a", None, None]
    (tmp_path / "list.json").write_text(json.dumps({"training": [items[0] | {"group": ["a"]}], "test": []}))
    with pytest.raises(DataError, match="a group is a number or a name"):
        load_datalist(tmp_path / "list.json")
