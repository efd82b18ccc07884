"""Files appear whole, for the user alone, and leave nothing of a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_ddad.io.writing import atomic_file, private_folder, remove_leftovers


class Interrupted(BaseException):
    """Stands for a kill."""


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_and_new_folders_are_the_users_alone_whatever_the_umask(tmp_path, umask):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    with atomic_file(tmp_path / "shared/new/deep/a.png") as file:
        file.write(b"pixels")
        (unfinished,) = (tmp_path / "shared/new/deep").iterdir()
        assert mode(unfinished) == 0o600
    assert mode(tmp_path / "shared/new/deep/a.png") == 0o600
    assert [mode(tmp_path / name) for name in ("shared", "shared/new", "shared/new/deep")] == [0o755, 0o700, 0o700]
    assert mode(private_folder(tmp_path / "other")) == 0o700


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error, existing):
    path = tmp_path / "sub" / "state.pt"
    if existing:
        path.parent.mkdir()
        path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"half")
        raise error
    assert [entry.name for entry in path.parent.iterdir()] == (["state.pt"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_a_file_appears_only_when_it_is_complete_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "text"
    for content in (b"first", b"second"):
        with atomic_file(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, os.fsdecode(b"\xff" * 255)], ids=["ascii", "utf-8", "bytes"])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path, name):
    with atomic_file(tmp_path / name) as file:
        file.write(b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"


WRITE = """
import sys, time
from monai_ddad.io.writing import Staging, atomic_file
if sys.argv[1] == "file":
    with atomic_file(sys.argv[2] + "/patient.png") as file:
        file.write(b"half"); file.flush(); print(flush=True); time.sleep(600)
else:
    staging = Staging(sys.argv[2])
    (staging.path / "patient.png").write_bytes(b"half"); print(flush=True); time.sleep(600)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, what):
    with subprocess.Popen([sys.executable, "-c", WRITE, what, tmp_path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        remove_leftovers(tmp_path)
        (unfinished,) = tmp_path.iterdir()
        assert unfinished.name.endswith(".tmp")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert unfinished.exists()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_named_as_ours_is_removed(tmp_path):
    for name in ("a.tmp", ".a.tmp", ".a.0123abcd.tmp.bak", "a.0123abcd.tmp", ".notes.2024.tmp", ".a.dad.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".link.0123abcd.tmp").symlink_to(tmp_path / "a.tmp")
    before = sorted(tmp_path.iterdir())
    remove_leftovers(tmp_path, tmp_path / "absent")
    assert sorted(tmp_path.iterdir()) == before
