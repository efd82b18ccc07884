"""An archive is scored as its files are one by one, whatever happens on the way, and nothing of it leaks."""

from __future__ import annotations

import errno
import hashlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_ddad import __main__ as cli
from monai_ddad.data import list_images
from monai_ddad.decision.finding import Result, Unreadable
from monai_ddad.io.errors import DataError
from monai_ddad.serving import archive
from monai_ddad.serving.archive import listing as listing_module
from monai_ddad.serving.archive import reading, score_archive
from monai_ddad.serving.archive.listing import Listing, list_archive
from monai_ddad.serving.archive.parts import Parts, make_part
from monai_ddad.serving.archive.reading import (
    KILLED,
    PREFETCH,
    ReaderKilledError,
    notice_kill,
    read_carefully,
    read_chunks,
)
from monai_ddad.serving.predictor import Predictor
from tests.processes import start, start_ranks
from tests.small_models import BUNDLES

CHEST = BUNDLES / "ddad_cxr"
CHUNK = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Put few files in a chunk, so that few files are many chunks."""
    monkeypatch.setattr(listing_module, "CHUNK", CHUNK)


@pytest.fixture
def models(trained) -> Path:
    return trained("ddad_cxr") / "models"


def write_picture(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 256, random.integers(20, 60, 2)).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)


def write_slice(path: Path, modality: str, series: str = "1.2", z: float = 0, **elements: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.Modality, image.SeriesInstanceUID = modality, series
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    image.Rows = image.Columns = 40
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.PixelSpacing = [1, 1]
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    noise = np.random.default_rng(int(10 * z)).integers(0, 40, (40, 40))
    image.PixelData = np.where(x**2 + y**2 < 0.7, 120 + noise, 0).astype(np.uint8).tobytes()
    image.save_as(path, enforce_file_format=True)


@pytest.fixture
def films(tmp_path) -> Path:
    """A folder of a patient's name with 30 pictures, of which 3 cannot be read, and 2 DICOM files, of which 1 can."""
    folder = tmp_path / "canary_doe"
    for i in range(30):
        write_picture(folder / f"{i % 3}" / f"canary_{i:02}.png", i)
    (folder / "0" / "canary_03.png").write_bytes(b"")
    (folder / "1" / "canary_04.png").write_bytes(b"canary")
    whole = (folder / "2" / "canary_05.png").read_bytes()
    (folder / "2" / "canary_05.png").write_bytes(whole[: len(whole) // 2])
    write_slice(folder / "film", "CR", PatientName="canary^x")
    write_slice(folder / "scan", "MR", PatientName="canary^y")
    return folder


UNREADABLE = [1, 11, 21, 31]  # positions of the four: after ten pictures each of 0/, 1/ and 2/ come film and scan


def run(films: Path, models: Path, output: Path, **options: object) -> tuple[int, int] | None:
    settings = {"device": "cpu", "num_workers": 0} | options
    return score_archive([films], output, CHEST, models, **settings)


def tables(output: Path) -> tuple[bytes, bytes]:
    return output.read_bytes(), output.with_name(f"{output.stem}_unreadable.parquet").read_bytes()


@pytest.fixture
def undisturbed(films, models, tmp_path) -> tuple[bytes, bytes]:
    assert run(films, models, tmp_path / "undisturbed.parquet") == (28, 4)
    return tables(tmp_path / "undisturbed.parquet")


def test_rows_are_those_of_a_plain_loop_over_single_files(films, models, tmp_path):
    assert run(films, models, tmp_path / "scores.parquet", num_workers=2) == (28, 4)
    rows = {row["position"]: row for row in pq.read_table(tmp_path / "scores.parquet").to_pylist()}
    failed = pq.read_table(tmp_path / "scores_unreadable.parquet").to_pylist()
    predictor = Predictor(CHEST, models, torch.device("cpu"))
    paths = sorted(path for path in films.rglob("*") if path.is_file())
    reasons = {}
    for position, path in enumerate(paths):
        (found,) = predictor.find([path], 1)
        if isinstance(found, Unreadable):
            reasons[position] = found.reason
            continue
        result, row = found.result, rows[position]
        assert {name: row[name] for name in result.scores} == pytest.approx(result.scores, rel=1e-5, abs=1e-5)
        assert (row["p_value"], row["percentile"]) == pytest.approx((result.p_value, result.percentile))
        expected = (result.flagged, result.out_of_protocol, result.slices)
        assert (row["flagged"], row["out_of_protocol"], row["slices"]) == expected
    assert {row["position"]: row["reason"] for row in failed} == reasons
    assert list(reasons) == UNREADABLE and sorted([*rows, *reasons]) == list(range(32))
    assert "path" not in rows[0] and "path" not in failed[0]


@pytest.mark.parametrize("after", [0, 3])
def test_an_interrupted_run_goes_on_and_scores_nothing_twice(films, models, tmp_path, monkeypatch, undisturbed, after):
    output, written = tmp_path / "scores.parquet", []
    write = Parts.write

    def fail(parts: Parts, number: int, table: object) -> None:
        if len(written) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(number)
        write(parts, number, table)

    monkeypatch.setattr(Parts, "write", fail)
    with pytest.raises(OSError, match="No space"):
        run(films, models, output)
    assert len(written) == after and not output.exists()
    after = -1  # never again
    assert run(films, models, output) == (28, 4)
    assert sorted(written) == list(range(8))
    assert tables(output) == undisturbed
    assert sorted(path.name for path in tmp_path.glob("*scores*")) == ["scores.parquet", "scores_unreadable.parquet"]


def run_in_small_chunks(*arguments: Path, **options: object) -> None:
    """Do the same in another process, where nothing is patched."""
    listing_module.CHUNK = CHUNK
    run(*arguments, **options)


def parts_of(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.parts").glob("0*.part")))


def test_a_run_killed_again_and_again_ends_as_one_undisturbed(films, models, tmp_path, undisturbed):
    output = tmp_path / "scores.parquet"
    for chunks in (1, 2, 5):
        process = start(partial(run_in_small_chunks, films, models, output, num_workers=1))
        deadline = time.monotonic() + 60
        while parts_of(output) < chunks and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert parts_of(output) >= chunks
    temporary = [tmp_path / f".{name}.parquet.0123abcd.tmp" for name in ("scores", "scores_unreadable")]
    for path in temporary:  # as a kill leaves them while the tables are written
        path.write_bytes(b"half")
    before = parts_of(output)
    assert before < 8 and run(films, models, output) == (28, 4)
    assert tables(output) == undisturbed
    assert not any(path.exists() for path in temporary)


def test_processes_share_the_work_and_another_number_of_them_goes_on(films, models, tmp_path, undisturbed):
    output = tmp_path / "scores.parquet"

    def score(rank: int) -> None:
        run_in_small_chunks(films, models, output, num_workers=1)

    processes = start_ranks(score, 3)
    deadline = time.monotonic() + 60
    while parts_of(output) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    assert 2 <= parts_of(output) < 8 and not output.exists()
    for process in start_ranks(score, 2):
        process.join()
        assert process.exitcode == 0
    assert tables(output) == undisturbed


def test_processes_end_where_the_first_one_finds_nothing_to_score(models, tmp_path):
    (tmp_path / "empty").mkdir()

    def fail(rank: int) -> None:
        with pytest.raises(DataError if rank == 0 else SystemExit):
            run(tmp_path / "empty", models, tmp_path / "scores.parquet")

    ranks = start_ranks(fail, 2)
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]


@pytest.mark.slow
def test_torchrun_equals_one_process(films, models, tmp_path):
    outputs = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    rest = ["-m", "monai_ddad", "score", str(films), "--bundle", str(CHEST), "--models", str(models)]
    launchers = [[], ["-m", "torch.distributed.run", "--nproc_per_node=2"]]
    for output, launcher in zip(outputs, launchers):
        command = [sys.executable, *launcher, *rest, "--output", str(output), "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=BUNDLES.parent)
        assert done.returncode == 0 and "28 images scored, 4 cannot be read." in done.stderr, done.stderr
        assert "canary" not in done.stdout + done.stderr
    assert tables(outputs[0]) == tables(outputs[1])


def test_another_listing_model_or_setting_is_refused_but_for_overwrite(films, models, tmp_path, monkeypatch):
    output = tmp_path / "scores.parquet"
    monkeypatch.setattr(archive, "_score", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))

    def begin(**options: object) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(films, models, output, **options)

    begin()
    begin()  # the same may go on
    for options, named in [
        ({"alpha": 0.2}, "in: alpha"),
        ({"score": "rec", "precision": "bfloat16"}, "in: precision, score"),
    ]:
        with pytest.raises(DataError, match=named):
            run(films, models, output, **options)
    begin(alpha=0.2, overwrite=True)
    write_picture(films / "0" / "canary_99.png", 99)
    with pytest.raises(DataError, match=r"in: chunks, items, listing\.") as caught:
        run(films, models, output, alpha=0.2)
    assert "canary" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    (films / "0" / "canary_99.png").unlink()
    (films / "0" / "canary_00.png").rename(films / "0" / "canary_01.png")
    with pytest.raises(DataError, match=r"in: listing\."):
        run(films, models, output, alpha=0.2)


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_the_users_is_left_alone(films, models, tmp_path, link):
    own = tmp_path / "own" if link else tmp_path / "scores.parquet.parts"
    (own / "deep").mkdir(parents=True)
    for name in ("mine.txt", "deep/mine.txt"):
        (own / name).write_text("mine")
    if link:
        (tmp_path / "scores.parquet.parts").symlink_to(own)
    for overwrite in (False, True):
        with pytest.raises(DataError, match="another --output"):
            run(films, models, tmp_path / "scores.parquet", overwrite=overwrite)
    assert sorted(path.name for path in own.rglob("*")) == ["deep", "mine.txt", "mine.txt"]


def test_overwrite_drops_the_chunks_of_another_plan(tmp_path):
    table = make_part(0, 1, ["rec"], {}, {})
    first = Parts(tmp_path / "a.parquet", {"chunks": 2, "alpha": 0.1})
    with first.lock():
        assert first.begin(overwrite=False) == [0, 1]
        first.write(0, table)
        assert first.begin(overwrite=False) == [1]
        second = Parts(tmp_path / "a.parquet", {"chunks": 2, "alpha": 0.2})
        assert second.begin(overwrite=True) == [0, 1]
        (second.folder / "plan.json").unlink()  # as where the folder was being emptied
        second.write(0, table)
        assert second.begin(overwrite=False) == [0, 1]


def test_a_finished_output_stays_unless_it_is_to_be_overwritten(films, models, tmp_path, undisturbed):
    output = tmp_path / "scores.parquet"
    output.write_bytes(b"precious")
    with pytest.raises(DataError, match="exists already"):
        run(films, models, output)
    assert output.read_bytes() == b"precious"
    assert run(films, models, output, overwrite=True) == (28, 4)
    assert tables(output) == undisturbed


@pytest.mark.parametrize("removed", [0, 1, 9])
def test_a_run_killed_once_the_table_is_there_ends_well_when_repeated(
    films, models, tmp_path, monkeypatch, undisturbed, removed
):
    output, unlink, left = tmp_path / "scores.parquet", Path.unlink, [removed]

    def stop(path: Path, **options: bool) -> None:
        if path.parent.name == "scores.parquet.parts":
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            run(films, models, output)
    assert tables(output) == undisturbed
    for changed in ({"alpha": 0.3}, {"file_names": True}):
        with pytest.raises(DataError, match="exists already"):
            run(films, models, output, **changed)
    assert run(films, models, output) == (28, 4)
    assert tables(output) == undisturbed and not output.with_name("scores.parquet.parts").exists()


def test_two_calls_do_not_write_one_output(films, models, tmp_path):
    output, parent = tmp_path / "scores.parquet", os.getpid()

    def refused() -> None:
        with pytest.raises(DataError, match=f"process {parent} on this host has been writing here"):
            run(films, models, output)

    with Parts(output, {}).lock():
        other = start(refused)
        other.join()
    assert other.exitcode == 0 and not list(tmp_path.glob("scores*"))


def cut_off(content: bytes) -> bytes:
    return content[:-9]


def flip_a_bit(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 4]) + content[201:]


def of_another_plan(content: bytes) -> bytes:
    return hashlib.sha256(content[32:]).digest() + content[32:]


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, of_another_plan])
def test_a_damaged_part_is_named_and_done_again(films, models, tmp_path, monkeypatch, undisturbed, damage):
    output, write = tmp_path / "scores.parquet", Parts.write

    def spoil(parts: Parts, number: int, table: object) -> None:
        write(parts, number, table)
        if number == 2:
            path = parts.folder / f"{number:08}.part"
            path.write_bytes(damage(path.read_bytes()))

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", spoil)
        with pytest.raises(DataError, match="damaged"):
            run(films, models, output)
    assert not output.exists() and parts_of(output) == 7
    assert run(films, models, output) == (28, 4)
    assert tables(output) == undisturbed


@pytest.mark.parametrize("file_names", [False, True])
def test_paths_and_header_values_stay_out_unless_asked(films, models, tmp_path, monkeypatch, capfd, caplog, file_names):
    output = tmp_path / "out" / "scores.parquet"
    found: list[bytes] = []
    join = Parts.join

    def look(parts: Parts, *arguments: object) -> None:
        found.extend(path.read_bytes() for path in parts.folder.iterdir())
        join(parts, *arguments)

    monkeypatch.setattr(Parts, "join", look)
    arguments = ["score", str(films), "--output", str(output), "--bundle", str(CHEST), "--models", str(models)]
    with caplog.at_level(logging.DEBUG):
        assert cli.main([*arguments, "--device", "cpu", *["--file_names"] * file_names]) == 0
    assert len(found) == 10
    printed = capfd.readouterr()
    text = printed.out + printed.err + caplog.text
    assert "28 images scored, 4 cannot be read." in text and "images: 100%" in text
    assert "canary" not in text
    assert not any(b"canary" in content for content in found)
    written = {path.name: pq.read_table(path) for path in output.parent.iterdir()}
    assert sorted(written) == ["scores.parquet", "scores_unreadable.parquet"]
    if file_names:
        paths = sorted(str(path) for path in films.rglob("*") if path.is_file())
        for table in written.values():
            assert table["path"].to_pylist() == [paths[position] for position in table["position"].to_pylist()]
    else:
        assert not any("canary" in str(table.to_pylist()) for table in written.values())
        assert not any(b"canary" in path.read_bytes() for path in output.parent.iterdir())


def test_nothing_readable_is_exit_code_1_and_still_a_table(models, tmp_path, capsys):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"canary")
    arguments = ["score", str(tmp_path), "--output", str(tmp_path / "a.parquet"), "--bundle", str(CHEST)]
    assert cli.main([*arguments, "--models", str(models), "--num_workers", "0"]) == 1
    assert "none of the 6 images can be read" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "a_unreadable.parquet")["position"].to_pylist() == list(range(6))
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"--output": "a.csv"}, "ends in .parquet"),
        ({"--bundle": "."}, "configs/inference.json"),
        ({"--models": "absent"}, "train first"),
        ({"--alpha": "2"}, "alpha must be a rate"),
        ({"--score": "best"}, "score must be"),
        ({"--device": "abacus"}, "device must be"),
        ({"--output": "file/a.parquet"}, "cannot be read or written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(films, models, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    settings = {"--output": "a.parquet", "--bundle": str(CHEST), "--models": str(models), "--device": "cpu"} | options
    assert cli.main(["score", str(films), *(word for pair in settings.items() for word in pair)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "canary" not in said


def test_scores_that_are_not_finite_are_no_scores():
    results = {
        n: Result({"rec": value}, "rec", "rec", None, None, None, "", 0) for n, value in enumerate([0.5, np.nan])
    }
    table = make_part(0, 2, ["rec"], results, {})
    assert table["rec"].to_pylist() == [0.5, None]
    assert table["reason"].to_pylist() == [None, "its scores are not finite"]


def test_uncalibrated_scores_have_null_decisions():
    results = {0: Result({"rec": 0.25}, "rec", "rec", None, None, None, "odd", 3)}
    table = make_part(7, 2, ["rec"], results, {1: "empty"})
    assert table.to_pylist() == [
        {"position": 7, "rec": 0.25, "p_value": None, "percentile": None, "flagged": None}
        | {"out_of_protocol": "odd", "slices": 3, "reason": None},
        dict.fromkeys(table.column_names) | {"position": 8, "reason": "empty"},
    ]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder with two series, of which one is cut by the other and by a subfolder, films, pictures and links."""
    folder = tmp_path / "mixed"
    for z, (name, series) in enumerate([("a1", "1.2"), ("b", "1.3"), ("c9", "1.2"), ("d.dcm", "1.3"), ("z", "1.2")]):
        write_slice(folder / name, "MR", series, z)
    for z, name in enumerate(("k.dcm", "m.dcm")):
        write_slice(folder / "b2" / name, "CT", "1.4", z)
        write_slice(folder / "c" / "films" / name, "CR", "1.5", z)
    for name in ("B.PNG", "b/x.png", "c/.hidden.png", ".cache/a.png", "c.png", "c/notes.txt", "é ü.png", "v.nii.gz"):
        path = folder / ("b1" + name[1:] if name == "b/x.png" else name)
        write_picture(path.with_suffix(".png"), 0)
        path.with_suffix(".png").rename(path)
    (folder / "link.png").symlink_to(folder / "c.png")
    (folder / "linked").symlink_to(folder / "c")
    (folder / "gone.png").symlink_to(folder / "nothing")
    return folder


def listed(listing: Listing) -> list[str | list[str]]:
    items = [item for number in range(len(listing.chunks)) for item in listing.chunk(number)]
    return [item[0] if len(item) == 1 else item for item in items]


def test_order_and_series_are_those_of_list_images(mixed):
    expected = [item["image"] for item in list_images(mixed)]
    assert listed(list_archive([mixed], volumes=True)) == expected
    assert sorted(len(image) for image in expected if isinstance(image, list)) == [2, 2, 3]
    flat = listed(list_archive([mixed], volumes=False))
    assert flat == [str(path) for path in sorted(map(Path, flat))] and len(flat) == len(expected) + 4


def test_sources_are_joined_in_the_order_given_and_lists_keep_theirs(mixed, tmp_path):
    (tmp_path / "list.txt").write_text("mixed/z\r\nmixed/é ü.png\n\nmixed/a1\nmixed/b2/k.dcm\n", encoding="utf-8")
    sources = [mixed / "b2" / "m.dcm", tmp_path / "list.txt", mixed / "c"]
    names = ["z", "é ü.png", "a1", "b2/k.dcm", "c/films/k.dcm", "c/films/m.dcm"]
    flat = [str(mixed / name) for name in ["b2/m.dcm", *names]]
    assert listed(list_archive(sources, volumes=False)) == flat
    joined = [flat[0], [flat[1], flat[3]], *flat[2:3], *flat[4:]]
    assert listed(list_archive(sources, volumes=True)) == joined


def test_of_a_set_in_the_authors_structure_the_masks_are_no_images(tmp_path):
    for name in ("images/a.png", "masks/a.png"):
        write_picture(tmp_path / name, 0)
    (tmp_path / "data.json").write_text("{}")
    assert listed(list_archive([tmp_path], volumes=False)) == [str(tmp_path / "images" / "a.png")]


def test_names_that_are_no_text_are_taken(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.png")
    write_picture(tmp_path / "a.png", 0)
    os.rename(tmp_path / "a.png", path)
    assert listed(list_archive([tmp_path], volumes=False)) == [os.fsdecode(path)]


def test_chunks_hold_a_bounded_number_of_files():
    items = [[f"{i}.png"] for i in range(5)] + [[f"{i}/{k}.dcm" for k in range(3)] for i in range(4)]
    items += [["a.nii"], ["b.nii.gz"], ["c.png"]]
    listing = Listing.of(items)
    sizes = [[len(item) for item in listing.chunk(number)] for number in range(len(listing.chunks))]
    assert sizes == [[1, 1, 1, 1], [1, 3], [3, 3], [3, 1], [1], [1]]
    assert listing.starts == [0, 4, 6, 8, 10, 11] and len(listing) == 12


def test_digests_tell_paths_order_and_grouping_apart():
    lists = [[["a"], ["b"]], [["b"], ["a"]], [["a", "b"]], [["ab"]], [["a"], ["b"], ["c"]]]
    assert len({Listing.of(items).digest() for items in lists}) == len(lists)
    assert Listing.of(lists[0]).digest() == Listing.of(lists[0]).digest()


@pytest.mark.parametrize("content", [b"", b"a.png\xff\n"])
def test_lists_without_images_or_text_are_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list_archive([tmp_path / "list.txt"], volumes=False)
    assert str(tmp_path) not in str(caught.value)


def test_absent_sources_are_named_by_number(mixed, tmp_path):
    with pytest.raises(DataError, match="of 3 sources, those that do not exist are number 2, 3"):
        list_archive([mixed, tmp_path / "doe", tmp_path / "roe.txt"], volumes=False)


def read_square(item: dict[str, object]) -> dict[str, object]:
    """Return an image made of the number that the path is, which is 13 for an odd and 66 for a fatal one."""
    number = int(Path(str(item["image"])).stem)
    if number == 13:
        raise KeyError("canary")
    if number == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"image": torch.full((1, 8, 8), number / 127.5 - 1)}


def numbered(numbers: Sequence[int]) -> Listing:
    return Listing.of([f"{number}.png"] for number in numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_few_chunks_are_in_memory_at_a_time(monkeypatch, workers):
    asked: list[int] = []
    chunk = Listing.chunk
    monkeypatch.setattr(Listing, "chunk", lambda self, number: asked.append(number) or chunk(self, number))
    found = read_chunks(numbered(range(14 * CHUNK)), range(14), lambda item: {"image": torch.zeros(1, 8, 8)}, workers)
    for taken, read in enumerate(found, start=1):
        time.sleep(0.02)  # as if scoring were slower than reading
        assert len(asked) - taken <= PREFETCH * workers
        assert len(read.images) == CHUNK
    assert sorted(asked) == list(range(14))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_any_kind_costs_one_item(workers):
    chunks = {read.number: read for read in read_chunks(numbered(range(10, 18)), [0, 1], read_square, workers)}
    assert chunks[0].errors == {3: "the image cannot be prepared (KeyError)"}
    assert chunks[0].positions == [0, 1, 2] and chunks[0].images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert chunks[1].errors == {} and chunks[1].images[:, 0, 0, 0].tolist() == [14, 15, 16, 17]


def test_a_chunk_that_kills_its_reader_is_read_item_by_item():
    read = read_carefully(numbered([1, 2, 3, 4, 13, 66, 7, 66]), 1, read_square)
    assert read.errors == {0: "the image cannot be prepared (KeyError)", 1: KILLED, 3: KILLED}
    assert (read.number, read.positions, read.slices, read.images[:, 0, 0, 0].tolist()) == (1, [2], [None], [7])


def test_a_reader_that_dies_while_another_thing_is_done_interrupts_it_not():
    chunks = read_chunks(numbered([*range(10, 30)]), range(5), read_square, 1)
    next(chunks)
    (reader,) = multiprocessing.active_children()
    os.kill(reader.pid, signal.SIGKILL)
    reader.join()
    time.sleep(0.2)  # in which PyTorch's handler would raise
    with pytest.raises(ReaderKilledError), notice_kill():
        list(chunks)


def test_images_that_kill_their_readers_are_unreadable_and_stop_nothing(films, models, tmp_path, monkeypatch, caplog):
    prepare = reading._Chunks._prepare

    def kill(chunks: reading._Chunks, item: dict[str, object]) -> object:
        if Path(str(item["image"])).stem in ("canary_03", "canary_20"):
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(chunks, item)

    monkeypatch.setattr(reading._Chunks, "_prepare", kill)
    output = tmp_path / "scores.parquet"
    assert run(films, models, output, num_workers=2) == (27, 5)
    reasons = pq.read_table(output.with_name("scores_unreadable.parquet"))["reason"].to_pylist()
    assert reasons.count(KILLED) == 2 and "was killed" in caplog.text


@pytest.mark.slow
def test_a_series_in_a_folder_is_one_volume(trained, tmp_path):
    for z in range(6):
        write_slice(tmp_path / "in" / f"{z}.dcm", "MR", "1.2", z)
    models = trained("ddad_brain") / "models"
    settings = {"device": "cpu", "num_workers": 1, "file_names": True}
    counts = score_archive([tmp_path / "in"], tmp_path / "a.parquet", BUNDLES / "ddad_brain", models, **settings)
    assert counts == (1, 0)
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    predictor = Predictor(BUNDLES / "ddad_brain", models, torch.device("cpu"))
    (found,) = predictor.find([sorted((tmp_path / "in").iterdir())])
    result = found.result
    assert row["path"] == str(tmp_path / "in" / "0.dcm") and row["slices"] == result.slices > 0
    assert {name: row[name] for name in result.scores} == pytest.approx(result.scores)
