"""An archive of any size is scored: files stream through decoding processes and batched inference into one table."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from tqdm.auto import tqdm

from monai_ddad import __version__
from monai_ddad.archive.listing import CHUNK, Listing, list_archive
from monai_ddad.archive.parts import Parts, make_part
from monai_ddad.archive.reading import (
    PREFETCH,
    ReadChunk,
    ReaderKilledError,
    notice_kill,
    read_carefully,
    read_chunks,
    root_cause,
)
from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data.resident import DataError
from monai_ddad.data.series import VOLUMES
from monai_ddad.engines.ranks import PATIENCE
from monai_ddad.inference import Predictor, weights_file
from monai_ddad.machine import available_cores

__all__ = ["score_archive"]

logger = logging.getLogger(__name__)

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_fmt}{postfix}]"

Made = TypeVar("Made")


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
    shared; another number of PyTorch's threads may change the last digits of the scores. Of the whole archive nothing
    but the paths is held in memory.

    Args:
        sources: see :func:`monai_ddad.archive.listing.list_archive`.
        output: the Parquet file to write. Unreadable items go to ``<stem>_unreadable.parquet`` beside it.
        bundle, models_dir, precision, runtime: see :class:`monai_ddad.inference.Predictor`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None takes GPUs if there are any, one a process of the node.
        alpha, score: false-positive rate and deciding score; None takes the model's.
        file_names: add the paths, which may tell who a patient is.
        num_workers: decoding processes; None takes one a core, 0 decodes in this process.
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
        predictor = _predictor(bundle, models_dir, device, precision, alpha, score, runtime)
        modalities = predictor.reading.read.modalities
        volumes = modalities is None or not set(VOLUMES).isdisjoint(modalities)

        def begin() -> tuple[Parts, Listing, list[int]]:
            listing = list_archive(sources, volumes)
            plan = _plan(listing, predictor, Path(bundle), models_dir)
            parts = Parts(output, plan | {"precision": precision, "runtime": runtime})
            held.enter_context(parts.lock())
            return parts, listing, parts.begin(overwrite)

        parts, listing, todo = _from_first(begin)
        _score(predictor, parts, listing, todo, num_workers)
        idist.barrier()
        if idist.get_rank() > 0:
            return None
        parts.join(listing, file_names)
        scored, unreadable = parts.end()
        logger.info(f"{scored} images scored, {unreadable} cannot be read.")
        return scored, unreadable


@contextmanager
def _processes() -> Iterator[None]:
    """Join the processes of ``torchrun`` where this is one of them."""
    joining = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    if joining:  # idist.initialize would take GPU number local_rank, and there may be fewer
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        if joining:
            idist.finalize()


def _predictor(
    bundle: str | os.PathLike[str],
    models_dir: str | os.PathLike[str] | None,
    device: str | None,
    precision: str,
    alpha: float | None,
    score: str | None,
    runtime: str,
) -> Predictor:
    if not (Path(bundle) / "configs" / "inference.json").is_file():
        raise DataError("the bundle is no folder with configs/inference.json: give one such as bundles/ddad_cxr.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise DataError(f"alpha must be a rate in [0, 1], got {alpha}.")
    settings: dict[str, Any] = {"alpha": alpha, "score": score}
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return Predictor(bundle, models_dir, _device(device), precision, runtime, **given)
    except CheckpointError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:  # a setting; MONAI wraps those of the network
        reason = root_cause(error)
        if not isinstance(reason, (ImportError, ValueError)):
            raise
        raise DataError(str(reason)) from None


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DataError(f"the device must be cpu, cuda or cuda with a number (cuda:1), got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise DataError(f"the device must be cpu or cuda, got {device.type}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError("PyTorch finds no GPU: leave --device out, or give --device cpu.")
    if device.type == "cuda":
        number = torch.cuda.device_count()
        index = int(os.environ.get("LOCAL_RANK", "0")) % number if device.index is None else device.index
        if index >= number:
            raise DataError(f"PyTorch finds {number} GPUs, which count from 0, and the device is {name}.")
        return torch.device("cuda", index)
    return device


def _plan(
    listing: Listing, predictor: Predictor, bundle: Path, models_dir: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Return what the result depends on; see :class:`~monai_ddad.archive.parts.Parts`."""
    models = bundle / "models" if models_dir is None else Path(models_dir)
    return {
        "items": len(listing),
        "chunks": len(listing.chunks),
        "chunk_files": CHUNK,
        "listing": listing.digest(),
        "model": _sha256(weights_file(models)),
        "preparation": _sha256(bundle / "configs" / "inference.json", models / "run.json"),
        "score": predictor.network.score,
        "alpha": predictor.alpha,
        "device": predictor.device.type,
        "version": __version__,
    }


def _sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def _from_first(make: Callable[[], Made]) -> Made:
    """Return what the first process makes; the others end where it fails, which it alone reports."""
    if idist.get_world_size() == 1:
        return make()
    found: list[Any] = [None]
    try:
        if idist.get_rank() == 0:
            found = [make()]
    finally:
        torch.distributed.broadcast_object_list(found, src=0)
    if found[0] is None:
        raise SystemExit(1)
    return found[0]


def _score(predictor: Predictor, parts: Parts, listing: Listing, todo: list[int], num_workers: int | None) -> None:
    """Score the chunks of this process."""
    processes, rank = idist.get_world_size(), idist.get_rank()
    done = len(listing) - sum(len(listing.chunks[number]) for number in todo)
    if done and rank == 0:
        logger.info(f"{done} of {len(listing)} images were done by an earlier call.")
    left = todo[rank::processes]
    workers = available_cores() if num_workers is None else num_workers
    names, starts = predictor.network.map_names, listing.starts
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
            results = predictor.predict(read.dataset())
            parts.write(read.number, make_part(starts[read.number], number, names, results, read.errors))
            left.remove(read.number)
            progress.update(number)

    with progress:
        while left:
            with suppress(ReaderKilledError), notice_kill():
                score(read_chunks(listing, list(left), predictor.transform, workers))
            if left:
                logger.warning(
                    "A process that reads images was killed: what it had is read again, each in one of its own."
                )
                suspects = left[: workers * PREFETCH + 1]  # being read, and being scored
                score(read_carefully(listing, number, predictor.transform) for number in suspects)
