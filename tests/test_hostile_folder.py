"""All commands list the same entries of a hostile folder as images, and count the same as left out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monai_ddad.io.writing.tables import printable
from tests.hostile_folder import as_user, hostile_folder
from tests.small_models import BUNDLES

LIST = """
import json, sys
from monai_ddad.serving.archive.listing import list_archive
from monai_ddad.data import list_images, load_datalist
from monai_ddad.data.build import build_datalist
from monai_ddad.evaluation.survey.survey import survey_dataset

folder, dataset = sys.argv[1:]
archive = list_archive([folder], volumes=True)
films = list_archive([folder], volumes=False)
lists, built, survey = load_datalist(dataset), build_datalist(dataset), survey_dataset(dataset, 16)
paths = lambda items: [item["image"] for item in items]
chunks = lambda listing: [item for number in range(len(listing.chunks)) for item in listing.chunk(number)]
print(json.dumps({
    "inference": [paths(list_images(folder)), list_images(folder).left_out],
    "score": [chunks(archive), archive.left_out],
    "score of films": [chunks(films), films.left_out],
    "train": [paths(lists["training"]), lists["training"].left_out],
    "evaluate": [paths(lists["test"]), lists["test"].left_out],
    "datalist": [paths(built["test"]), built["test"].left_out],
    "audit": [survey.files["test"], survey.left_out],
}))
"""


@pytest.fixture
def hostile(tmp_path) -> Iterator[tuple[Path, set[str], dict[str, int]]]:
    with hostile_folder(tmp_path) as made:
        yield made


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(as_user(sys.executable, *command), capture_output=True, text=True, timeout=300)


def test_all_commands_list_the_same_images_and_count_the_same_as_left_out(hostile, tmp_path):
    folder, images, left_out = hostile
    dataset = tmp_path / "dataset"
    (dataset / "test").mkdir(parents=True)
    (dataset / "normal").symlink_to(folder)
    (dataset / "test" / "abnormal").symlink_to(folder)
    done = run("-c", LIST, str(folder), str(dataset))
    assert done.returncode == 0, done.stderr
    starts = tuple(f"{place}/" for place in (folder, dataset / "normal", dataset / "test/abnormal", "test/abnormal"))

    def relative(path: str) -> str:
        (start,) = (start for start in starts if path.startswith(start))
        return path.removeprefix(start)

    for command, (items, counted) in json.loads(done.stdout).items():
        files = [relative(file) for item in items for file in ([item] if isinstance(item, str) else item)]
        expected = map(printable, images) if command == "audit" else images  # which writes them down
        assert sorted(files) == sorted(expected), command
        twice = 2 if command == "audit" else 1  # of training and test
        assert counted == {reason: twice * number for reason, number in left_out.items()}, command
    assert "19 entries are left out: 3 hidden, " in done.stderr
    assert str(tmp_path) not in done.stderr and ".png" not in done.stderr


def test_an_archive_and_an_inference_go_through_it(hostile, tmp_path, trained):
    folder, images, left_out = hostile
    models, output = trained("ddad_cxr") / "models", tmp_path / "scores.parquet"
    bundle = ("--bundle", str(BUNDLES / "ddad_cxr"), "--models", str(models), "--device", "cpu", "--num_workers", "1")
    done = run("-m", "monai_ddad", "score", str(folder), "--output", str(output), *bundle, "--file_names")
    assert done.returncode == 0, done.stderr
    failed = pq.read_table(output.with_name("scores_unreadable.parquet"))
    paths = pq.read_table(output)["path"].to_pylist() + failed["path"].to_pylist()
    assert {path.removeprefix(f"{folder}/") for path in paths} == {
        name.encode(errors="backslashreplace").decode() for name in images
    }
    assert json.loads(failed.schema.metadata[b"left_out"]) == left_out
    reasons = dict(zip((Path(path).name for path in failed["path"].to_pylist()), failed["reason"].to_pylist()))
    assert reasons["interrupted.dcm"] == "the DICOM file is filled with zeros: an interrupted copy"
    assert reasons["secret.png"] == reasons["secret"] == "the file cannot be opened: not allowed"

    done = run(
        *("-m", "monai.bundle", "run", "--config_file", str(BUNDLES / "ddad_cxr/configs/inference.json")),
        *("--dataset_dir", str(folder), "--output_dir", str(tmp_path / "run"), "--models_dir", str(models)),
    )
    assert done.returncode == 1 and "19 of 31 items could not be read: unreadable.csv lists them" in done.stdout
    evaluation = tmp_path / "run" / "eval" / "inference"
    tables = [csv.DictReader((evaluation / f"{name}.csv").open()) for name in ("scores", "unreadable")]
    positions = [int(row["position"]) for table in tables for row in table]
    assert sorted(positions) == list(range(len(images) - 1))  # the two slices are one item
    assert json.loads((evaluation / "metrics.json").read_text())["images"]["left_out"] == left_out
