"""Commands that are killed at random moments, and what is left of them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

KILLS = int(os.environ.get("MONAI_DDAD_KILLS", "3"))  # of each command; 20 are a thorough check
PATIENCE = 10  # seconds in which a process must end after the one that has started it


def alive(session: int) -> list[int]:
    """Return the processes of a session, which has the number of its first process."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_in(session, folder)]


def _is_in(session: int, folder: Path) -> bool:
    try:
        state, _, _, found, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return False
    return state not in "ZX" and int(found) == session


def left(session: int) -> list[int]:
    """Return the processes of a session that outlive its first one by some seconds, and end them."""
    limit = time.monotonic() + PATIENCE
    while (found := alive(session)) and time.monotonic() < limit:
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
