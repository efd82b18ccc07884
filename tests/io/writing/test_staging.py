"""Results take the place of earlier ones together, or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monai_ddad.io.writing import Staging, remove_leftovers

RESULTS = {"": r"[a-z]+\.csv", "pictures": r"\d\.png"}
EARLIER = {"scores.csv": b"old", "only.csv": b"old", "pictures/1.png": b"old", "pictures/2.png": b"old"}
OTHERS = {"mine.txt": b"mine", "pictures/mine.png": b"mine", "deep/3.png": b"mine"}
NEW = {"scores.csv": b"new", "added.csv": b"new", "pictures/1.png": b"new", "pictures/3.png": b"new"}


def write(folder: Path, content: dict[str, bytes]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "eval", EARLIER | OTHERS)
    return tmp_path / "eval"


def test_complete_results_replace_the_earlier_ones_and_leave_other_files_alone(folder):
    with Staging(folder, RESULTS) as path:
        write(path, NEW)
        assert {name: text for name, text in read(folder).items() if ".tmp" not in name} == EARLIER | OTHERS
    assert read(folder) == NEW | OTHERS


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_results_that_fail_change_nothing(folder, error):
    with pytest.raises(error), Staging(folder, RESULTS) as path:
        write(path, NEW)
        raise error
    assert read(folder) == EARLIER | OTHERS


@pytest.mark.parametrize("call", ["replace", "mkdir", "fsync"])
def test_a_change_of_place_that_fails_at_any_step_is_undone(folder, monkeypatch, call):
    failed = 0
    for step in range(100):
        staging, steps = Staging(folder, RESULTS), iter(range(1000))
        write(staging.path, NEW)
        with monkeypatch.context() as patch:
            function = getattr(os, call)

            def fail(*arguments, function=function, steps=steps, step=step, **options):
                if next(steps) == step:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return function(*arguments, **options)

            patch.setattr(os, call, fail)
            try:
                staging.commit()
                break
            except OSError:
                failed += 1
        assert read(folder) == EARLIER | OTHERS, step
    assert read(folder) == NEW | OTHERS and failed >= (8 if call == "replace" else 1)


KILL = """
import os, signal, sys
from monai_ddad.io.writing import Staging
sys.path.insert(0, sys.argv[3])
steps = iter(range(1000))
move = os.replace
def kill(*arguments):
    if next(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    move(*arguments)
staging = Staging(sys.argv[1], {"": r"[a-z]+\\.csv", "pictures": r"\\d\\.png"})
for name in ("scores.csv", "added.csv", "pictures/1.png", "pictures/3.png"):
    (staging.path / name).parent.mkdir(exist_ok=True)
    (staging.path / name).write_bytes(b"new")
os.replace = kill
staging.commit()
"""


@pytest.mark.parametrize("step", [0, 1, 3, 5, 7])
def test_the_next_run_puts_back_what_a_killed_one_was_replacing(folder, step):
    done = subprocess.run([sys.executable, "-c", KILL, folder, str(step), Path(__file__).parent])
    assert done.returncode == -signal.SIGKILL
    remove_leftovers(folder)
    assert read(folder) == EARLIER | OTHERS


@pytest.mark.parametrize(
    "swap",
    [
        {"new": ["../mine.txt"], "old": []},
        {"new": [], "old": ["../mine.txt"]},
        {"new": ["a/../../mine.txt"], "old": []},
        {"new": ["/etc/mine.txt"], "old": []},
        {"new": [1], "old": []},
        {"new": "scores.csv"},
        [],
        None,
    ],
    ids=str,
)
def test_what_others_have_put_there_moves_and_removes_nothing(folder, swap):
    results, temporary = folder / "results", folder / "results/.results.0123abcd.tmp"
    write(folder, {"mine.txt": b"mine"})
    write(temporary, {"lock": b"", "mine.txt": b"theirs", "swap.json": json.dumps(swap).encode()})
    (temporary / "old").mkdir()
    remove_leftovers(results)
    assert (folder / "mine.txt").read_bytes() == b"mine" and list(results.iterdir()) == []


@pytest.mark.parametrize("link", ["old", "old/a", "a"])
def test_what_others_have_put_there_moves_nothing_through_a_link(folder, link):
    results, temporary = folder / "results", folder / "results/.results.0123abcd.tmp"
    write(folder, {"a/mine.txt": b"mine"})
    write(temporary, {"lock": b"", "swap.json": json.dumps({"new": ["a/mine.txt"], "old": ["a/mine.txt"]}).encode()})
    place = results / link if link == "a" else temporary / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(folder if link == "old" else folder / "a")
    remove_leftovers(results)
    assert (folder / "a/mine.txt").read_bytes() == b"mine" and not list(results.rglob("*.txt"))


def test_a_name_that_is_taken_by_a_folder_is_an_error_and_the_folder_stays(folder):
    (folder / "added.csv").mkdir()
    write(folder / "added.csv", {"mine": b"mine"})
    with pytest.raises(OSError, match="directory"), Staging(folder, RESULTS) as path:
        write(path, NEW)
    assert read(folder) == EARLIER | OTHERS | {"added.csv/mine": b"mine"}


def test_what_is_being_written_is_the_users_alone(folder):
    before = os.umask(0)
    try:
        with Staging(folder / "new", RESULTS) as path:
            assert all(part.stat().st_mode & 0o077 == 0 for part in (path, path.parent, folder / "new"))
    finally:
        os.umask(before)
