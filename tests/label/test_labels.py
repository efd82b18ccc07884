"""Empty labels in every form that a client sends."""

from __future__ import annotations

import gzip
import io
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import nibabel as nib
import nrrd
from PIL import Image

from monai_ddad.data.empty_label import is_empty_label
from monai_ddad.label.datastores import FolderStore, normal_images
from monai_ddad.transforms import ImageReadError

WRITERS = {
    "a.nii.gz": lambda values, path: nib.Nifti1Image(values, np.eye(4)).to_filename(path),
    "a.nii": lambda values, path: nib.Nifti1Image(values, np.eye(4)).to_filename(path),
    "a.nrrd": lambda values, path: nrrd.write(str(path), values),
    "a.bin": lambda values, path: values.tofile(path),
    "a.png": lambda values, path: Image.fromarray(values[..., 0]).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_label_is_empty_if_it_marks_nothing(name, tmp_path):
    values = np.zeros((6, 5, 1), dtype=np.uint8)
    WRITERS[name](values, tmp_path / name)
    assert is_empty_label(tmp_path / name)
    values[3, 2] = 1
    WRITERS[name](values, tmp_path / name)
    assert not is_empty_label(tmp_path / name)


PACKED = gzip.compress(bytes(10**7), 1)


def nrrd_file(extra: str = "", content: bytes = bytes(4), sizes: str = "2 2 1", encoding: str = "raw") -> bytes:
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\n{extra}\n"
    return head.encode() + content


def nifti_file(shape: tuple[int, ...], content: bytes) -> bytes:
    head = bytearray(nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    return bytes(head) + content


def picture(mode: str, colour: tuple[int, ...] | int, palette: list[int] | None = None, dot: Any = None) -> bytes:
    image = Image.new(mode, (20, 20), colour)
    if palette is not None:
        image.putpalette(palette)
    if dot is not None:
        image.putpixel((3, 3), dot)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


HEAD = b"\x89PNG\r\n\x1a\n"


def deep_colours() -> bytes:
    """A PNG with 16-bit colours, of which PIL would take the upper halves alone."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress((b"\0" + b"\0\x09" * 3 * 20) * 20)
    return HEAD + part(b"IHDR", struct.pack(">2I5B", 20, 20, 16, 2, 0, 0, 0)) + part(b"IDAT", rows) + part(b"IEND", b"")


WRONG = {
    "another file's voxels": ("a.nrrd", lambda: nrrd_file("data file: {other}\n", b"")),
    "a pipe's voxels": ("a.nrrd", lambda: nrrd_file("datafile: {pipe}\n", b"")),
    "skipped lines": ("a.nrrd", lambda: nrrd_file("line skip: 20000000\n")),
    "skipped bytes": ("a.nrrd", lambda: nrrd_file("byteskip: -1\n")),
    "no end of the header": ("a.nrrd", lambda: b"NRRD0004\n" + b"x: " + b" " * 10**6),
    "more than its header says": ("a.nrrd", lambda: nrrd_file("", bytes(5))),
    "less than its header says": ("a.nrrd", lambda: nrrd_file("", bytes(3))),
    "packed too large": ("a.nrrd", lambda: nrrd_file("", PACKED, "60000 60000 1", "gzip")),
    "packed more than it says": ("a.nrrd", lambda: nrrd_file("", PACKED, "9 9 1", "gz")),
    "no side": ("a.nrrd", lambda: nrrd_file("", b"", "0 2 1")),
    "negative sides": ("a.nrrd", lambda: nrrd_file("", bytes(4), "-2 -2 1")),
    "NIfTI without a side": ("a.nii", lambda: nifti_file((0, 4, 4), bytes(16))),
    "NIfTI cut short": ("a.nii", lambda: nifti_file((4, 4, 4), bytes(63))),
    "NIfTI packed too large": ("a.nii.gz", lambda: gzip.compress(nifti_file((1000, 1000, 500), bytes(10**6)))),
    "no voxels": ("a.bin", lambda: b""),
    "deep colours": ("a.png", deep_colours),
} | {f"no label {name}": (name, lambda: b"no label") for name in ("a.nii.gz", "a.nii", "a.nrrd", "a.png", "a.json")}


@pytest.mark.parametrize("name, make", WRONG.values(), ids=WRONG)
def test_a_wrong_label_is_refused_at_once(name, make, tmp_path):
    (tmp_path / "other").write_bytes(bytes(4))
    os.mkfifo(tmp_path / "pipe")
    content = make().replace(b"{other}", os.fsencode(tmp_path / "other"))
    (tmp_path / name).write_bytes(content.replace(b"{pipe}", os.fsencode(tmp_path / "pipe")))
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(ImageReadError) as caught:
        is_empty_label(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert time.perf_counter() - began < 5 and str(tmp_path) not in str(caught.value)


def test_what_is_not_there_is_no_label(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ImageReadError):
            is_empty_label(path)


@pytest.mark.parametrize(
    "content, empty",
    [
        (picture("P", 0, [0, 0, 0, 0, 0, 1]), True),
        (picture("P", 0, [0, 0, 0, 0, 0, 1], 1), False),
        (picture("P", 1, [0, 0, 0, 0, 0, 0]), False),
        (picture("P", 0, [0, 0, 0, 0, 0, 0], 1), False),
        (picture("P", 0, [255, 255, 255]), False),
        (picture("RGB", (0, 0, 0)), True),
        (picture("RGB", (0, 0, 0), dot=(0, 0, 1)), False),
        (picture("RGBA", (0, 0, 0, 255)), True),
        (picture("RGBA", (0, 0, 0, 0)), True),
        (picture("RGBA", (0, 0, 0, 0), dot=(0, 0, 0, 255)), False),
        (picture("I;16", 0, dot=1), False),
        (picture("1", 0), True),
        (picture("1", 0, dot=1), False),
    ],
    ids=map(str, range(13)),
)
def test_pictures_are_empty_by_their_numbers(content, empty, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    assert is_empty_label(tmp_path / "a.png") is empty


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "float64"])
def test_nrrd_labels_of_every_kind(encoding, dtype, tmp_path):
    values = np.zeros((6, 5, 2), dtype=dtype)
    for mark in (0, 1):
        values[5, 4, 1] = mark
        nrrd.write(str(tmp_path / "a.nrrd"), values, {"encoding": encoding, "a note": "x:=y"}, compression_level=1)
        assert is_empty_label(tmp_path / "a.nrrd") is not bool(mark)


def test_scaled_values_of_a_volume_count(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, 1.0, -1.0)
    (tmp_path / "a.nii").write_bytes(content)
    assert is_empty_label(tmp_path / "a.nii")


@pytest.fixture
def pile(tmp_path):
    """A folder of three images, and an empty label beside it."""
    (tmp_path / "studies").mkdir()
    for number in range(3):
        Image.new("L", (20, 20), 50 * number).save(tmp_path / f"studies/{number}.png")
    Image.new("L", (20, 20)).save(tmp_path / "empty.png")
    return tmp_path / "studies"


def test_two_servers_of_one_folder_keep_the_labels_of_both(pile):
    first, second = FolderStore(str(pile)), FolderStore(str(pile))
    first.save_label("0", str(pile.parent / "empty.png"), "final", {})
    second.save_label("1", str(pile.parent / "empty.png"), "final", {})
    assert sorted(normal_images(second)) == sorted(normal_images(FolderStore(str(pile)))) == ["0", "1"]


def test_labels_that_many_send_at_once_to_two_servers_are_all_kept(pile):
    names = [str(number) for number in range(40)]
    for name in names:
        Image.new("L", (20, 20), int(name)).save(pile / f"{name}.png")
    stores = [FolderStore(str(pile), auto_reload=True) for _ in range(2)]
    try:
        with ThreadPoolExecutor(6) as pool:
            jobs = []
            for place, name in enumerate(names):
                jobs.append(
                    pool.submit(stores[place % 2].save_label, name, str(pile.parent / "empty.png"), "final", {})
                )
                others = [pool.submit(store.refresh) for store in stores]  # as for any change in the folder
        assert [job.result() for job in jobs] == names and not any(other.exception() for other in others)
        for store in (*stores, FolderStore(str(pile))):
            store.refresh()
            assert sorted(normal_images(store)) == sorted(names)
    finally:
        for store in stores:
            store._observer.stop()


def test_what_gets_its_name_when_it_is_whole_is_noticed(pile):
    first, second = (FolderStore(str(pile), auto_reload=True) for _ in range(2))
    try:
        (pile.parent / "empty.png").rename(pile / ".new.part")
        (pile / ".new.part").rename(pile / "new.png")
        first.save_label("0", str(pile / "new.png"), "final", {})
        limit = time.monotonic() + 20
        while not ("new" in second.list_images() and normal_images(second)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert "new" in second.list_images() and normal_images(second) == ["0"]
    finally:
        first._observer.stop()
        second._observer.stop()


def test_a_label_of_a_file_whose_name_is_not_utf_8_is_kept(pile):
    with open(os.fsencode(pile) + b"/caf\xe9.png", "wb") as file:
        Image.new("L", (20, 20), 9).save(file, format="PNG")
    store = FolderStore(str(pile))
    for image in ("0", "caf%E9"):
        assert store.save_label(image, str(pile.parent / "empty.png"), "final", {}) == image
    again = FolderStore(str(pile))
    assert sorted(normal_images(again)) == ["0", "caf%E9"]
    info = again.get_image_info("caf%E9")
    assert info["name"] == "caf%E9.png" and info["path"].endswith("caf\\udce9.png")
    with zipfile.ZipFile(again.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist())[:2] == ["image/0.png", "image/caf\\udce9.png"]


def test_an_image_that_is_replaced_has_none_of_the_labels_of_the_earlier_one(pile):
    store = FolderStore(str(pile))
    store.save_label("0", str(pile.parent / "empty.png"), "final", {})
    Image.new("L", (20, 20), 77).save(pile.parent / "other.png")
    store.add_image("0", str(pile.parent / "other.png"), {})
    for one in (store, FolderStore(str(pile))):
        one.refresh()
        assert one.get_labeled_images() == [] and not list((pile / "labels").glob("*/*.png"))


def test_notes_of_one_server_leave_the_labels_of_another(pile):
    first, second = FolderStore(str(pile)), FolderStore(str(pile))
    first.save_label("0", str(pile.parent / "empty.png"), "final", {})
    second.update_image_info("1", {"note": 1})
    second.save_label("1", str(pile.parent / "empty.png"), "final", {})
    first.update_label_info("1", "final", {"note": 2})
    for store in (first, second, FolderStore(str(pile))):
        store.refresh()
        assert sorted(normal_images(store)) == ["0", "1"] and store.get_image_info("1")["note"] == 1
        assert store.get_label_info("1", "final")["note"] == 2


def test_a_server_that_is_killed_before_a_label_is_in_place_makes_no_image_normal(pile):
    store = FolderStore(str(pile))
    marked = Image.new("L", (20, 20))
    marked.putpixel((3, 3), 1)
    marked.save(pile.parent / "marked.png")
    store.save_label("0", str(pile.parent / "marked.png"), "final", {})
    before = (pile / "labels" / "final" / "0.png").read_bytes()
    store.save_label("0", str(pile.parent / "empty.png"), "final", {})
    (pile / "labels" / "final" / "0.png").write_bytes(before)  # as a kill between list and file leaves it
    assert normal_images(FolderStore(str(pile))) == []


def test_what_a_killed_server_left_is_removed(pile):
    (pile / "labels" / "final").mkdir(parents=True)
    left = [pile / ".old.png.0123abcd.tmp", pile / "labels" / "final" / ".z.png.0123abcd.tmp"]
    for path in left:
        path.write_bytes(b"half")
    FolderStore(str(pile))
    assert not any(path.exists() for path in left)
