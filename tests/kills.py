"""Commands that are killed at random moments, and what is left of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

KILLS = int(os.environ.get("MONAI_DDAD_KILLS", "3"))  # of each command; 20 are a thorough check
MARK = "MONAI_DDAD_MARK"
PATIENCE = 10  # seconds in which a process must end after the one that has started it


class Command:
    """A command whose processes, however they were started, can be told by a mark in their environment.

    Args:
        words: the command line.
        folder: where it runs.
        environment: further variables.
    """

    def __init__(self, words: Sequence[str], folder: Path, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            list(words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark} | environment,
        )

    def kill_after(self, seconds: float) -> bool:
        """Kill its first process; tell whether it was still running."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.process.stderr.close()
        return self.process.returncode == -signal.SIGKILL

    def finish(self, seconds: float = 300) -> str:
        """Wait for its end, which must be good; return what it said."""
        said = self.process.communicate(timeout=seconds)[1]
        assert self.process.returncode == 0, said[-3000:]
        return said

    def processes(self) -> list[int]:
        """Return the processes of the command that are alive."""
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_alive(folder)]

    def _is_alive(self, folder: Path) -> bool:
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            return state != "Z" and f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is another user's
            return False

    def left(self) -> list[int]:
        """Return the processes that are still alive some seconds after the first one's end, and end them."""
        limit = time.monotonic() + PATIENCE
        while (found := self.processes()) and time.monotonic() < limit:
            time.sleep(0.05)
        for process in found:
            os.kill(process, signal.SIGKILL)
        return found


def moments(kills: int, duration: float, seed: int = 0) -> Iterator[float]:
    """Give moments in seconds, a random one in each of equal parts of the duration."""
    draw = random.Random(seed)
    for i in range(kills):
        yield duration * (i + draw.random()) / kills


def temporary_files(folder: Path) -> list[Path]:
    """Return what atomic writes have left behind."""
    return [path for path in folder.rglob(".*") if path.suffix == ".tmp"]
