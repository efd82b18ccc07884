"""The paper's benchmarks are made from their downloads, in the authors' structure."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from monai_ddad.data.datalist import GROUPS
from monai_ddad.data.prepare.benchmarks import BENCHMARKS, Job, plan_jobs
from monai_ddad.data.prepare.convert import make_image
from monai_ddad.io.errors import DataError
from monai_ddad.io.locks import lock_folder
from monai_ddad.io.writing import Staging, atomic_file, remove_leftovers, write_table
from monai_ddad.machine import available_cores
from monai_ddad.processes import end_with_parent

__all__ = ["prepare"]

logger = logging.getLogger(__name__)

PER_PROCESS = 64  # images that are worth another process, which takes seconds to start


def prepare(
    benchmark: str,
    originals: str | os.PathLike[str],
    output: str | os.PathLike[str],
    split: str | os.PathLike[str] | None = None,
    photometry: Literal["dicom", "authors"] = "dicom",
    file_names: bool = False,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Make ``images/`` and ``data.json`` of a benchmark from its originals.

    Films become 8-bit PNG files of 512 x 512; pictures are copied if they can be read. Images already there are kept,
    so an interrupted call goes on where it was. An original that is missing or cannot be read is listed in
    ``unreadable.csv`` (group, position in the group, reason) and left out of ``data.json``. Numbers of images other
    than the paper's are reported as warnings.

    Args:
        benchmark: a name of :data:`monai_ddad.data.prepare.benchmarks.BENCHMARKS`.
        originals: the folder of the download.
        output: folder to make the data set in.
        split: the authors' ``data.json``; see :func:`monai_ddad.data.prepare.benchmarks.plan_jobs`.
        photometry: how films are read: ``"dicom"`` as everywhere in this package, ``"authors"`` as in the authors'
            script, without lookup tables, windows and rescaling.
        file_names: also write the names of the images in ``unreadable.csv``.
        num_workers: processes; None takes up to one a core, fewer for few images.

    Returns:
        ``"images"``: number in the data set, ``"kept"``: those of an earlier call, ``"unreadable"``: number left out,
        ``"counts"``: images by group.

    Raises:
        DataError: see :func:`~monai_ddad.data.prepare.benchmarks.plan_jobs`; or the output folder holds images made in
            another way or lies within the originals, another call writes to it, or a process was killed.

    Source: method.md section 1 (CXR pre-processing, counts).
    """
    root = Path(os.path.expanduser(output))
    if root.resolve().is_relative_to(Path(os.path.expanduser(originals)).resolve()):
        raise DataError("the output folder must lie outside the folder of the originals.")
    jobs = plan_jobs(benchmark, originals, split)
    with lock_folder(root, "output folder"):
        remove_leftovers(root, root / "images")
        return _make(benchmark, jobs, root, photometry, file_names, num_workers)


def _make(
    benchmark: str, jobs: list[Job], root: Path, photometry: str, file_names: bool, num_workers: int | None
) -> dict[str, Any]:
    conversion = photometry if BENCHMARKS[benchmark].films else "copy"
    _record(root / "prepared.json", {"benchmark": benchmark, "conversion": conversion})
    pending = [job for job in jobs if not (root / "images" / job.name).exists()]
    reasons = {job: _reason(job) for job in pending if len(job.originals) != 1}
    reasons |= _convert([job for job in pending if job not in reasons], root / "images", conversion, num_workers)
    made = [job for job in jobs if job not in reasons]

    with Staging(root, {"": r"data\.json|unreadable\.csv"}) as folder:
        _write_split(made, folder / "data.json")
        _write_unreadable({job: reasons[job] for job in jobs if job in reasons}, folder / "unreadable.csv", file_names)
    counts = {group: sum(job.group == group for job in made) for group in GROUPS}
    for (group, count), expected in zip(counts.items(), BENCHMARKS[benchmark].counts):
        if count != expected:
            logger.warning(f"{group}: {count} images, the paper's benchmark has {expected}.")
    return {"images": len(made), "kept": len(jobs) - len(pending), "unreadable": len(reasons), "counts": counts}


def _reason(job: Job) -> str:
    if not job.originals:
        return "not among the originals"
    return f"{len(job.originals)} originals have this name, one was expected"


def _record(path: Path, settings: dict[str, str]) -> None:
    """Write how the images are made, or compare with how they were made before."""
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != settings:
            raise DataError("the output folder holds images of another benchmark or photometry: give another folder.")
    else:
        with atomic_file(path) as file:
            file.write((json.dumps(settings, indent=2) + "\n").encode())


def _convert(jobs: list[Job], folder: Path, conversion: str, num_workers: int | None) -> dict[Job, str]:
    sources = [str(job.originals[0]) for job in jobs]
    targets = [str(folder / job.name) for job in jobs]
    workers = num_workers or min(available_cores(), 1 + len(jobs) // PER_PROCESS)
    with _mapping(workers) as mapping:
        reasons = mapping(make_image, sources, targets, [conversion] * len(jobs))
        bar = tqdm(
            reasons,
            total=len(jobs),
            desc="images",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]",
        )
        return {job: reason for job, reason in zip(jobs, bar) if reason is not None}


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[str | None]]]:
    """Give ``map`` over processes; what has not begun when the block is left is dropped."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    try:
        yield partial(pool.map, chunksize=4)
    except BrokenProcessPool:
        raise DataError(
            "a process that reads images was killed, most likely for want of memory. The finished images are kept: "
            "go on with fewer processes (num_workers)."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the processes
    end_with_parent()


def _write_split(made: list[Job], path: Path) -> None:
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for job in made:
        names[job.group].append(job.name)
    normal, pool_normal, pool_abnormal, test_normal, test_abnormal = names.values()
    lists = {
        "train": {"0": normal, "unlabeled": {"0": pool_normal, "1": pool_abnormal}},
        "test": {"0": test_normal, "1": test_abnormal},
    }
    with atomic_file(path) as file:
        file.write(json.dumps(lists).encode())


def _write_unreadable(reasons: dict[Job, str], path: Path, file_names: bool) -> None:
    if not reasons:
        return
    rows = [[job.group, job.position, reason, *([job.name] * file_names)] for job, reason in reasons.items()]
    write_table(["group", "position", "reason", *(["name"] * file_names)], rows, path)
