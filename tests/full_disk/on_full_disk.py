"""Run something again and again, each time on a disk that is full at another moment; see ``full_disk.c``."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai_ddad.io.writing.staging import LEFTOVER

FULL = "No space left on device"

Run = Callable[[Path], str]
Content = dict[str, bytes]


def content_of(folder: Path) -> Content:
    """Return all files below a folder by their relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def disturb(
    before: Path,
    run: Run,
    scratch: Path,
    may_change: Callable[[str], bool] = lambda name: False,
    points: int | None = None,
) -> dict[str, Any]:
    """Let a run fail at each call that writes, and compare what it leaves with what was there before.

    Args:
        before: folder with what an earlier run left.
        run: does the work in a copy of that folder, and returns what it says to the user where it fails.
        scratch: where to put the copies.
        may_change: whether a file need not be as it was before where the run fails.
        points: at how many calls it is to fail, drawn with a fixed seed; None takes all.

    Returns:
        ``"calls"`` (of an undisturbed run), ``"tested"``, ``"failed"`` (how many ended with a message), ``"passed"``
        (how many ended well all the same) and ``"wrong"``, what is not as it should be.
    """
    library = ctypes.CDLL(None)
    library.full_disk_calls.restype = ctypes.c_long

    def once(call: int) -> tuple[str, Path, int]:
        work = scratch / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(before, work, symlinks=True)
        library.full_disk_arm(os.fsencode(work), ctypes.c_long(call))
        try:
            said = run(work)
        finally:
            calls = int(library.full_disk_calls())
            library.full_disk_arm(b"", ctypes.c_long(0))
        return said, work, calls

    started = time.monotonic()
    earlier = content_of(before)
    said, work, calls = once(0)
    whole = set(content_of(work))
    found: dict[str, Any] = {"calls": calls, "failed": 0, "passed": 0, "wrong": []}
    if said or not calls:
        found["wrong"].append(f"undisturbed: {calls} calls, {said!r}")
    chosen = list(range(1, calls + 1))
    if points is not None and points < calls:
        chosen = sorted(random.Random(0).sample(chosen, points))
    for call in chosen:
        said, work, _ = once(call)
        after = content_of(work)
        left = [str(path.relative_to(work)) for path in work.rglob("*") if LEFTOVER.fullmatch(path.name)]
        if left:
            found["wrong"].append(f"call {call}: {left} are left")
        if not said:
            found["passed"] += 1
            if missing := {name for name in whole if not may_change(name)} - set(after):
                found["wrong"].append(f"call {call}: ended well without {sorted(missing)}")
            continue
        found["failed"] += 1
        if FULL not in said or "Traceback" in said:
            found["wrong"].append(f"call {call}: said {said!r}")
        kept = {name for name in earlier if not may_change(name)}
        changed = [name for name in sorted(kept) if after.get(name) != earlier[name]]
        new = [name for name in after if name not in earlier and not may_change(name)]
        if changed or new:
            found["wrong"].append(f"call {call}: {changed} changed, {new} are new; said {said!r}")
    found["tested"] = len(chosen)
    found["seconds"] = round(time.monotonic() - started, 1)
    return found


def main(jobs: dict[str, Callable[[Path, int | None], dict[str, Any]]], arguments: Sequence[str]) -> None:
    """Do jobs: ``SCRATCH POINTS NAME...``, 0 for all points; each result is written to ``SCRATCH/NAME.json``."""
    scratch, points, *names = arguments
    for name in names:
        folder = Path(scratch) / name
        folder.mkdir(parents=True)
        found = jobs[name](folder, int(points) or None)
        Path(scratch, f"{name}.json").write_text(json.dumps(found))
        sys.stderr.write(f"{name}: {found}\n")
