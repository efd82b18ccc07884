"""An archive of any size is scored: files stream through decoding processes and batched inference into one table."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ignite.distributed as idist
import torch
from tqdm.auto import tqdm

from monai_ddad.decision.decisions import cautions
from monai_ddad.io.errors import DataError
from monai_ddad.io.series import VOLUMES
from monai_ddad.machine import PATIENCE, available_cores
from monai_ddad.processes import end_with_process
from monai_ddad.ranks import from_first
from monai_ddad.serving.archive.listing import Listing, list_archive
from monai_ddad.serving.archive.model import load_predictor, plan_of
from monai_ddad.serving.archive.parts import Parts, make_part
from monai_ddad.serving.archive.reading import (
    PREFETCH,
    ReadChunk,
    ReaderKilledError,
    notice_kill,
    read_carefully,
    read_chunks,
)
from monai_ddad.serving.predictor import Predictor

__all__ = ["score_archive"]

logger = logging.getLogger(__name__)

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_fmt}{postfix}]"


def score_archive(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    models_dir: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    precision: str = "float32",
    alpha: float | None = None,
    score: str | None = None,
    runtime: str = "torch",
    file_names: bool = False,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> tuple[int, int] | None:
    """Score all images of an archive by a trained bundle and write a table with a row each.

    Images are read, prepared and scored in chunks of about 256 files, and what is found of a chunk is kept in a folder
    beside the output until all are done. A call that was interrupted goes on where it was. The table is the same, byte
    by byte, whatever the interruptions, decoding processes and processes of ``torchrun``, among which the chunks are
    shared; another number of PyTorch's threads may change the last digits of the scores, and an image that twice kills
    the process that reads it alone, be it for want of memory, is unreadable. Of the whole archive nothing but the paths
    is held in memory.

    Args:
        sources: see :func:`monai_ddad.serving.archive.listing.list_archive`.
        output: the Parquet file to write. Unreadable items go to ``<stem>_unreadable.parquet`` beside it.
        bundle, models_dir, precision, runtime: see :class:`monai_ddad.serving.predictor.Predictor`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None takes GPUs if there are any, one a process of the node.
        alpha, score: false-positive rate and deciding score; None takes the model's.
        file_names: add the paths, which may tell who a patient is.
        num_workers: decoding processes; None takes one a core, 0 decodes in this process, which an image that
            kills its decoder then ends.
        overwrite: replace a finished output, and drop an unfinished run with other settings.

    Returns:
        how many items were scored and how many are unreadable; None in all processes of ``torchrun`` but the first.

    Raises:
        DataError: there is nothing to score, the output exists or is being written, an unfinished run had other
            settings, or a setting is wrong.
        CheckpointError: nothing is trained there, or a file is damaged.
        OSError: something cannot be read or written.
    """
    if Path(output).suffix != ".parquet":
        raise DataError("the output must be a file that ends in .parquet.")
    with _processes(), ExitStack() as held:
        predictor = load_predictor(bundle, models_dir, device, precision, alpha, score, runtime)
        for note in cautions(predictor.network, predictor.network.calibration.images, predictor.alpha):
            logger.warning(note)
        modalities = predictor.modalities
        volumes = modalities is None or not set(VOLUMES).isdisjoint(modalities)

        def begin() -> tuple[Parts, Listing, list[int]]:
            listing = list_archive(sources, volumes)
            plan = plan_of(listing, predictor, Path(bundle), models_dir)
            parts = Parts(output, plan | {"precision": precision, "runtime": runtime}, file_names)
            held.enter_context(parts.lock())
            return parts, listing, parts.begin(overwrite)

        parts, listing, pending = from_first(begin)
        _score(predictor, parts, listing, pending, num_workers)
        idist.barrier()
        if idist.get_rank() > 0:
            return None
        parts.join(listing)
        scored, unreadable = parts.end()
        logger.info(f"{scored} images scored, {unreadable} cannot be read.")
        return scored, unreadable


@contextmanager
def _processes() -> Iterator[None]:
    """Join the processes of ``torchrun`` where this is one of them."""
    joining = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    if joining:  # idist.initialize would take GPU number local_rank, and there may be fewer
        end_with_process(os.getppid())  # torchrun, which may be killed
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        if joining:
            idist.finalize()


def _score(predictor: Predictor, parts: Parts, listing: Listing, pending: list[int], num_workers: int | None) -> None:
    """Score the chunks of this process."""
    processes, rank = idist.get_world_size(), idist.get_rank()
    done = len(listing) - sum(len(listing.chunks[number]) for number in pending)
    if done and rank == 0:
        logger.info(f"{done} of {len(listing)} images were done by an earlier call.")
    left = pending[rank::processes]
    workers = available_cores() if num_workers is None else num_workers
    names, starts = predictor.network.score_names, listing.starts
    progress = tqdm(
        desc=f"images of process 1 of {processes}" if processes > 1 else "images",
        total=done // processes + sum(len(listing.chunks[number]) for number in left),
        initial=done // processes,
        unit=" images",
        bar_format=BAR,
        mininterval=1 if sys.stderr.isatty() else 60,
        disable=rank > 0,
    )

    def score(reads: Iterable[ReadChunk]) -> None:
        for read in reads:
            number = len(listing.chunks[read.number])
            results = predictor.predict(torch.from_numpy(read.images), read.positions, read.slices)
            parts.write(read.number, make_part(starts[read.number], number, names, results, read.errors))
            left.remove(read.number)
            progress.update(number)

    with progress:
        while left:
            with suppress(ReaderKilledError), notice_kill():
                score(read_chunks(listing, list(left), predictor.transform, workers))
            if left:
                logger.warning(
                    "A process that reads images was killed. What it had is read again, file by file if need be; if "
                    "memory is short, give fewer processes (--num_workers)."
                )
                suspects = left[: workers * PREFETCH + 1]  # being read, and being scored
                score(read_carefully(listing, number, predictor.transform) for number in suspects)
