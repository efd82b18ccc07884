"""The command line answers quickly, says what is wrong in plain words and exits with a code."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_ddad import __main__ as cli
from monai_ddad import packaged
from monai_ddad.data import load_datalist, prepare
from monai_ddad.data.prepare.benchmarks import BENCHMARKS
from monai_ddad.evaluation import survey
from tests.small_models import BUNDLES, KINDS

every_bundle = pytest.mark.parametrize("bundle", KINDS)


def files_of(bundle: str) -> list[str]:
    """What a bundle is made of, by the layout that MONAI asks for."""
    configs = ("train", "multi_gpu_train", "evaluate", "inference", "inference_trt", "metadata")
    top = [*(f"{name}.json" for name in configs), "logging.conf"]
    docs = ["docs/README.md", "docs/data_license.txt", "LICENSE", "large_files.yml"]
    return [*top, *(f"configs/{name}" for name in top), *docs, "shipped/model.pt", "shipped/run.json"]


@pytest.fixture
def folders(write_image, tmp_path) -> Path:
    for seed, name in enumerate(("normal/a", "normal/b", "unlabeled/c", "test/normal/d", "test/abnormal/e")):
        write_image(f"set/{name}.png", seed=seed)
    return tmp_path / "set"


def assert_one_line(text: str, *parts: str) -> None:
    assert text.count("\n") == 1 and "Traceback" not in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("command", [[], ["bundle"], ["datalist"], ["audit"], ["prepare"], ["score"], ["report"]])
def test_help_has_examples_and_needs_no_heavy_library(command):
    code = (
        "import sys; from monai_ddad.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'numpy', 'monai', 'pydicom'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True)
    assert f"python -m monai_ddad {' '.join(command)}" in done.stdout
    assert not command or "example" in done.stdout


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ([], ["required"]),
        (["train"], ["invalid choice"]),
        (["bundle", "ddad_brain"], ["folder"]),
        (["datalist", "folder"], ["--output"]),
        (["report"], ["needs the folder of a run"]),
        (["report", "a", "--compare", "a", "b"], ["needs the folder of a run"]),
        (["report", "--compare", "a", "b"], ["needs --output"]),
        (["prepare", "mnist", "a", "b"], ["invalid choice", "brain_tumor"]),
        (["prepare", "rsna", "a", "b"], ["needs --split", "data.json that the authors"]),
        (["prepare", "lag", "a", "b", "--num_workers", "0"], ["whole number from 1"]),
        (["score", "a", "--output", "b.parquet"], ["--bundle"]),
        (["score", "a", "--output", "b.parquet", "--bundle", "c", "--num_workers", "some"], ["whole number from 0"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, parts, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, *parts)


def test_the_benchmarks_to_choose_from_are_those_that_are_known():
    assert tuple(BENCHMARKS) == cli.BENCHMARKS


def test_datalist_writes_what_load_datalist_reads(folders, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert cli.main(["datalist", str(folders), "--output", str(tmp_path / "o" / "list.json"), "--check"]) == 0
    assert "training   normal            2" in caplog.text
    assert json.loads((tmp_path / "o" / "list.json").read_text())["test"][1] == {
        "image": "../set/test/abnormal/e.png",
        "label": 1,
    }
    lists = load_datalist(tmp_path / "o" / "list.json")
    assert [item["label"] for item in lists["training"] + lists["test"]] == [0, 0, None, 0, 1]
    assert all(Path(item["image"]).is_file() for item in lists["training"] + lists["test"])


def test_datalist_check_names_unreadable_images_by_position(folders, tmp_path, capsys):
    (folders / "normal" / "b.png").write_bytes(b"canary")
    arguments = ["datalist", str(folders), "--output", str(tmp_path / "list.json")]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--check"]) == 1
    message = capsys.readouterr().err
    assert "1 images cannot be read:\n- training item 1: " in message
    assert "canary" not in message and str(tmp_path) not in message


def test_datalist_takes_the_columns_of_a_csv_file(folders, tmp_path):
    (folders / "list.csv").write_text("path;split;label\nnormal/a.png;test;0\nnormal/b.png;unlabeled;\n")
    output = tmp_path / "list.json"
    arguments = ["datalist", str(folders / "list.csv"), "--output", str(output), "--image_column", "path"]
    assert cli.main(arguments) == 0
    expected = {"training": [{"image": "set/normal/b.png"}], "test": [{"image": "set/normal/a.png", "label": 0}]}
    assert json.loads(output.read_text()) == expected


def test_bad_data_is_one_line_without_paths_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "data.json").write_text("{")
    absent = str(tmp_path / "doe")
    for arguments in (
        ["datalist", absent, "--output", str(tmp_path / "list.json")],
        ["audit", absent, "--output", str(tmp_path / "audit")],
        ["report", absent],
        ["report", "--compare", absent, absent, "--output", str(tmp_path / "report.html")],
        ["prepare", "rsna", absent, str(tmp_path / "out"), "--split", str(tmp_path / "data.json")],
        ["prepare", "rsna", str(tmp_path), str(tmp_path.parent / "out"), "--split", str(tmp_path / "data.json")],
        ["score", absent, "--output", str(tmp_path / "scores.parquet"), "--bundle", absent],
    ):
        assert cli.main(arguments) == 1
        message = capsys.readouterr().err
        assert_one_line(message)
        assert str(tmp_path) not in message


def test_files_that_cannot_be_written_are_one_line(folders, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["datalist", str(folders), "--output", str(tmp_path / "file" / "list.json")]) == 1
    message = capsys.readouterr().err
    assert_one_line(message, "cannot be read or written")
    assert str(tmp_path) not in message


@pytest.mark.parametrize("copies, strict, code", [(0, True, 0), (3, False, 0), (3, True, 1)])
def test_audit_is_strict_about_copies_if_asked(monkeypatch, capsys, copies, strict, code):
    calls = []
    monkeypatch.setattr(
        survey, "write_report", lambda *a, **k: calls.append((a, k)) or {"copies_across_splits": copies}
    )
    assert cli.main(["audit", "in", "--output", "out", "--near_copy", "0.9", *["--strict"] * strict]) == code
    settings = {"image_size": 64, "near_copy": 0.9, "file_names": False, "num_workers": None}
    assert calls == [(("in", "out"), settings)]
    assert ("3 test images are copies" in capsys.readouterr().err) == bool(code)


def test_prepare_makes_a_benchmark_and_exits_with_1_for_unreadable_originals(write_image, tmp_path, capsys):
    names = ["1.jpg", "2.jpg"]
    for name in names:
        write_image(f"lag/non_glaucoma/image/{name}")
    split = {"train": {"0": ["1.jpg"], "unlabeled": {"0": ["2.jpg"], "1": []}}}
    (tmp_path / "split.json").write_text(json.dumps(split))
    arguments = [
        "prepare",
        "lag",
        str(tmp_path / "lag"),
        str(tmp_path / "out"),
        "--split",
        str(tmp_path / "split.json"),
    ]
    (tmp_path / "lag" / "non_glaucoma" / "image" / "2.jpg").write_bytes(b"no picture")
    assert cli.main(arguments) == 1
    assert "1 images are missing or cannot be read: see unreadable.csv." in capsys.readouterr().err
    write_image("lag/non_glaucoma/image/2.jpg")
    assert cli.main(arguments) == 0
    assert len(load_datalist(tmp_path / "out")["training"]) == 2


def test_an_interrupt_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "prepare", interrupt)
    assert cli.main(["prepare", "cxad", "in", "out"]) == 130
    assert_one_line(capsys.readouterr().err, "stopped")


@pytest.mark.parametrize("given, policy", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_do_not_spin_while_they_wait_unless_asked_to(given, policy):
    code = "import monai_ddad, os, sys; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=others | given, check=True)
    assert done.stdout.strip() == policy


@every_bundle
def test_bundle_copies_what_the_repository_has_and_nothing_of_its_runs(bundle, tmp_path, caplog, monkeypatch):
    home = tmp_path / "bundles"
    shutil.copytree(BUNDLES / bundle, home / bundle)
    for made in ("models/model.pt", "eval/report.html", "phantom/data.json", ".monai_ddad.lock"):
        (home / bundle / made).parent.mkdir(exist_ok=True)
        (home / bundle / made).touch()
    monkeypatch.setattr(packaged, "INSTALLED", home)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "runs/my own", tmp_path / "empty"):
        with caplog.at_level(logging.INFO):
            assert cli.main(["bundle", bundle, str(folder)]) == 0
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == set(files_of(bundle))
        assert all((folder / file).read_bytes() == (BUNDLES / bundle / file).read_bytes() for file in files)
        assert "models" not in os.listdir(folder) and len(os.listdir(folder)) == 12
    assert f"--config_file '{tmp_path}/runs/my own/train.json'" in caplog.text


def test_bundle_refuses_unknown_names_and_folders_that_hold_something(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bundle", "ddad_foot", str(tmp_path / "new")])
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, "ddad_foot", "ddad_brain", "ddad_cxr", "ddad_fundus")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.mine").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "full/.mine", "link"):
        assert cli.main(["bundle", "ddad_cxr", str(tmp_path / name)]) == 1
        assert_one_line(capsys.readouterr().err, "not empty", "give a new one")
    assert cli.main(["bundle", "ddad_cxr", str(tmp_path / "full/.mine/new")]) == 1
    assert_one_line(capsys.readouterr().err, "cannot be read or written")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", "full", "link"]


def test_a_copy_that_fails_leaves_nothing_that_stands_in_the_way_of_the_next(tmp_path, monkeypatch, capsys):
    copy, left = shutil.copyfile, [3]

    def fill(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fill)
    arguments = ["bundle", "ddad_fundus", str(tmp_path / "new")]
    assert cli.main(arguments) == 1
    assert_one_line(capsys.readouterr().err, "No space left")
    assert cli.main(arguments) == 0
    assert (tmp_path / "new/train.json").is_file()


def test_bundle_needs_no_heavy_library(tmp_path):
    code = (
        "import sys; from monai_ddad.__main__ import main; assert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'numpy', 'monai', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "bundle", "ddad_brain", str(tmp_path / "new")], check=True)
