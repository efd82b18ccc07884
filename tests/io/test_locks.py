"""A folder is written by one process at a time, and one that has ended is in nobody's way."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from monai_ddad.io import locks
from monai_ddad.io.errors import DataError
from monai_ddad.io.locks import LOCK, SILENT, FolderInUseError, lock_folder
from tests.processes import start

IN_USE = r"process (\d+) on this host has been writing here for (\d+) s: wait for it, stop it, or give another --out\."


def hold(folder: Path) -> None:
    """Have the folder until it may end."""
    with lock_folder(folder, "--out"):
        (folder / "held").touch()
        while not (folder / "end").exists():
            time.sleep(0.01)


@pytest.fixture
def holder(tmp_path):
    """A process that has a folder."""
    process = start(lambda: hold(tmp_path / "run"))
    while not (tmp_path / "run" / "held").exists():
        time.sleep(0.01)
    (tmp_path / "run" / "held").unlink()
    yield process
    (tmp_path / "run" / "end").touch()
    process.join(30)


def rewrite(folder: Path, **changes: object) -> None:
    """Let a lock's file be of another process, and stay as it is."""
    record = json.loads((folder / LOCK).read_text()) | changes
    (folder / LOCK).write_text(json.dumps(record))


@pytest.fixture
def left(tmp_path) -> Path:
    """A folder with the lock of a process that was killed."""
    process = start(lambda: hold(tmp_path))
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "held").unlink()
    assert os.listdir(tmp_path) == [LOCK]
    return tmp_path


def test_a_second_process_is_told_who_is_there_and_since_when(holder, tmp_path):
    with pytest.raises(FolderInUseError) as caught, lock_folder(tmp_path / "run", "--out"):
        pass
    process, _ = re.fullmatch(IN_USE, str(caught.value)).groups()
    assert int(process) == holder.pid
    record = json.loads((tmp_path / "run" / LOCK).read_text())
    rewrite(tmp_path / "run", started=record["started"] - 720)
    with pytest.raises(FolderInUseError, match="for 12 minutes:"), lock_folder(tmp_path / "run", "--out"):
        pass


def test_the_file_is_private_and_is_removed_with_a_folder_that_nothing_was_written_to(tmp_path):
    with lock_folder(tmp_path / "run", "--out"):
        assert os.listdir(tmp_path / "run") == [LOCK]
        assert stat.S_IMODE((tmp_path / "run" / LOCK).stat().st_mode) == 0o600
        assert not {"user", "path", str(tmp_path)} & set(json.loads((tmp_path / "run" / LOCK).read_text()).values())
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyError), lock_folder(tmp_path, "--out"):
        raise KeyError
    assert not os.listdir(tmp_path)


def test_a_thread_may_lock_its_folder_again_and_another_thread_may_not(tmp_path):
    refused = []

    def other() -> None:
        with pytest.raises(FolderInUseError) as caught, lock_folder(tmp_path, "--out"):
            pass
        refused.append(caught.value)

    with lock_folder(tmp_path, "--out"):
        with lock_folder(tmp_path / "." / "", "--out"):
            pass
        assert os.listdir(tmp_path) == [LOCK]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and not os.listdir(tmp_path)


def test_what_a_killed_process_has_left_is_taken_over_at_once(left):
    started = time.monotonic()
    with lock_folder(left, "--out"):
        assert json.loads((left / LOCK).read_text())["process"] == os.getpid()
    assert time.monotonic() - started < 0.5 and not os.listdir(left)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"process": "1"}', b"\xff" * 9000, b"[" * 4096])
def test_what_is_no_record_is_taken_over_when_no_process_has_it(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    os.utime(tmp_path / LOCK, (0, 0))
    with lock_folder(tmp_path, "--out"):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    (tmp_path / "precious").write_bytes(b"precious")
    {"folder": os.mkdir, "fifo": os.mkfifo, "link": lambda path: os.symlink(tmp_path / "precious", path)}[kind](
        tmp_path / LOCK
    )
    with pytest.raises((DataError, OSError)), lock_folder(tmp_path, "--out"):
        pass
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["a file", "in a file", "in one deeper", "a link to nothing"])
def test_what_can_be_no_folder_is_an_error_and_not_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(locks, "MISSES", 5)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    folders = {"a file": "file", "in a file": "file/out", "in one deeper": "file/a/out", "a link to nothing": "link"}
    with pytest.raises(OSError, match="exists|directory"), lock_folder(tmp_path / folders[kind], "--out"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


@pytest.mark.parametrize("silence, free", [(0, False), (SILENT - 20, False), (SILENT + 5, True)])
@pytest.mark.parametrize("locked", [False, True])
def test_another_machine_counts_as_gone_after_some_minutes_of_silence(holder, tmp_path, silence, free, locked):
    folder = tmp_path / "run"
    if not locked:  # locks that the other machine has are not seen here
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    now = time.time()
    rewrite(folder, machine="another", host="node7\n/etc", started=now - 7300.0)
    os.utime(folder / LOCK, (now - silence, now - silence))
    if free:
        with lock_folder(folder, "--out"):
            assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()
        return
    with pytest.raises(FolderInUseError) as caught, lock_folder(folder, "--out"):
        pass
    message = str(caught.value)
    assert f"process {holder.pid} on host node7etc has been writing here for 2 hours" in message
    assert "without one it counts as gone" in message


@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_of_the_system_the_process_is_looked_for(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(locks, "_lock", lambda file: None)
    monkeypatch.setattr(locks, "SETTLE", 0.01)
    with lock_folder(tmp_path, "--out"):
        began = locks._start_of(os.getpid()) if alive else "another with the same number"
        rewrite(tmp_path, began=began, token="another")
        locks._held.clear()
        if alive:
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "), lock_folder(tmp_path, "--out"):
                pass
        else:
            with lock_folder(tmp_path, "--out"):
                pass


def test_a_record_that_lacks_a_value_is_none_without_locks_of_the_system(left, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda file: None)
    monkeypatch.setattr(locks, "SETTLE", 0.01)
    whole = json.loads((left / LOCK).read_text())
    for name in ("process", "host", "machine", "began", "started", "token"):
        (left / LOCK).write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        os.utime(left / LOCK, (0, 0))
        with lock_folder(left, "--out"):
            pass
        (left / LOCK).touch()


def test_of_two_machines_that_take_over_a_stale_lock_one_has_it(left, monkeypatch):
    rewrite(left, machine="another")
    os.utime(left / LOCK, (0, 0))
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: rewrite(left, token="of a third one"))
    with pytest.raises(FolderInUseError), lock_folder(left, "--out"):
        pass


def test_signs_of_life_are_given_and_one_that_was_given_up_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.02)
    with lock_folder(tmp_path, "--out"):
        os.utime(tmp_path / LOCK, (0, 0))
        time.sleep(0.3)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 1
    with pytest.raises(SystemExit), lock_folder(tmp_path, "--out"):
        rewrite(tmp_path, token="another")
        time.sleep(5)
    assert os.listdir(tmp_path) == [LOCK]  # the other one's


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    def fork() -> None:
        with lock_folder(tmp_path / "run", "--out"):
            if os.fork() == 0:
                (tmp_path / "child").write_text(str(os.getpid()))
                time.sleep(60)
                os._exit(0)
            while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    start(fork).join()
    child = int((tmp_path / "child").read_text())
    os.kill(child, 0)
    with lock_folder(tmp_path / "run", "--out"):
        pass
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_lock_and_files_that_are_being_written(tmp_path, number):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from monai_ddad.io.locks import lock_folder; from monai_ddad.io.writing import atomic_file\n"
        "with lock_folder(sys.argv[1], '--out'), atomic_file(sys.argv[1] + '/a'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"held\n"
    process.send_signal(number)
    assert process.wait(30) != 0
    process.stdout.close()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name, error", [("private_folder", FileExistsError), ("_now", FileNotFoundError)])
def test_a_folder_that_another_process_makes_and_removes_meanwhile_is_made_again(tmp_path, monkeypatch, name, error):
    usual, calls = getattr(locks, name), []

    def odd_at_first(*options: object) -> object:
        calls.append(options)
        if len(calls) == 1:
            raise error
        return usual(*options)

    monkeypatch.setattr(locks, name, odd_at_first)
    with lock_folder(tmp_path / "run", "--out"):
        assert os.listdir(tmp_path / "run") == [LOCK] and len(calls) > 1
    assert not os.listdir(tmp_path)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(OSError), lock_folder(tmp_path / "run", "--out"):  # noqa: PT011
        pass


def test_of_many_that_start_at_once_one_at_a_time_has_the_folder(tmp_path):
    def work(number: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with lock_folder(tmp_path / "run", "--out"):
                    (tmp_path / "inside").mkdir()  # an error where another one is inside
                    time.sleep(0.01)
                    (tmp_path / "inside").rmdir()
                    (tmp_path / f"done{number}").touch()
                    return
            except FolderInUseError:
                time.sleep(0.001)

    processes = [start(lambda number=number: work(number)) for number in range(6)]
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0] * 6
    left = sorted(os.listdir(tmp_path))
    if left[-1] == "run":  # one that had it while the one that had made it removed it leaves it, empty
        assert not os.listdir(tmp_path / left.pop())
    assert left == [f"done{number}" for number in range(6)]
