"""Each entry of a folder is an image or is counted with its reason, in any folder and within no time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from monai_ddad.io.files import (
    LeftOut,
    NotAFileError,
    can_be_path,
    describe,
    file_hash,
    find_files,
    log_left_out,
    open_regular,
    walk,
)


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_order_is_that_of_the_sorted_paths(tmp_path):
    names = ["a.png", "a/b.png", "a/b/c.png", "a-b/c.png", "Z.png", "é.png", "a b.png", "0/1/2/3.png"]
    make(tmp_path, *(name for name in names if name != "a/b.png"))
    (tmp_path / "a" / "b.PNG").touch()
    found = find_files(tmp_path, LeftOut())
    assert found == sorted(found) and len(found) == len(names)


def test_all_but_images_is_counted_by_reason(tmp_path):
    make(tmp_path, "a.png", "notes.txt", ".b.png", ".cache/c.png", "sub/DICOMDIR", "sub/d.IMA", "empty/readme")
    (tmp_path / "film").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "bare").write_bytes(b"\x08\0\5\0CS\x0a\0ISO_IR 100")
    (tmp_path / "text").write_bytes(b"\x08\0in a text that starts with a backspace")
    left_out = LeftOut()
    assert [path.name for path in find_files(tmp_path, left_out)] == ["a.png", "bare", "film", "d.IMA"]
    assert left_out == {"hidden": 2, "no image by name or content": 4}
    assert describe(left_out) == "6 entries are left out: 2 hidden, 4 no image by name or content"


def test_links_to_files_are_images_and_other_links_are_counted(tmp_path):
    make(tmp_path, "in/a.png", "out/b.png", "out/plain")
    for name, target in (("file.png", "../out/b.png"), ("no_suffix", "../out/b.png"), ("folder.png", "../out")):
        (tmp_path / "in" / name).symlink_to(target)
    for name, target in (("self.png", "self.png"), ("gone.png", "nothing"), ("up", ".."), ("here", ".")):
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "linked").symlink_to("in")
    for root in ("in", "linked"):
        left_out = LeftOut()
        assert [path.name for path in find_files(tmp_path / root, left_out)] == ["a.png", "file.png"]
        assert left_out == {
            "linked to nothing or to themselves": 2,
            "linked to a folder": 3,
            "no image by name or content": 1,
        }


def test_a_thousand_folders_below_one_another_are_walked(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.png").touch()
        os.chdir(here)
        left_out = LeftOut()
        (found,) = find_files(tmp_path, left_out)
        assert found.name == "deep.png" and not left_out
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # pytest would recurse into it


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()
    left_out = LeftOut()

    def look() -> None:
        assert find_files(tmp_path, left_out) == []
        with pytest.raises(NotAFileError):
            open_regular(tmp_path / "pipe")
        done.set()

    threading.Thread(target=look, daemon=True).start()
    assert done.wait(10) and left_out == {"neither file nor folder": 2}


def test_entries_that_are_skipped_are_not_counted_and_groups_stand_where_their_first_image_does(tmp_path):
    make(tmp_path, "a.png", "b/c.png", "b/notes.txt", "d.png", "e.png", "own.json")
    left_out = LeftOut()
    skip = [str(tmp_path / "b"), str(tmp_path / "own.json")]
    found = walk(tmp_path, left_out, lambda paths: [[paths[0], paths[2]], [paths[1]]], skip)
    assert [[os.path.basename(path) for path in item] for item in found] == [["a.png", "e.png"], ["d.png"]]
    assert not left_out


def test_a_folder_that_vanishes_is_counted_and_not_an_error(tmp_path):
    left_out = LeftOut()
    assert find_files(tmp_path / "gone", left_out) == [] and left_out == {"not readable": 1}


@pytest.mark.parametrize(
    "left_out, level",
    [({"hidden": 1}, "INFO"), ({"hidden": 1, "linked to a folder": 1}, "WARNING"), ({}, None)],
)
def test_what_is_unusual_is_logged_as_a_warning(caplog, left_out, level):
    caplog.set_level("INFO")
    log_left_out(LeftOut(left_out))
    assert [record.levelname for record in caplog.records] == ([level] if level else [])


@pytest.mark.parametrize(
    "name, possible", [("a\u2028\n\x1c.png", True), ("\udcff", True), ("a\0", False), ("\ud800", False)]
)
def test_what_no_path_can_hold_is_known(name, possible):
    assert can_be_path(name) is possible


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**21 + 1])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert file_hash(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_hash(tmp_path / "absent")
