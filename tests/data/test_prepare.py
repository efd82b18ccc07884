"""Downloads of each benchmark become the authors' structure."""

from __future__ import annotations

import csv
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from monai_ddad.data import load_datalist
from monai_ddad.data.datalist import GROUPS
from monai_ddad.data.prepare import prepare
from monai_ddad.data.prepare.benchmarks import BENCHMARKS, plan_jobs
from monai_ddad.data.prepare.convert import authors_pixels
from monai_ddad.io.errors import DataError
from monai_ddad.transforms import ImageReadError


def write_split(path: Path, *groups: list[str]) -> Path:
    """Write a data.json of the five groups in their order."""
    a, b, c, d, e = groups
    path.write_text(json.dumps({"train": {"0": a, "unlabeled": {"0": b, "1": c}}, "test": {"0": d, "1": e}}))
    return path


@pytest.fixture
def films(write_dicom, tmp_path) -> tuple[Path, Path]:
    """A download of films, one of them in another folder, and the split of five of its six."""
    for name in "abcde":
        write_dicom(f"rsna/stage_2_train_images/{name}.dcm")
    write_dicom("rsna/stage_2_test_images/unused.dcm")
    (tmp_path / "rsna" / "stage_2_train_labels.csv").touch()
    return tmp_path / "rsna", write_split(tmp_path / "split.json", *([f"{name}.png"] for name in "abcde"))


@pytest.mark.parametrize(
    "benchmark, folder, suffix",
    [
        ("rsna", "stage_2_train_images", ".dcm"),
        ("vindr_cxr", "train", ".dicom"),
        ("cxad", "anywhere/below", ".x.dcm"),
    ],
)
def test_films_of_each_layout_become_png_files_of_512(write_dicom, tmp_path, benchmark, folder, suffix):
    for name in "abcde":
        write_dicom(f"in/{folder}/{name}{suffix}")
    split = write_split(tmp_path / "split.json", ["a.png"], ["b.png"], ["c.png"], ["d.png"], ["e.png"])
    result = prepare(benchmark, tmp_path / "in", tmp_path / "out", split, photometry="authors")
    assert result["images"] == 5 and set(result["counts"].values()) == {1}
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == json.loads(split.read_text())
    lists = load_datalist(tmp_path / "out")
    assert [Path(item["image"]).name for item in lists["training"]] == ["a.png", "b.png", "c.png"]
    for item in lists["training"] + lists["test"]:
        with Image.open(item["image"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (512, 512))


@pytest.mark.parametrize(
    "benchmark, files",
    [
        (
            "brain_tumor",
            [
                "Training/notumor/Tr-no_0010.jpg",
                "Testing/notumor/Te-no_0011.jpg",
                "Training/glioma/Tr-gl_0012.jpg",
                "Testing/notumor/Te-noTr_0000.jpg",
                "Testing/meningioma/Te-meTr_0001.jpg",
            ],
        ),
        (
            "lag",
            [
                "non_glaucoma/image/0001.jpg",
                "non_glaucoma/image/0002.jpg",
                "suspicious_glaucoma/image/0003.jpg",
                "non_glaucoma/image/0004.jpg",
                "suspicious_glaucoma/image/0005.jpg",
            ],
        ),
    ],
)
def test_pictures_are_copied_byte_for_byte(write_image, tmp_path, benchmark, files):
    for seed, file in enumerate(files):
        original = write_image(f"in/{file}", seed=seed)
        if benchmark == "lag":
            attention = Path(str(original).replace("image", "attention_map"))
            attention.parent.mkdir(parents=True, exist_ok=True)
            attention.write_bytes(b"a map, no patient")
    names = [Path(file).name for file in files]
    result = prepare(benchmark, tmp_path / "in", tmp_path / "out", write_split(tmp_path / "s", *([n] for n in names)))
    assert result["images"] == 5 and result["unreadable"] == 0
    for file, name in zip(files, names):
        assert (tmp_path / "out" / "images" / name).read_bytes() == (tmp_path / "in" / file).read_bytes()


def test_without_a_split_cxad_takes_its_groups_from_its_folders(write_dicom, write_image, tmp_path):
    for name in ("normal/1.2.3", "normal/doe/IM1.dcm", "normal/poe/IM1.dcm", "unlabeled/abnormal/b.dcm"):
        write_dicom(f"in/{name}")
    write_image("in/test/abnormal/c.png")
    prepare("cxad", tmp_path / "in", tmp_path / "out", photometry="dicom")
    lists = json.loads((tmp_path / "out" / "data.json").read_text())
    assert lists["train"]["0"] == ["normal_1.2.3.png", "normal_doe_IM1.png", "normal_poe_IM1.png"]
    assert lists["train"]["unlabeled"] == {"0": [], "1": ["unlabeled_abnormal_b.png"]}
    assert lists["test"] == {"0": [], "1": ["test_abnormal_c.png"]}
    assert len(list((tmp_path / "out" / "images").iterdir())) == 5


@pytest.mark.parametrize(
    "pixels, photometric",
    [
        (np.array([[0, 7, 4095, 100]] * 4, np.uint16), "MONOCHROME2"),
        (np.array([[3, 7, 4095, 100]] * 4, np.uint16), "MONOCHROME1"),
        (np.array([[-1000, 0, 500, 30]] * 4, np.int16), "MONOCHROME2"),
        (np.array([[3, 7, 200, 100]] * 4, np.uint8), "MONOCHROME1"),
        (np.array([[3, 7, 200, 100]] * 4, np.uint8), "MONOCHROME2"),
    ],
)
def test_the_authors_photometry_is_that_of_a_plain_loop(write_dicom, pixels, photometric):
    header = {"PhotometricInterpretation": photometric, "RescaleSlope": 2, "RescaleIntercept": 5}
    path = write_dicom("a.dcm", np.tile(pixels, (2, 2)), **header)
    row = [int(value) for value in pixels[0]]
    if photometric == "MONOCHROME1":
        row = [max(row) - value for value in row]
    if pixels.dtype != np.uint8:
        row = [int((value - min(row)) / (max(row) - min(row)) * 255) for value in row]
    result = authors_pixels(path)
    assert result.dtype == np.uint8 and result.tolist() == [row * 2] * 8


def test_a_constant_film_is_black_in_the_authors_photometry(write_dicom):
    assert authors_pixels(write_dicom("a.dcm", np.full((8, 8), 300, np.uint16))).max() == 0


def test_a_stream_that_is_larger_than_the_header_says_is_refused_before_it_is_decoded(write_dicom, monkeypatch):
    Image.new("L", (2000, 2000)).save(stream := BytesIO(), "JPEG")
    film = pydicom.dcmread(write_dicom("a.dcm"))
    film.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    film.PixelData = encapsulate([stream.getvalue()])
    film["PixelData"].is_undefined_length = True
    film.save_as(film.filename)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageReadError, match="another size than the header claims"):
        authors_pixels(film.filename)


def test_files_that_are_no_film_are_refused_without_their_names(write_dicom, write_image, tmp_path):
    bomb = write_dicom("bomb.dcm", NumberOfFrames=10**7)
    frames = write_dicom("frames.dcm", np.zeros((16, 12), np.uint8), Rows=4, NumberOfFrames=4)
    (tmp_path / "cut.dcm").write_bytes(write_dicom("whole.dcm").read_bytes()[:-50])
    for path in (bomb, frames, tmp_path / "cut.dcm", write_image("doe.png"), tmp_path / "absent.dcm"):
        with pytest.raises(ImageReadError) as caught:
            authors_pixels(path)
        assert str(tmp_path) not in str(caught.value) and path.stem not in str(caught.value)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_eight_bit_film_of_512_keeps_its_values_but_for_inversion(write_dicom, tmp_path, photometric):
    pixels = np.random.default_rng(1).integers(0, 256, (512, 512), dtype=np.uint8)
    write_dicom("in/a.dcm", pixels, PhotometricInterpretation=photometric)
    prepare("rsna", tmp_path / "in", tmp_path / "out", write_split(tmp_path / "s", ["a.png"], [], [], [], []))
    expected = 255 - pixels if photometric == "MONOCHROME1" else pixels
    with Image.open(tmp_path / "out" / "images" / "a.png") as image:
        assert np.array_equal(np.asarray(image), expected)


def test_films_are_resized_with_pils_bilinear_filter(write_dicom, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (700, 600), dtype=np.uint8)
    write_dicom("in/a.dcm", pixels)
    prepare("rsna", tmp_path / "in", tmp_path / "out", write_split(tmp_path / "s", ["a.png"], [], [], [], []))
    expected = Image.fromarray(pixels).resize((512, 512), Image.Resampling.BILINEAR)
    with Image.open(tmp_path / "out" / "images" / "a.png") as image:
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("file_names", [False, True])
def test_bad_originals_are_listed_and_the_next_call_makes_only_them(films, write_dicom, tmp_path, file_names):
    originals, split = films
    (originals / "stage_2_train_images" / "b.dcm").write_bytes(b"canary")
    (originals / "stage_2_train_images" / "c.dcm").unlink()
    write_dicom("rsna/copy/d.dcm")
    out = tmp_path / "out"
    result = prepare("rsna", originals, out, split, "authors", file_names)
    assert (result["images"], result["unreadable"]) == (2, 3)
    rows = list(csv.reader((out / "unreadable.csv").open()))
    assert rows[0] == ["group", "position", "reason", *(["name"] if file_names else [])]
    assert [row[:2] for row in rows[1:]] == [
        ["unlabeled normal", "0"],
        ["unlabeled abnormal", "0"],
        ["test normal", "0"],
    ]
    assert rows[2][2] == "not among the originals" and rows[3][2].startswith("2 originals have this name")
    assert [row[3:] for row in rows[1:]] == [[f"{name}.png"] if file_names else [] for name in "bcd"]
    assert "canary" not in (out / "unreadable.csv").read_text()
    assert len(load_datalist(out)["training"]) == 1

    before = {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    for name in "bc":
        write_dicom(f"rsna/stage_2_train_images/{name}.dcm")
    (originals / "copy" / "d.dcm").unlink()
    result = prepare("rsna", originals, out, split, "authors", file_names)
    assert (result["images"], result["kept"], result["unreadable"]) == (5, 2, 0)
    assert not (out / "unreadable.csv").exists() and len(load_datalist(out)["training"]) == 3
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}.items()


def test_counts_other_than_the_papers_are_reported_with_both(films, tmp_path, caplog):
    prepare("rsna", films[0], tmp_path / "out", films[1], "authors")
    for group, count in zip(GROUPS, (3851, 4000, 5012, 1000, 1000)):
        assert f"{group}: 1 images, the paper's benchmark has {count}." in caplog.text
    caplog.clear()
    prepare("cxad", films[0], tmp_path / "cxad", films[1], "authors")
    assert not caplog.records


def test_counts_of_the_benchmarks_add_up_to_the_papers():
    totals = {"rsna": 14863, "vindr_cxr": 15000, "brain_tumor": 3200, "lag": 4854}
    assert {name: sum(known.counts) for name, known in BENCHMARKS.items() if known.counts} == totals


def test_images_of_another_photometry_are_not_mixed_in(films, tmp_path):
    prepare("rsna", films[0], tmp_path / "out", films[1], "authors")
    for benchmark, photometry in (("rsna", "dicom"), ("vindr_cxr", "authors")):
        with pytest.raises(DataError, match="another benchmark or photometry"):
            prepare(benchmark, films[0], tmp_path / "out", films[1], photometry)


def test_the_output_may_not_be_among_the_originals(films):
    for output in (films[0], films[0] / "out"):
        with pytest.raises(DataError, match="outside"):
            prepare("rsna", films[0], output, films[1], "authors")
    assert not (films[0] / "out").exists()


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "sub/a.png", "..", "", "sub\\a.png"])
def test_a_split_cannot_name_files_elsewhere(films, tmp_path, name):
    with pytest.raises(DataError, match="no plain file names"):
        plan_jobs("rsna", films[0], write_split(tmp_path / "s", [name], [], [], [], []))


def test_missing_and_wrong_splits_and_downloads_are_refused_with_what_is_needed(films, tmp_path):
    originals, split = films
    with pytest.raises(DataError, match="rsna needs the lists.*--split data.json"):
        plan_jobs("rsna", originals)
    with pytest.raises(DataError, match="cannot be read"):
        plan_jobs("rsna", originals, tmp_path / "absent.json")
    with pytest.raises(DataError, match="1 names of images occur more than once"):
        plan_jobs("rsna", originals, write_split(tmp_path / "s", ["a.png"], ["a.png"], [], [], []))
    with pytest.raises(DataError, match="does not exist.*stage_2_train_images"):
        plan_jobs("rsna", tmp_path / "absent", split)
    with pytest.raises(DataError, match="none of the 5 images.*notumor/"):
        plan_jobs("brain_tumor", originals, split)
    with pytest.raises(DataError, match="must be one of rsna, vindr_cxr"):
        plan_jobs("mnist", originals, split)


@pytest.mark.slow
def test_processes_give_the_same_files_as_one(films, tmp_path):
    for workers in (1, 2):
        prepare("rsna", films[0], tmp_path / str(workers), films[1], "authors", num_workers=workers)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / str(n) / "images").iterdir()} for n in (1, 2))
    assert one == two and len(one) == 5
